"""A robot's conversation with the cloud: presence, activations, receipts and what comes back of metrics."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from broker import topics
from broker.codec import pack, samples_per_message, unpack_as
from broker.errors import MalformedMessage, NameTaken
from broker.link import Delivery, Link
from broker.messages import (
    HEARTBEAT_SECONDS,
    ActivationBatch,
    Receipt,
    RobotMetrics,
    RobotState,
    TrainerMetrics,
    TrainerState,
)
from broker.quantize import Quantized, pack_activations
from hierarchy.command_line import SparseLog
from robot_edge.outbox import Outbox

# Messages on the way at once: enough to fill a link of 20 ms round trip, little enough for a trainer with 50 robots.
WINDOW = 16
# What a robot holds for a trainer that is away: at 512 bytes an image, half an hour at 70 images/s.
OUTBOX_BYTES = 64_000_000
# Goodput is measured over the receipts of the last seconds.
GOODPUT_SECONDS = 5.0
# Different reasons for a rejection that are logged; a trainer that invents more would only fill the log.
MOST_REASONS = 32

log = logging.getLogger("robot-edge")


def will(robot: str, state: RobotState) -> tuple[str, bytes]:
    """Return the topic and payload that say this robot is gone."""
    return topics.topic("robot", robot, "state"), pack(dataclasses.replace(state, online=False))


class Uplink:
    """Everything a robot says and hears. Call pump() often: all that happens, happens there, on the caller's thread."""

    def __init__(
        self,
        link: Link,
        robot: str,
        state: RobotState,
        *,
        outbox_bytes: int = OUTBOX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = state
        self.outbox = Outbox(WINDOW, outbox_bytes)
        self.figures: TrainerMetrics | None = None
        self.messages_sent = 0
        self.messages_rejected = 0
        self.bytes_sent = 0
        self._link = link
        self._robot = robot
        self._clock = clock
        self._sequence = 0
        self._trainers: dict[str, TrainerState] = {}
        self._namesake: RobotState | None = None
        self._namesake_until = 0.0
        self._connection = 0
        self._joined_connection = 0
        self._next_heartbeat = 0.0
        self._receipted: deque[tuple[float, int]] = deque()
        self._reasons: set[str] = set()
        self._garbage = SparseLog(log)
        # In this order: a namesake's retained state comes in before the trainer's state lets us begin.
        for filter_ in (
            topics.topic("robot", robot, "state"),
            topics.topic("robot", robot, "receipt"),
            topics.topic("trainer", topics.ANYONE, "metrics"),
            topics.topic("trainer", topics.ANYONE, "state"),
        ):
            link.subscribe(filter_)

    @property
    def trainer_online(self) -> bool:
        """Whether a trainer is there to send to."""
        return self._link.connected and any(trainer.online for trainer in self._trainers.values())

    @property
    def waits_for(self) -> str:
        """What is missing before activations can go out, for people; empty when nothing is."""
        if not self._link.connected:
            return f"the broker ({self._link.trouble})"
        if not self.trainer_online:
            return "a cloud trainer (cloud-trainer run --broker with the same URL)"
        if self._namesake:
            return f"the name {self._robot!r}, which another robot seems to use"
        return ""

    @property
    def goodput(self) -> float:
        """Bytes a second that were receipted lately."""
        now = self._clock()
        while self._receipted and self._receipted[0][0] < now - GOODPUT_SECONDS:
            self._receipted.popleft()
        return sum(size for _, size in self._receipted) / GOODPUT_SECONDS

    def pump(self, timeout: float = 0.0) -> None:
        """Read what came, waiting up to timeout seconds for it, and send what is due.

        Raises NameTaken where another robot with this name is online.
        """
        while (delivery := self._link.receive(timeout)) is not None:
            timeout = 0.0
            self._note_connection()
            try:
                self._read(delivery)
            except MalformedMessage as error:
                self._garbage.warn(f"ignoring a message on {delivery.topic}: {error}")
        self._note_connection()
        now = self._clock()
        if self._namesake and now > self._namesake_until:
            log.warning("no sign of life from the other robot %r: taking the name over", self._robot)
            self._namesake = None
        if self.waits_for:
            return
        if self._joined_connection != self._link.connections or now >= self._next_heartbeat:
            self._announce(now)
        for sequence, payload in self.outbox.due(now):
            if not self._link.publish(topics.topic("robot", self._robot, "activations"), payload, qos=1):
                break
            self.outbox.sent(sequence, now)

    def send(
        self,
        quantized: Quantized,
        names: Sequence[str],
        *,
        evaluation: int = 0,
        progress: float | None = None,
        edge_version: int = 0,
    ) -> None:
        """Put labelled activations into the outbox, as few messages as the broker's bound allows."""
        most = samples_per_message(self.state.split, classes=len(set(names)))
        parts = -(-len(names) // most)
        for chosen in np.array_split(np.arange(len(names)), parts):
            part = slice(int(chosen[0]), int(chosen[-1]) + 1)
            classes = tuple(dict.fromkeys(names[part]))
            payload = pack(
                ActivationBatch(
                    boot=self.state.boot,
                    sequence=self._sequence,
                    split=self.state.split.fingerprint,
                    evaluation=evaluation,
                    progress=progress,
                    edge_version=edge_version,
                    classes=classes,
                    labels=np.array([classes.index(name) for name in names[part]], np.uint16),
                    activations=pack_activations(quantized[part]),
                )
            )
            self.outbox.put(self._sequence, payload, samples=0 if evaluation else len(names[part]))
            self._sequence += 1
            if evaluation == 0:
                self.messages_sent += 1
                self.bytes_sent += len(payload)

    def publish_metrics(self, metrics: RobotMetrics) -> None:
        """Tell whoever listens how the robot is doing."""
        if self._joined_connection:  # else the name may be another robot's
            self._link.publish(topics.topic("robot", self._robot, "metrics"), pack(metrics))

    def close(self) -> None:
        """Say goodbye."""
        self._link.close(farewell=will(self._robot, self.state) if self._joined_connection else None)

    def _note_connection(self) -> None:
        """On a new connection forget the trainers: where they are online, their states are about to come in again."""
        if self._connection != self._link.connections:
            self._connection = self._link.connections
            self._trainers.clear()

    def _announce(self, now: float) -> None:
        topic = topics.topic("robot", self._robot, "state")
        if self._link.publish(topic, pack(self.state), qos=1, retain=True):
            self._joined_connection = self._link.connections
            self._next_heartbeat = now + HEARTBEAT_SECONDS

    def _read(self, delivery: Delivery) -> None:
        topic = topics.parse(delivery.topic)
        match topic.role, topic.channel:
            case "robot", "state":
                self._read_namesake(unpack_as(RobotState, delivery.payload), delivery.retained)
            case "robot", "receipt":
                self._read_receipt(unpack_as(Receipt, delivery.payload))
            case "trainer", "state":
                self._read_trainer(topic.name, unpack_as(TrainerState, delivery.payload))
            case "trainer", "metrics":
                figures = unpack_as(TrainerMetrics, delivery.payload)
                if (figures.robot, figures.boot) == (self._robot, self.state.boot):
                    self.figures = figures

    def _read_namesake(self, other: RobotState, retained: bool) -> None:
        """Of two robots with one name the one that started first stays."""
        if other.boot == self.state.boot:
            return
        if not other.online:
            self._namesake = None
        elif self._joined_connection and (other.started, other.boot) > (self.state.started, self.state.boot):
            self._next_heartbeat = 0.0  # it has overwritten our retained state
        elif retained:
            # Perhaps a robot that died when its broker did, so that its last will never came: wait for a heartbeat.
            self._namesake, self._namesake_until = other, self._clock() + 2.5 * HEARTBEAT_SECONDS
        else:
            raise NameTaken(
                f"another robot named {self._robot!r} is online (boot {other.boot}): give this one its own --robot name"
            )

    def _read_trainer(self, name: str, trainer: TrainerState) -> None:
        before = self._trainers.get(name)
        self._trainers[name] = trainer
        if trainer.online and not (before and before.online and before.boot == trainer.boot):
            # It has come, or come back. What was on the way is lost with its connection, or ours, or the broker; and a
            # new trainer process has not seen what the old one took but did not finish.
            self._next_heartbeat = 0.0
            self.outbox.send_all_again()

    def _read_receipt(self, receipt: Receipt) -> None:
        if receipt.boot != self.state.boot:
            return
        size = self.outbox.receipted(receipt.sequence)
        if size is None:
            return
        self._receipted.append((self._clock(), size))
        if receipt.outcome == "rejected":
            self.messages_rejected += 1
            if receipt.reason not in self._reasons and len(self._reasons) < MOST_REASONS:
                self._reasons.add(receipt.reason)
                log.warning("the trainer rejects what we send: %s", receipt.reason)
