from __future__ import annotations

import io
import re
from collections.abc import Sequence

import pytest
from rich.console import Console

from hierarchy.runtime.progress import LINE_SECONDS, Pace, RunProgress, duration, fitting

FIGURES = [
    "exit 71.3 %",
    "cloud 80.1 %",
    "link up, 1,234 wait",
    "123/s",
    "loss 0.71, cloud 0.55",
    "147 B/image, 2 bits",
]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(width: int, steps: Sequence[int], *, terminal: bool, total: int | None = 12_000) -> str:
    """What is printed of a run of a step a second."""
    file, clock = io.StringIO(), Clock()
    console = Console(file=file, width=width, force_terminal=terminal, color_system=None, legacy_windows=False)
    with RunProgress(total, console=console, clock=clock) as progress:
        for done in steps:
            clock.now += 1
            progress.show(done, FIGURES)
    return file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 132])
def test_progress_and_time_left_fit_the_terminal(width: int) -> None:
    printed = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", shown(width, [1000, 1100, 1200], terminal=True))
    last = [line for line in re.split(r"[\r\n]", printed) if line.strip()][-1]
    assert "1,200/12,000 (10%) images, 1:48 min left" in last
    assert "exit 71.3 %" in last
    assert ("123/s" in last) == (width > 80)
    assert len(last.rstrip()) <= width


def test_without_a_terminal_there_is_a_line_now_and_then() -> None:
    lines = shown(80, range(0, 1200, 100), terminal=False).splitlines()
    assert len(lines) == -(-12 // int(LINE_SECONDS))
    assert lines[0] == "0/12,000 (0%) images | " + " | ".join(FIGURES)
    assert lines[1].startswith("500/12,000 (4%) images, 1:55 min left | ")


def test_what_has_no_end_has_no_share_and_no_time_left() -> None:
    line = shown(80, [5], terminal=False, total=None)
    assert line.startswith("5 images | ")


def test_names_are_text() -> None:
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, color_system=None)
    with RunProgress(None, console=console) as progress:
        progress.show(1, ["sees on/off [/switch] [red]x"])
    assert "sees on/off [/switch] [red]x" in file.getvalue()


def test_the_pace_is_that_of_the_last_minute() -> None:
    pace = Pace(10_000)
    assert pace.seconds_left(0, 0.0) is None
    for second in range(1, 100):
        pace.seconds_left(second, float(second))
    for second in range(100, 300):
        left = pace.seconds_left(100 + 10 * (second - 99), float(second))
    assert left == pytest.approx((10_000 - 2100) / 10, rel=0.01)
    assert pace.seconds_left(10_000, 400.0) is None


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59, "59 s"), (61, "1:01 min"), (3700, "1:01 h"), (10**6, "12 days")]
)
def test_a_time_as_people_say_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_the_first_figures_are_the_last_to_go() -> None:
    assert fitting("head", ["one", "two"], 9) == "head"
    assert fitting("head", ["one", "two"], 15) == "head | one"
