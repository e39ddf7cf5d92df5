"""What a session says of how it is doing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from broker.wire.bounds import MAX_TOLD
from broker.wire.messages import TrainerMetrics
from cloud_trainer.logs import fleet_of, is_shared

if TYPE_CHECKING:
    from cloud_trainer.session.session import Session  # which imports torch


def figures(session: Session, robot: str) -> TrainerMetrics:
    """Return how a session is doing with a robot's samples. What only its caller knows is 0, or empty."""
    member = session.members[robot]
    its = TrainerMetrics(
        robot=robot,
        boot=member.state.boot,
        images=member.prequential.count,
        classes=len(session.trainer.classes),
        cloud_loss=session.network.loss,
        cloud_prequential=member.prequential.overall,
        cloud_recent=member.prequential.recent,
        cloud_accuracy=member.rounds.newest.accuracy,
        evaluation=member.rounds.number,
        evaluated=member.rounds.evaluated,
        messages_trained=member.messages_trained,
        messages_waiting=0,
        messages_rejected=0,
        quarantine="",
        began_alike=session.began_alike,
    )
    if not is_shared(session.log):
        return its
    right, tested = session.held_out
    return replace(
        its,
        classes=sum(name in member.taught for name in session.trainer.classes),
        fleet=fleet_of(session.log),
        fleet_robots=sum(not one.is_out for one in session.members.values()),
        fleet_classes=its.classes,
        fleet_images=session.images,
        fleet_accuracy=right / tested if tested else None,
        forgotten=tuple(member.forgotten)[-MAX_TOLD:],
    )
