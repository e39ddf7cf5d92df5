from __future__ import annotations

from broker.link.memory import MemoryBroker, MemoryLink
from broker.wire import topics
from broker.wire.codec import unpack_as
from broker.wire.messages import TrainerMetrics
from cloud_trainer.messages.other_trainers import OtherTrainers
from cloud_trainer.messages.outgoing import Outgoing
from tests.cloud_trainer.world import TRAINER


def test_metrics_go_to_the_robot_alone_and_to_whoever_watches_them_all() -> None:
    broker = MemoryBroker()
    robot, other, dashboard = (MemoryLink(broker) for _ in range(3))
    robot.subscribe(topics.cloud_metrics_topic("r1", topics.ANYONE))
    other.subscribe(topics.cloud_metrics_topic("r2", topics.ANYONE))
    dashboard.subscribe(topics.topic("trainer", topics.ANYONE, "metrics"))
    outgoing = Outgoing(TRAINER, "t1-3", MemoryLink(broker), OtherTrainers("t1-3", TRAINER), {})
    outgoing.turn_away("r1", "b" * 16, "no room")
    told, shown = robot.receive(0), dashboard.receive(0)
    assert told is not None
    assert shown is not None
    assert topics.trainer_of(told.topic) == "t1-3"
    assert told.payload == shown.payload
    assert unpack_as(TrainerMetrics, told.payload).quarantine == "no room"
    assert (robot.receive(0), other.receive(0), dashboard.receive(0)) == (None, None, None)
