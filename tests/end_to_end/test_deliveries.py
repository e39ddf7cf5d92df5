"""How much a broker delivers to each robot of a fleet: what is for it, however many robots there are."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from broker.link.base import Deliveries
from broker.link.inbox import MESSAGES_PER_SECOND, Delivery
from broker.link.mqtt import MqttLink
from broker.link.through import ThroughLink
from broker.local.server import start_local_broker
from broker.wire import topics
from broker.wire.codec import pack
from broker.wire.messages import Receipt, SplitSpec, TrainerState
from cloud_trainer.messages.other_trainers import OtherTrainers
from cloud_trainer.messages.outgoing import Outgoing
from robot_edge.uplink.outbox import Outbox
from robot_edge.uplink.uplink import Uplink
from tests.messages import robot_state

TIMEOUT_S = 60
SPLIT = SplitSpec(backbone="resnet18", cut="layer1", image_size=16, bits=8, bottleneck=2, shape=(2, 3, 3))
STATE = robot_state(SPLIT)
TRAINER = TrainerState(boot="1" * 16, started=1.0, online=True, trouble="", metrics_by_robot=True)
ROUNDS = 20


class CountingLink(ThroughLink):
    """Counts what is delivered, by the topic's channel."""

    def __init__(self, link: MqttLink) -> None:
        super().__init__(link)
        self.delivered: Counter[str] = Counter()

    def mailbox(self, topic_filter: str, per_second: float = MESSAGES_PER_SECOND) -> Deliveries:
        return self._link.mailbox(topic_filter, per_second)

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        return self._link.publish(topic, payload, qos=qos, retain=retain)

    def receive(self, timeout: float) -> Delivery | None:
        delivery = self._link.receive(timeout)
        if delivery:
            self.delivered[topics.parse(delivery.topic).channel] += 1
        return delivery

    def close(self, farewell: tuple[str, bytes] | None = None) -> None:
        self._link.close(farewell)


class Fleet:
    """Robots at a broker, and what a trainer says there. Nothing is trained."""

    def __init__(self, stack: ExitStack, url: str, folder: Path, trainer: TrainerState, count: int) -> None:
        name = f"counting-{count}-{trainer.metrics_by_robot}"
        self._cloud = MqttLink(url, name)
        stack.callback(self._cloud.close)
        self.robots = [f"{name}-{number}" for number in range(count)]
        self.links = [CountingLink(MqttLink(url, robot)) for robot in self.robots]
        self.uplinks = []
        for robot, link in zip(self.robots, self.links, strict=True):
            outbox = Outbox(folder / f"{robot}.db", boot=STATE.boot, limit=10**6)
            stack.callback(outbox.close)
            self.uplinks.append(Uplink(link, robot, STATE, outbox))
            stack.callback(self.uplinks[-1].close)
        self._outgoing = Outgoing(trainer, name, self._cloud, OtherTrainers(name, trainer), {})
        self.until("connection", lambda: self._cloud.connected)
        self._outgoing.beat(time.monotonic())
        self.until("joining", lambda: all(uplink.presence.joined for uplink in self.uplinks))

    def until(self, what: str, condition: Callable[[], bool]) -> None:
        """Let robots read what comes until the condition holds."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, f"no {what} within {TIMEOUT_S} s"
            for uplink in self.uplinks:
                uplink.pump(0.01)

    def tell_each(self) -> None:
        """Let the trainer say metrics of each robot."""
        for robot in self.robots:
            self._outgoing.turn_away(robot, STATE.boot, "no room")

    def receive_all(self) -> None:
        """Read all that was said up to now."""
        receipt = pack(Receipt(boot=STATE.boot, sequence=0, outcome="accepted", reason="", held=0.0))
        for robot in self.robots:
            self._cloud.publish(topics.topic("robot", robot, "receipt"), receipt, qos=1)
        self.until("receipt", lambda: all(link.delivered["receipt"] for link in self.links))


@pytest.mark.mosquitto
@pytest.mark.parametrize(("count", "by_robot"), [(2, True), (10, True), (10, False)])
def test_metrics_are_delivered_to_the_robot_that_they_are_about(tmp_path: Path, count: int, by_robot: bool) -> None:
    """Behind a trainer of before, each robot gets what is for all of them."""
    trainer = dataclasses.replace(TRAINER, metrics_by_robot=by_robot)
    with ExitStack() as stack:
        url = stack.enter_context(start_local_broker(backend="mosquitto")).url  # nobody else's trainer is at this one
        fleet = Fleet(stack, url, tmp_path, trainer, count)

        def all_hear() -> bool:
            fleet.tell_each()
            return all(link.delivered["cloud-metrics" if by_robot else "metrics"] for link in fleet.links)

        fleet.until("subscription", all_hear)
        fleet.receive_all()
        for link in fleet.links:
            link.delivered.clear()
        for _ in range(ROUNDS):
            fleet.tell_each()
        fleet.receive_all()
        assert [link.delivered["cloud-metrics"] for link in fleet.links] == [ROUNDS] * count
        for_all = 0 if by_robot else ROUNDS * count
        assert [link.delivered["metrics"] for link in fleet.links] == [for_all] * count
