"""summary.json of a trainer: each robot's figures, and all robots' together. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from broker.wire.messages import RobotMetrics, TrainerMetrics
from cloud_trainer.logs import is_shared
from hierarchy.continual import AccuracyRounds

# Figures that add up over robots; the others are averaged, each robot weighing as many images as it sent.
SUMS = {"images", "images_per_second", "messages_sent", "messages_trained", "messages_rejected", "dropped"}
MEANS = {
    "exit_accuracy",
    "cloud_accuracy",
    "exit_prequential",
    "cloud_prequential",
    "bytes_per_image",
    "raw_bytes_per_image",
    "jpeg_bytes_per_image",
}


def fleet_summary(
    trained: Mapping[str, TrainerMetrics],
    reported: Mapping[str, RobotMetrics],
    classes: Mapping[str, Sequence[str]],
    by_class: Mapping[str, Mapping[str, float]],
    rounds: Mapping[str, AccuracyRounds],
    undecodable: int,
    logs: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Join what the trainer knows of each robot with what the robot last said of itself.

    undecodable: messages that were rejected before they could be told to a session.
    logs: that robots belong to where that is not their own; a fleet's figures are in ``fleets``, by log.
    """
    robots: dict[str, dict[str, Any]] = {}
    fleets: dict[str, dict[str, Any]] = {}
    for robot, figures in trained.items():
        said = dataclasses.asdict(reported[robot]) if robot in reported else {}
        # What both count, the trainer knows first-hand; its images are those that arrived.
        values = {**said, **dataclasses.asdict(figures)}
        robots[robot] = {
            "classes": list(classes[robot]),
            **{name: values.get(name) for name in sorted(SUMS | MEANS)},
            "cloud_accuracy_by_class": dict(by_class[robot]),
            **rounds[robot].figures("cloud"),
        }
        if is_shared(log := (logs or {}).get(robot, robot)):
            its = fleets.setdefault(log, {"robots": []})
            its["robots"].append(robot)
            its |= {"images": figures.fleet_images, "classes": list(classes[robot])}
            its["cloud_accuracy"] = figures.fleet_accuracy
    return _with_totals(robots, fleets, undecodable)


def _with_totals(
    robots: dict[str, dict[str, Any]], fleets: dict[str, dict[str, Any]], undecodable: int
) -> dict[str, Any]:
    total: dict[str, Any] = {"classes": sorted({name for values in robots.values() for name in values["classes"]})}
    for name in sorted(SUMS):
        total[name] = _sum([values[name] for values in robots.values()])
    total["messages_rejected"] += undecodable
    for name in sorted(MEANS):
        total[name] = _mean([(values[name], values["images"]) for values in robots.values()])
    return {**total, "robots": robots, **({"fleets": fleets} if fleets else {})}


def _sum(values: list[float | None]) -> float | None:
    """Return the sum of what is known: what no robot has said is not known, which is not 0."""
    known = [value for value in values if value is not None]
    return sum(known) if known or not values else None


def _mean(values: list[tuple[float | None, int]]) -> float | None:
    known = [(value, weight) for value, weight in values if value is not None]
    weight = sum(weight for _, weight in known)
    return sum(value * share for value, share in known) / weight if weight else None
