from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import flags
import pytest
from api import pages
from links import BrokenLink, led_to_pages

from robot_edge.run.config import RobotConfig

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("source", "link", "expected"),
    [
        ("README.md", "[a](docs/protocol.md#topics)", "[a](protocol.md#topics)"),
        ("README.md", "[a](ARCHITECTURE.md)", "[a](architecture.md)"),
        ("docs/results/codec.md", "[a](../../ARCHITECTURE.md)", "[a](../architecture.md)"),
        ("docs/pages.md", "![a](images/robot-dark.png)", "![a](images/robot-dark.png)"),
        ("docs/scale.md", "[`a`](../broker/wire/codec.py)", "`a`"),
        ("README.md", "`a\nb` [c](docs/scale.md) `d`", "`a\nb` [c](scale.md) `d`"),
        ("docs/scale.md", "[a](#here) and [b](https://example.org/x)", "[a](#here) and [b](https://example.org/x)"),
        ("docs/scale.md", "`[a](gone.md)`", "`[a](gone.md)`"),
        ("docs/scale.md", "```\n[a](gone.md)\n```", "```\n[a](gone.md)\n```"),
    ],
)
def test_links_of_the_repository_lead_to_pages_of_the_site(source: str, link: str, expected: str) -> None:
    assert led_to_pages(link, source, ROOT) == expected


@pytest.mark.parametrize("target", ["gone.md", "../gone.py", "htp://example.org", "https:example.org"])
def test_a_broken_link_is_an_error(target: str) -> None:
    with pytest.raises(BrokenLink, match=r"docs/scale\.md: .*" + target.lstrip(".")):
        led_to_pages(f"see [this]({target})", "docs/scale.md", ROOT)


def test_every_setting_of_a_robot_is_on_its_page() -> None:
    page = flags.flags("robot-edge", "robot_edge")
    run = page.split("## robot-edge run")[1].split("\n## ")[0]
    assert not [name for name in names_of(RobotConfig) if not re.search(f"`--{name.replace('_', '-')}[ `]", run)]


def names_of(group: type) -> list[str]:
    """Return the names of all fields, those of groups in place of the groups."""
    names: list[str] = []
    for field in dataclasses.fields(group):
        inner = getattr(field.default_factory, "__dataclass_fields__", None)
        names += names_of(field.default_factory) if inner else [field.name]  # type: ignore[arg-type]
    return names


def test_the_api_is_read_from_the_code() -> None:
    page = pages(ROOT)["reference/python.md"]
    assert "### Frame\n\n```python\nclass Frame\n" in page
    assert "- `image`: uint8, (height, width, 3), RGB" in page
