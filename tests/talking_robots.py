"""Robots that only talk: states, activations that are made up, and what is not receipted once more."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from broker.link.mqtt import MqttLink
from broker.wire import topics
from broker.wire.codec import pack, unpack
from broker.wire.messages import HEARTBEAT_SECONDS, Receipt, RobotState, TrainerMetrics
from tests.cloud_trainer.world import STATE, batches

RESEND_SECONDS = 3.0
POLL_SECONDS = 0.02


class Talker:
    """A robot. waiting: messages without a receipt, by number. resent: those that had none after some seconds.

    receipt_seconds: of each receipt, from when its message was sent first.
    """

    def __init__(self, url: str, name: str, trainer: str = "trainer", state: RobotState = STATE) -> None:
        self.name = name
        self.boot = secrets.token_hex(8)
        self.state = replace(state, boot=self.boot, run=secrets.token_hex(8), started=time.time())
        self.waiting: dict[int, bytes] = {}
        self.receipted: set[int] = set()
        self.metrics: TrainerMetrics | None = None
        self.receipt_seconds: list[float] = []
        self.trained_before = 0  # in a former process of the robot
        self.resent: set[int] = set()
        self._first_at: dict[int, float] = {}
        self._sent_at: dict[int, float] = {}
        self._said_at = 0.0
        self.link = MqttLink(url, name)
        self.link.subscribe(topics.topic("robot", name, "receipt"))
        self.link.subscribe(topics.cloud_metrics_topic(name, trainer))

    def send(self, count: int, *, size: int = 4) -> None:
        """Send so many messages more."""
        first = len(self.receipted) + len(self.waiting)
        for batch in batches(count, first=first, size=size, boot=self.boot, split=self.state.split):
            self.waiting[batch.sequence] = pack(batch)

    def turn(self) -> None:
        """Say and hear what there is."""
        now = time.monotonic()
        while (delivery := self.link.receive(0.0)) is not None:
            self._hear(unpack(delivery.payload), now)
        if not self.link.connected:
            return
        if now >= self._said_at + HEARTBEAT_SECONDS:
            self._said_at = now
            self._say("state", pack(self.state))
        for number, payload in self.waiting.items():
            before = self._sent_at.get(number)
            if before is None or now >= before + RESEND_SECONDS:
                self.resent |= set() if before is None else {number}
                self._first_at.setdefault(number, now)
                self._sent_at[number] = now
                self._say("activations", payload)

    def _hear(self, message: object, now: float) -> None:
        if isinstance(message, Receipt) and message.boot == self.boot and message.sequence in self.waiting:
            assert message.outcome in {"accepted", "duplicate"}, message
            self.receipt_seconds.append(now - self._first_at[message.sequence])
            del self.waiting[message.sequence]
            self.receipted.add(message.sequence)
        elif isinstance(message, TrainerMetrics) and message.boot == self.boot:
            self.metrics = message

    def _say(self, channel: topics.Channel, payload: bytes) -> None:
        self.link.publish(topics.topic("robot", self.name, channel), payload, qos=1, retain=channel == "state")

    @property
    def done(self) -> bool:
        """Whether all that it has sent was trained on, as far as it was told."""
        its = self.metrics
        return (
            not self.waiting and its is not None and its.messages_trained == self.trained_before + len(self.receipted)
        )

    def come_back(self) -> None:
        """Say that it is there."""
        self._say("state", pack(self.state))

    def go(self) -> None:
        """Say that it has gone."""
        self._say("state", pack(replace(self.state, online=False)))


def talk(robots: Sequence[Talker], until: Callable[[], object], seconds: float, what: str = "") -> None:
    """Let robots talk until a condition holds, which has to be within so many seconds."""
    give_up = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < give_up, f"never came: {what}; {_stand(robots)}"
        for robot in robots:
            robot.turn()
        time.sleep(POLL_SECONDS)


def _stand(robots: Iterable[Talker]) -> dict[str, tuple[int, int, TrainerMetrics | None]]:
    return {one.name: (len(one.receipted), len(one.waiting), one.metrics) for one in robots}
