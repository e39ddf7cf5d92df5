from __future__ import annotations

from typing import Any

import pytest

from broker.wire.messages import RobotMetrics, TrainerMetrics
from cloud_trainer.summary import fleet_summary
from hierarchy.continual import AccuracyRounds


def trained(robot: str, **figures: Any) -> TrainerMetrics:
    values: dict[str, Any] = {
        "robot": robot,
        "boot": "b" * 16,
        "images": 100,
        "classes": 2,
        "cloud_loss": 0.5,
        "cloud_prequential": 0.5,
        "cloud_recent": 0.5,
        "cloud_accuracy": 0.8,
        "evaluation": 1,
        "evaluated": 10,
        "messages_trained": 7,
        "messages_waiting": 0,
        "messages_rejected": 1,
        "quarantine": "",
    }
    return TrainerMetrics(**{**values, **figures})


def reported(**figures: Any) -> RobotMetrics:
    values: dict[str, Any] = {
        "boot": "b" * 16,
        "images": 120,
        "classes": 2,
        "exit_loss": 0.5,
        "exit_prequential": 0.4,
        "exit_accuracy": 0.6,
        "images_per_second": 50.0,
        "bytes_per_image": 500.0,
        "raw_bytes_per_image": 3072.0,
        "jpeg_bytes_per_image": None,
        "messages_sent": 9,
        "messages_rejected": 1,
        "queued": 2,
        "dropped": 20,
    }
    return RobotMetrics(**{**values, **figures})


ROUNDS = {"r1": AccuracyRounds(), "r2": AccuracyRounds()}
CLASSES = {"r1": ["cat", "dog"], "r2": ["dog", "ant"]}


def test_counts_add_up_and_shares_are_weighed_by_images() -> None:
    summary = fleet_summary(
        {"r1": trained("r1", images=300, cloud_accuracy=0.9), "r2": trained("r2", cloud_accuracy=0.5)},
        {"r1": reported(), "r2": reported(bytes_per_image=100.0)},
        CLASSES,
        {"r1": {"cat": 1.0, "dog": 0.8}, "r2": {}},
        ROUNDS,
        undecodable=5,
    )
    assert summary["classes"] == ["ant", "cat", "dog"]
    assert summary["images"] == 400
    assert summary["images_per_second"] == 100
    assert (summary["messages_sent"], summary["messages_trained"], summary["dropped"]) == (18, 14, 40)
    assert summary["messages_rejected"] == 1 + 1 + 5
    assert summary["cloud_accuracy"] == pytest.approx(0.8)
    assert summary["bytes_per_image"] == pytest.approx(400)
    assert summary["jpeg_bytes_per_image"] is None
    assert summary["robots"]["r1"]["classes"] == ["cat", "dog"]
    assert summary["robots"]["r1"]["cloud_accuracy_by_class"] == {"cat": 1.0, "dog": 0.8}


def test_what_the_trainer_saw_itself_wins_over_what_a_robot_says() -> None:
    summary = fleet_summary({"r1": trained("r1")}, {"r1": reported()}, CLASSES, {"r1": {}}, ROUNDS, 0)
    assert summary["robots"]["r1"]["images"] == 100
    assert summary["robots"]["r1"]["exit_accuracy"] == 0.6


def test_robots_that_have_not_said_a_figure_do_not_count_for_it() -> None:
    trainers = {"r1": trained("r1"), "r2": trained("r2", cloud_accuracy=None, images=900)}
    summary = fleet_summary(trainers, {"r1": reported()}, CLASSES, {"r1": {}, "r2": {}}, ROUNDS, 0)
    assert summary["cloud_accuracy"] == pytest.approx(0.8)
    assert summary["exit_accuracy"] == pytest.approx(0.6)
    assert summary["messages_sent"] == 9
    assert summary["robots"]["r2"]["exit_accuracy"] is None


def test_a_trainer_without_robots_has_a_summary_too() -> None:
    summary = fleet_summary({}, {}, {}, {}, {}, undecodable=3)
    assert (summary["images"], summary["messages_rejected"], summary["cloud_accuracy"]) == (0, 3, None)
    assert summary["classes"] == []


def test_what_no_robot_has_said_is_not_known_rather_than_0() -> None:
    summary = fleet_summary({"r1": trained("r1")}, {}, CLASSES, {"r1": {}, "r2": {}}, ROUNDS, 0)
    assert summary["messages_sent"] is summary["dropped"] is None
    assert (summary["images"], summary["messages_trained"]) == (100, 7)
    assert fleet_summary({}, {}, {}, {}, {}, 0)["messages_sent"] == 0
