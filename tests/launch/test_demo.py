"""The demo shows fewer frames where the machine is slow."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from robot_edge.run.config import RobotConfig

LAUNCH = Path(__file__).parents[2] / "launch"


@pytest.fixture(scope="module")
def demo() -> dict[str, Any]:
    return runpy.run_path(str(LAUNCH / "demo.py"))


@pytest.mark.parametrize(("rate", "shown"), [(200.0, (9000, 64)), (34.0, (6800, 48))])
def test_a_slow_machine_is_shown_fewer_frames_in_as_many_steps(
    demo: dict[str, Any], rate: float, shown: tuple[int, int]
) -> None:
    assert demo["shown"](rate) == shown
    (frames, batch), (fewer, smaller) = demo["FULL"], demo["SLOW"]
    assert fewer / smaller == pytest.approx(frames / batch, rel=0.02)


def test_the_settings_say_the_same(demo: dict[str, Any]) -> None:
    frames, batch = demo["FULL"]
    assert f"images = {frames}\n" in (LAUNCH / "demo.toml").read_text()
    assert RobotConfig.from_flags(source="sim:").learning.batch == batch


def test_the_machine_is_measured(demo: dict[str, Any]) -> None:
    assert demo["whole_network_rate"]() > 0
