"""A sealed link: what it counts, whom it names, and what it says to an end that it cannot read."""

from __future__ import annotations

import pytest

from broker.link.memory import MemoryBroker, MemoryLink
from broker.link.sealed import SealedLink
from broker.security.payload_keys import PayloadKeys, TrainerKeys, new_master
from broker.security.sealing import Sealing
from broker.wire.bounds import SEALED
from broker.wire.topics import ANYONE, sender, topic

FLEET = TrainerKeys.of(new_master())
ACTIVATIONS, COMMAND, ASK = (topic("robot", "r1", one) for one in ("activations", "command", "ask"))
TRAINER = topic("trainer", "t1", "state")


def sealed(broker: MemoryBroker, keys: PayloadKeys, *filters: str) -> SealedLink:
    link = SealedLink(MemoryLink(broker), Sealing(keys))
    for one in filters:
        link.subscribe(one)
    return link


def test_what_is_refused_is_counted_by_sender_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    broker = MemoryBroker()
    trainer = sealed(broker, FLEET, ACTIVATIONS, COMMAND)
    trainer.know([sender("robot", "r1")])
    operator = MemoryLink(broker)
    for _ in range(3):
        operator.publish(ACTIVATIONS, b'{"kind": "robot-state"}')
        operator.publish(ACTIVATIONS, SEALED + b"\x01" + bytes(80))
    operator.publish(COMMAND, b"plain")
    assert trainer.receive(0) is None
    assert trainer.refused == {"unsealed": 4, "foreign": 3}
    assert trainer.dropped == 7
    assert trainer.take_dropped() == {sender("robot", "r1"): 6, COMMAND: 1}
    assert not trainer.take_dropped()
    said = [record.getMessage() for record in caplog.records]
    assert sorted(line.partition(" payloads")[0] for line in said) == [
        "robot r1 sends",
        "robot r1 sends",
        "who commands robot r1 sends",
    ]


def test_what_comes_into_a_mailbox_is_opened_and_refused_likewise() -> None:
    broker = MemoryBroker()
    trainer = sealed(broker, FLEET, topic("robot", ANYONE, "state"))
    asks = trainer.mailbox(topic("robot", ANYONE, "ask"))
    robot = sealed(broker, FLEET.of_robot("r1"), TRAINER)
    trainer.publish(TRAINER, b"online", retain=True)
    delivery = robot.receive(0)
    assert delivery is not None
    assert (delivery.payload, delivery.retained) == (b"online", True), "it names nobody, so it may be of former days"
    robot.publish(ASK, b"frame")
    MemoryLink(broker).publish(ASK, b"plain")
    robot.publish(ASK, b"another")
    came = [asks.take(0), asks.take(0), asks.take(0)]
    assert [one and one.payload for one in came] == [b"frame", b"another", None]
    assert trainer.refused == {"unsealed": 1}


def test_a_trainer_that_cannot_be_read_gets_a_sign_of_life() -> None:
    broker = MemoryBroker()
    robot = sealed(broker, FLEET.of_robot("r1"), TRAINER)
    spy = MemoryLink(broker)
    spy.subscribe(ACTIVATIONS)
    for _ in range(3):
        spy.publish(TRAINER, b'{"kind": "trainer-state"}')
    assert robot.receive(0) is None
    hello = spy.receive(0)
    assert hello is not None
    assert hello.payload[:1] == SEALED
    assert spy.receive(0) is None, "one a second, however much comes"
