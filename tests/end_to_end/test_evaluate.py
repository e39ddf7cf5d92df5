"""`robot-edge evaluate` as a user starts it: a run's exit alone, and asking a trainer over a real broker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.warm_start import run_warm

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Launcher, Program

# More than what a busy machine needs: what is tested is that answers come, not how fast.
PATIENT = ["--deadline", "10"]


def evaluate(robot: Program, *flags: str, missing: str = "") -> tuple[int, str]:
    return run_warm(["robot_edge", "evaluate", "--checkpoint", str(robot.run_dir), *flags], missing=missing)


def report(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return loaded


@pytest.fixture(scope="module", name="world")
def _world(mosquitto_url: str, launcher: Launcher, pictures: Path) -> tuple[str, Program, Program]:
    """A trainer that runs, and a robot that has ended."""
    trainer = launcher.trainer(mosquitto_url)
    flags = ["--phases", "red,green,blue", "--epochs", "3"]
    robot = launcher.robot(mosquitto_url, "evaluated", f"folder:{pictures}/train", *flags)
    assert robot.wait() == 0, robot.printed
    return mosquitto_url, robot, trainer


def test_the_exit_alone(world: tuple[str, Program, Program], pictures: Path, tmp_path: Path) -> None:
    _, robot, _ = world
    status, printed = evaluate(robot, "--source", f"folder:{pictures}/test", "--out", str(tmp_path / "out"))
    assert status == 0, printed
    figures = report(tmp_path / "out")
    assert (figures["frames"], figures["frames_of_other_classes"]) == (200, 50)
    assert figures["exit_accuracy"] > 0.8
    assert figures["exit_calibration_error"] < 0.3
    assert figures["exit_latency"]["p50_ms"] > 0
    assert (figures["cloud_accuracy"], figures["cascade_accuracy"]) == (None, None)
    assert (tmp_path / "out" / "threshold.png").stat().st_size > 1000
    assert "exit, on the robot" in printed


def test_without_matplotlib(world: tuple[str, Program, Program], pictures: Path, tmp_path: Path) -> None:
    few = ["--source", f"folder:{pictures}/test", "--images", "20", "--out", str(tmp_path)]
    status, printed = evaluate(world[1], *few, missing="matplotlib")
    assert status == 0, printed
    assert "no threshold.png, as matplotlib is not installed: pip install 'reflexarc[plot]'" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation.json"}
    assert "threshold.png" not in printed.splitlines()[-1]


def test_with_the_cloud(world: tuple[str, Program, Program], pictures: Path) -> None:
    url, robot, trainer = world
    few = ["--source", f"folder:{pictures}/test", "--images", "80"]
    status, printed = evaluate(robot, *few, "--broker", url, *PATIENT)
    assert status == 0, printed
    figures = report(robot.run_dir)
    assert figures["answered_by_the_cloud_in_time"] == 1
    assert figures["cloud_accuracy"] > 0.8
    assert figures["cascade_accuracy"] >= max(figures["cloud_accuracy"], figures["exit_accuracy"]) - 0.01
    assert figures["cloud_latency"]["p50_ms"] > figures["exit_latency"]["p50_ms"]
    status, printed = evaluate(robot, *few, "--broker", url, "--threshold", "1", *PATIENT)
    assert status == 0, printed
    assert report(robot.run_dir)["cascade_accuracy"] == pytest.approx(report(robot.run_dir)["cloud_accuracy"], abs=0.05)
    assert trainer.images("evaluated") == max(line["images"] for line in trainer.metrics), "nothing was learned"


def test_what_cannot_be_evaluated(world: tuple[str, Program, Program], pictures: Path, tmp_path: Path) -> None:
    _, robot, trainer = world
    source = ["--source", f"folder:{pictures}/test"]
    for folder, complaint in (
        (tmp_path, "there is no run with a checkpoint"),
        (trainer.run_dir, "is a run of another program"),
    ):
        status, printed = evaluate(robot, *source, "--checkpoint", str(folder))
        assert (status, complaint in printed) == (2, True), printed
    status, printed = evaluate(robot, *source, "--threshold", "high")
    assert (status, "use auto, or a number from 0 to 1" in printed) == (2, True), printed
