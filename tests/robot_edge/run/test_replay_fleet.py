"""A replay of a fleet's robot is sent the fleet's exit, tries it out at its end, and learns the same bits without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from broker.wire.codec import pack
from hierarchy.exit_rows import ExitRows, rows_of
from hierarchy.runtime.checkpoint import load_checkpoint
from robot_edge.evaluation.kept_exit import take_kept_exit
from robot_edge.evaluation.saved_predictor import remembering_predictor
from robot_edge.evaluation.saved_run import SavedRun
from robot_edge.fleet.exits import FleetStatus
from robot_edge.inference.predictor import Predictor
from robot_edge.run.checkpoint import LAYOUT
from robot_edge.run.config import WhichExit
from robot_edge.run.robot_run import RobotRun
from tests.fleet_exits import publish_to
from tests.robot_edge.run.test_replay import Run
from tests.robot_edge.run.test_replay import _close_files as _close_files
from tests.robot_edge.run.test_replay import _no_picture as _no_picture

pytestmark = pytest.mark.slow

STILL: dict[str, Any] = {
    "fleet": "dogs", "freeze": "all", "exit": "cut", "bottleneck": 0, "batch": 16,
    "phases": "mug,car", "images": 120, "held_out_every": 4,
}  # fmt: skip


def evaluated(folder: Path, run: RobotRun, which: WhichExit = "chosen") -> tuple[Predictor, FleetStatus | None]:
    """Return what an evaluation of a run's folder predicts with, and what it says of the fleet's exit."""
    saved, segment, split = load_checkpoint(folder / "checkpoint", LAYOUT), run.state.trainer.segment, run.state.split
    compute = run.state.trainer.learner.compute
    predictor = remembering_predictor(segment, split, compute, saved)
    names, encoding = run.state.memory.held_out.encodings()
    predictor.calibrate_encoded(segment.exit.head, encoding, names)
    loaded = SavedRun(segment=segment, split=split, held_out=[], checkpoint=saved)
    return predictor, take_kept_exit(folder, run.config.fleet, loaded, predictor, compute, which)


def replayed(path: Path, rows: ExitRows | None = None) -> Run:
    """Go through a replay to which an exit comes, if any."""
    run = Run(path, STILL)
    if rows:
        publish_to(run.robot, run.link._broker, rows, 7)
    run.all()
    return run


def test_an_exit_that_comes_to_a_replay_changes_nothing_of_it_and_is_tried_out(tmp_path: Path) -> None:
    alone = replayed(tmp_path / "alone")
    rows = rows_of(alone.trainer.segment.exit.head)
    beside = replayed(tmp_path / "beside", rows)
    for name, value in alone.weights().items():
        assert torch.equal(value, beside.weights()[name]), name
    assert [pack(one) for one in alone.link.batches] == [pack(one) for one in beside.link.batches]
    none: dict[str, Any] = {
        "fleet": "dogs",
        "version": 0,
        "coming": 0,
        "classes": 0,
        "elsewhere": 0,
        "refusal": "",
        "use": "fleet",
    }
    assert alone.summary()["fleet_exit"] == none
    assert beside.summary()["fleet_exit"] == none | {"version": 7, "classes": 2}
    assert [line["exit_version"] for line in beside.metrics()][-1] == 7

    predictor, status = evaluated(beside.path, beside.robot)
    assert status == FleetStatus(**beside.summary()["fleet_exit"])
    assert predictor.second
    predictor, status = evaluated(beside.path, beside.robot, "own")
    assert status == FleetStatus(**none | {"version": 7, "use": "own"})
    assert predictor.second is None
    beside.end()
    wrong = replayed(tmp_path / "wrong", replace(rows, classes=rows.classes[::-1]))
    assert "refused: with it" in FleetStatus(**wrong.summary()["fleet_exit"]).text
