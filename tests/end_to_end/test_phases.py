"""Classes that come in the middle of a run, from a folder and from the simulated camera, two robots at one trainer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Launcher, Program

# Frames that are trained on in each phase. The camera's scenes have 4 frames, and every tenth scene is held out, but
# for one in each phase that shows a class first.
FOLDER_PHASES = (80, 160)
SIM_PHASES = (148, 148)
SIM_HELD_OUT = 24


@dataclass(frozen=True, kw_only=True)
class PhasedRun:
    """A robot's run that is over, and what the trainer wrote down of it."""

    robot: Program
    status: int
    cloud_summary: dict[str, Any]
    cloud_metrics: list[dict[str, Any]]


@pytest.fixture(scope="module", name="runs")
def _runs(mosquitto_url: str, launcher: Launcher, pictures: Path) -> dict[str, PhasedRun]:
    trainer = launcher.trainer(mosquitto_url)
    colours = ["--phases", "red,green|red,green,blue,yellow", "--held-out", f"folder:{pictures}/test"]
    toys = [
        "--phases",
        "ball,block|ball,block,car,cone",
        "--images",
        str(sum(SIM_PHASES) + SIM_HELD_OUT),
        "--rehearse",
        "0",
        "--seed",
        "0",
    ]
    robots = {
        "folder": launcher.robot(mosquitto_url, "folder", f"folder:{pictures}/few", *colours),
        "sim": launcher.robot(mosquitto_url, "sim", "sim:", *toys),
    }
    statuses = {name: robot.wait() for name, robot in robots.items()}
    for name in robots:
        trainer.until_it_says(f"robot {name} has gone")
    assert trainer.interrupt() == 0
    return {
        name: PhasedRun(
            robot=robot,
            status=statuses[name],
            cloud_summary=trainer.summary["robots"][name],
            cloud_metrics=[line for line in trainer.metrics if line["robot"] == name],
        )
        for name, robot in robots.items()
    }


@pytest.mark.parametrize(("source", "phases"), [("folder", FOLDER_PHASES), ("sim", SIM_PHASES)])
def test_heads_grow_on_both_sides_when_classes_first_appear(
    runs: dict[str, PhasedRun], source: str, phases: tuple[int, int]
) -> None:
    run = runs[source]
    assert run.status == 0, run.robot.printed
    first_phase, images = phases[0], sum(phases)
    for lines in (run.robot.metrics, run.cloud_metrics):
        classes = [line["classes"] for line in lines]
        assert classes == sorted(classes)
        assert [line["classes"] for line in lines if line["images"] <= first_phase][-1] == 2
        assert (lines[-1]["classes"], lines[-1]["images"]) == (4, images)


@pytest.mark.parametrize(
    ("source", "old", "new"),
    [("folder", {"red", "green"}, {"blue", "yellow"}), ("sim", {"ball", "block"}, {"car", "cone"})],
)
def test_both_sides_know_all_classes_in_the_order_they_came(
    runs: dict[str, PhasedRun], source: str, old: set[str], new: set[str]
) -> None:
    for summary in (runs[source].robot.summary, runs[source].cloud_summary):
        assert set(summary["classes"][:2]) == old
        assert set(summary["classes"][2:]) == new


@pytest.mark.parametrize(("source", "phases"), [("folder", FOLDER_PHASES), ("sim", SIM_PHASES)])
def test_nothing_is_lost(runs: dict[str, PhasedRun], source: str, phases: tuple[int, int]) -> None:
    for summary in (runs[source].robot.summary, runs[source].cloud_summary):
        assert summary["images"] == sum(phases)
        assert summary["messages_sent"] == summary["messages_trained"] > 0
        assert summary["messages_rejected"] == summary["dropped"] == 0


def test_scenes_of_the_camera_are_held_out(runs: dict[str, PhasedRun]) -> None:
    summary = runs["sim"].robot.summary
    assert summary["held_out_images"] == SIM_HELD_OUT
    assert 0 <= summary["exit_accuracy"] <= 1
    assert 0 <= summary["cloud_accuracy"] <= 1


def test_rehearsal_keeps_the_old_classes_while_new_ones_are_learned(runs: dict[str, PhasedRun]) -> None:
    exit_right = runs["folder"].robot.summary["exit_accuracy_by_class"]
    cloud_right = runs["folder"].cloud_summary["cloud_accuracy_by_class"]
    for right in (exit_right, cloud_right):
        assert (right["red"] + right["green"]) / 2 > 0.6
        assert (right["blue"] + right["yellow"]) / 2 > 0.6
