"""Figures of an evaluation, from looks made up by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hierarchy.calibration import Calibration
from robot_edge.evaluation.evaluate import NamedFrames, _conclude
from robot_edge.evaluation.evaluation_report import FrameResult, report, threshold_points
from robot_edge.fleet.exits import FleetStatus
from robot_edge.run.config import EvaluateConfig


def one(label: str, exit_name: str, confidence: float, cloud_name: str | None = None, **changes: object) -> FrameResult:
    values = {
        "label": label,
        "taught": True,
        "exit_name": exit_name,
        "exit_confidence": confidence,
        "exit_logits": np.array([0.0, 1.0], np.float32),
        "unknown": False,
        "exit_seconds": 0.01,
        "cloud_name": cloud_name,
        "cloud_confidence": 0.9 if cloud_name else None,
        "cloud_seconds": 0.05 if cloud_name else None,
    }
    return FrameResult(**(values | changes))  # type: ignore[arg-type]


LOOKS = [
    one("cat", "cat", 0.9, "dog"),
    one("cat", "dog", 0.4, "cat"),
    one("dog", "cat", 0.3, None),
    one("dog", "dog", 0.8, "dog"),
    one("ant", "dog", 0.2, "cat", taught=False, unknown=True),
]


def test_the_unknown_is_told_by_what_it_was_judged_by() -> None:
    looks = [
        one("cat", "cat", 0.2, novelty=1.0),
        one("cat", "cat", 0.3, novelty=2.0),
        one("ant", "cat", 0.9, taught=False, unknown=True, novelty=7.0),
    ]
    curve, threshold = threshold_points(looks, 0.5)
    found = report(looks, Calibration(), curve, threshold, deadline=0.3, asked=False)
    assert found["unknown_auroc"] == 1


def test_with_a_cloud() -> None:
    curve, threshold = threshold_points(LOOKS, 0.5)
    assert threshold == 0.5
    found = report(LOOKS, Calibration(temperature=2.0), curve, threshold, deadline=0.3, asked=True)
    assert (found["frames"], found["frames_of_other_classes"]) == (5, 1)
    assert (found["exit_accuracy"], found["cloud_accuracy"]) == (0.5, pytest.approx(2 / 3))
    assert found["cascade_accuracy"] == 0.75, "the exit's word stands where the cloud says none"
    assert (found["answered_at_the_edge"], found["answered_by_the_cloud_in_time"]) == (0.4, 0.8)
    assert (found["taught_taken_for_unknown"], found["others_taken_for_unknown"]) == (0, 1)
    assert found["unknown_auroc"] == 1
    assert found["exit_latency"] == pytest.approx({"p50_ms": 10, "p99_ms": 10})
    assert found["cloud_latency"] == pytest.approx({"p50_ms": 50, "p99_ms": 50})
    assert found["cascade_latency"]["p50_ms"] == pytest.approx(50)
    assert found["cascade_latency"]["p99_ms"] > 250, "one waited for the deadline"
    at_half = next(point for point in found["curve"] if point["threshold"] == pytest.approx(0.5))
    assert (at_half["edge_share"], at_half["accuracy"]) == (0.5, 0.75)


def test_the_best_threshold_is_found() -> None:
    curve, threshold = threshold_points(LOOKS, None)
    assert 0.4 < threshold <= 0.9
    assert max(point.accuracy for point in curve) == 0.75


def test_the_exit_alone() -> None:
    of_the_fleet = np.zeros(3, np.float32)  # which tells more classes apart
    tested = [one("cat", "cat", 0.9), one("cat", "dog", 0.4, exit_logits=of_the_fleet)]
    curve, threshold = threshold_points(tested, None)
    found = report(tested, Calibration(), curve, threshold, deadline=0.3, asked=False)
    assert found["exit_accuracy"] == 0.5
    for name in ("cloud_accuracy", "cascade_accuracy", "cloud_latency", "cascade_latency", "unknown_auroc"):
        assert found[name] is None
    assert found["answered_at_the_edge"] == 1


def test_only_what_was_never_taught() -> None:
    tested = [one("ant", "dog", 0.2, taught=False, unknown=True)]
    found = report(tested, Calibration(), *threshold_points(tested, None), deadline=0.3, asked=False)
    assert (found["exit_accuracy"], found["others_taken_for_unknown"]) == (None, 1)


@pytest.mark.parametrize("stopped", [False, True])
def test_an_evaluation_that_was_stopped_replaces_none(
    stopped: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evaluation.json").write_text("a whole one")
    predictor: Any = SimpleNamespace(calibration=Calibration(temperature=2.0))
    config = EvaluateConfig(checkpoint=str(tmp_path), source="sim:")
    fleet = FleetStatus(fleet="lab", version=7, coming=0, classes=8, elsewhere=3, refusal="", use="fleet")
    named = NamedFrames(tested=LOOKS, predictor=predictor, classes=("mug",), fleet=fleet)
    _conclude(config, named, stopped=stopped)
    assert ((tmp_path / "evaluation.json").read_text() == "a whole one") is stopped
    printed = capsys.readouterr().out
    assert ("STOPPED" in printed) is stopped
    assert "Answered with: exit of fleet lab version 7: 8 classes, 3 taught elsewhere." in printed
    assert stopped or json.loads((tmp_path / "evaluation.json").read_text())["fleet_exit"]["version"] == 7
