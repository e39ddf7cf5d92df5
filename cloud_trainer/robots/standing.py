"""How training stands, for other threads than the one that trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from broker.wire.messages import SplitSpec, TrainerMetrics
from cloud_trainer.session.figures import figures

if TYPE_CHECKING:
    from cloud_trainer.session.session import Session  # which imports torch


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How training on a robot's samples stands.

    metrics: without what only the robot's owner knows. split: of its network. by_class, confusion: of held-out frames.
    """

    metrics: TrainerMetrics
    split: SplitSpec
    classes: tuple[str, ...]
    by_class: Mapping[str, float] = field(default_factory=dict)
    confusion: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def standings(session: Session, before: Mapping[str, Standing], only: str = "") -> dict[str, Standing]:
    """Return how each robot's training stands, with the details of before. only: the one that has changed, if one."""
    now = {
        robot: Standing(
            metrics=figures(session, robot),
            split=session.split,
            classes=session.trainer.classes,
            by_class=before[robot].by_class if robot in before else {},
            confusion=before[robot].confusion if robot in before else {},
        )
        for robot in ([only] if only in session.members else session.members)
    }
    return {**before, **now}


def detailed(session: Session, before: Mapping[str, Standing]) -> dict[str, Standing]:
    """Return the same with how well classes are told apart, which takes as long as there are pairs of them."""
    held_out = {robot: its.rounds.newest for robot, its in session.members.items()}
    return {
        robot: replace(one, by_class=held_out[robot].by_class, confusion=held_out[robot].confusion)
        for robot, one in before.items()
    }
