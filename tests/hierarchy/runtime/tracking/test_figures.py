"""Figures for trackers: their names, and confusions as pairs and tables."""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

from broker.wire.codec import unpack
from broker.wire.messages import RobotMetrics, TrainerMetrics
from hierarchy.runtime.tracking.figures import MAX_PAIRS, as_markdown, figures, of_classes, pairs

GOLDEN = Path(__file__).parents[3] / "golden"


def test_what_is_not_known_is_left_out() -> None:
    own = cast("RobotMetrics", unpack((GOLDEN / "robot-metrics.json").read_bytes()))
    cloud = cast("TrainerMetrics", unpack((GOLDEN / "trainer-metrics.json").read_bytes()))
    told = figures(own, cloud)
    assert told["exit/loss"] == own.exit_loss
    assert told["cloud/recent"] == cloud.cloud_recent
    assert told["uplink/queued"] == own.queued
    assert "exit/accuracy" not in told  # no test yet
    assert all(math.isfinite(one) for one in told.values())
    assert figures(None, None) == {}


def test_a_slash_in_a_name_begins_no_level() -> None:
    assert of_classes("exit", {"a/b": 0.5}) == {"exit/accuracy_of/a_b": 0.5}


def test_frequent_pairs_come_first_and_are_bounded() -> None:
    assert pairs({"cat": {"cat": 3, "": 5}, "dog": {"dog": 4}}) == [
        ("cat", "", 5),
        ("dog", "dog", 4),
        ("cat", "cat", 3),
    ]
    assert len(pairs({f"{row}": {f"{column}": 1 for column in range(101)} for row in range(101)})) == MAX_PAIRS


def test_few_classes_are_a_matrix() -> None:
    table = as_markdown(pairs({"a|b": {"a|b": 3, "dog": 1}, "dog": {"": 2}})).splitlines()
    assert table == [
        "| true \\ taken for | a/b | dog | (nothing) |",
        "| --- | --- | --- | --- |",
        "| a/b | 3 | 1 | 0 |",
        "| dog | 0 | 0 | 2 |",
    ]


def test_many_classes_are_a_list_of_what_was_wrong() -> None:
    confusion = {f"c{number}": {f"c{number}": 9, "c0": number} for number in range(1, 30)}
    table = as_markdown(pairs(confusion)).splitlines()
    assert table[:3] == ["| true | taken for | frames |", "| --- | --- | --- |", "| c29 | c0 | 29 |"]
    assert len(table) == 2 + 29
