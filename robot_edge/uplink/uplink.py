"""A robot's conversation with the cloud: presence, activations, receipts and what comes back of metrics."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from broker.errors import MalformedMessage, NameTaken, PayloadTooLarge
from broker.link.base import Link, redial_if_silent
from broker.link.inbox import Delivery
from broker.link.mailbox import Mailbox
from broker.wire import topics
from broker.wire.codec import SEND_LIMIT_BYTES, pack, samples_per_message, unpack_as
from broker.wire.messages import (
    AWAY_SECONDS,
    HEARTBEAT_SECONDS,
    ActivationBatch,
    Change,
    ClassEdit,
    Command,
    CommandResult,
    Probe,
    ProbeResult,
    Receipt,
    RobotMetrics,
    RobotState,
    TrainerMetrics,
    TrainerState,
)
from broker.wire.quantize import Quantized, pack_activations, unpack_activations
from hierarchy.runtime.command_line import SparseLog
from robot_edge.uplink.outbox import Outbox, Part
from robot_edge.uplink.pacing import Pace

# People give one at a time. More than these would be somebody who floods us.
COMMANDS_WAITING = 100
# Different reasons for a rejection that are logged; a trainer that invents more would only fill the log.
MOST_REASONS = 32
# Between two receipts a robot that trains makes a few messages at most. Twice a window of them is an outage.
MESSAGES_OF_A_LINK_THAT_KEEPS_UP = 128
# Nor does such a link need so long for what waits: three windows. A slow one needs minutes for far fewer messages.
SECONDS_OF_A_LINK_THAT_KEEPS_UP = 10.0
# Trainers that are remembered: names cost nothing where a broker lets anybody in. With their workers, four real ones.
MOST_TRAINERS = 64
# A trainer answers a probe at once, but the probe may have to wait for a slow link, or a busy computer.
PROBE_SECONDS = 30.0
# Messages that are cut while the main loop waits, and how often; each takes milliseconds.
CUT_AT_ONCE, CUT_SECONDS = 8, 0.2
# Between two lines about messages that were dropped unread.
FLOOD_REPORT_SECONDS = 5.0
# Our own heartbeat comes back from the broker. Where it has not for this long, the broker is to blame, or our rights at
# it, and not the trainer.
QUIET_SECONDS = 1.5 * HEARTBEAT_SECONDS

log = logging.getLogger("robot-edge")


def will(robot: str, state: RobotState) -> tuple[str, bytes]:
    """Return the topic and payload that say this robot is gone."""
    return topics.topic("robot", robot, "state"), pack(dataclasses.replace(state, online=False))


class Metadata(TypedDict):
    """What all parts of one message have in common, as an ActivationBatch names it."""

    split: str
    evaluation: int
    progress: float | None
    edge_version: int
    edits: int
    session: int
    again: bool


class Uplink:
    """Everything a robot says and hears. Call pump() often: all that happens, happens there, on the caller's thread."""

    def __init__(
        self,
        link: Link,
        robot: str,
        state: RobotState,
        outbox: Outbox,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = state
        self.outbox = outbox
        self.figures: TrainerMetrics | None = None
        self.commands: Mailbox[Command] = Mailbox(COMMANDS_WAITING)
        self._link = link
        self._robot = robot
        self._clock = clock
        self._sequence = 0
        self._pace = Pace()
        self._trainers: dict[str, TrainerState] = {}
        self._heard: dict[str, float] = {}  # when each trainer last said its state
        self._own_trainer = ""  # the one that last told us how our training goes
        self._namesake: RobotState | None = None
        self._namesake_until = 0.0
        self._connection = 0
        self._joined_connection = 0
        self._next_heartbeat = 0.0
        self._announced_at = float("-inf")
        self._quarantine = ""
        self._reasons: set[str] = set()
        self._garbage = SparseLog(log)
        self._floods = SparseLog(log)
        self._next_flood_report = self._next_cut = 0.0
        self._probe = 0  # number of the next one
        self._probes_until = math.inf
        self._uncut: set[int] = set()  # messages of one sample that the broker lets not through
        self._tell_apart()
        # In this order: a namesake's retained state comes in before the trainer's state lets us begin.
        for filter_ in (
            topics.topic("robot", robot, "state"),
            topics.topic("robot", robot, "receipt"),
            topics.topic("robot", robot, "command"),
            topics.topic("trainer", topics.ANYONE, "metrics"),
            topics.topic("trainer", topics.ANYONE, "state"),
        ):
            link.subscribe(filter_)
        # In a mailbox: access rules of an older version forbid to read it, and it can be done without.
        self._probe_results = link.mailbox(topics.topic("robot", robot, "probe-result"))

    @property
    def trainer_online(self) -> bool:
        """Whether a trainer is there to send to."""
        return self._link.connected and bool(self._present_trainers)

    @property
    def waits_for(self) -> str:
        """What is missing before activations can go out, for people; empty when nothing is."""
        if not self._link.connected:
            return f"the broker ({self._link.trouble})"
        if not self.trainer_online and self._is_unanswered:
            return "the broker (connected, but it passes nothing on: perhaps it refuses us access by now)"
        if not self.trainer_online:
            return "a cloud trainer (cloud-trainer run --broker with the same URL)"
        troubles = [self._trainers[name].trouble for name in self._present_trainers]
        if all(troubles):
            return f"the cloud trainer ({troubles[0]})"
        if self._namesake:
            return f"the name {self._robot!r}, which another robot seems to use"
        return ""

    @property
    def trainer_heard(self) -> float | None:
        """How many seconds ago a trainer that is there gave its last sign of life; None where none is there."""
        return min((self._clock() - self._heard[name] for name in self._present_trainers), default=None)

    @property
    def quarantine(self) -> str:
        """Why the trainer does not take this robot's messages for now, for people; empty while it does."""
        return self.figures.quarantine if self.figures else ""

    @property
    def goodput(self) -> float | None:
        """Bytes a second that the link carries while there is something to carry; None where that is not known."""
        return self._pace.goodput

    @property
    def capacity(self) -> float | None:
        """Bytes a second that the link can carry; None where it was not full lately."""
        return self._pace.capacity(self._clock())

    @property
    def is_behind(self) -> bool:
        """Whether more waits for the cloud than a link that keeps up would leave waiting."""
        seconds = self.outbox.payload_held / self.goodput if self.goodput else 0.0
        return len(self.outbox) > MESSAGES_OF_A_LINK_THAT_KEEPS_UP or seconds > SECONDS_OF_A_LINK_THAT_KEEPS_UP

    @property
    def deliveries_dropped(self) -> int:
        """How many messages to this robot were dropped because it did not read them in time."""
        return self._link.dropped

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
        if now >= self._next_flood_report:
            self._next_flood_report = now + FLOOD_REPORT_SECONDS
            for source, count in self._link.take_dropped().items():
                self._floods.warn(f"{count:,} messages on {source} dropped unread: more than are read, or too large")
        if self._namesake and now > self._namesake_until:
            log.warning("no sign of life from the other robot %r: taking the name over", self._robot)
            self._namesake = None
        if redial_if_silent(self._link, self._announced_at, now):
            self._announced_at = float("-inf")  # until there is an answer to wait for again
        may_send = not self.waits_for
        # Its heart beats on while a trainer is away, or another robot would take its name for left.
        if (may_send and not self._joined) or (self._joined and now >= self._next_heartbeat):
            self._announce(now)
        if may_send:
            self._try_sizes(now)
        if self._pace.size_limit.limit < SEND_LIMIT_BYTES and now >= self._next_cut:
            self._next_cut = now + CUT_SECONDS
            self._cut_what_is_too_large()
        self._turn_outbox(now, may_send)

    def greet(self, seconds: float) -> None:
        """Announce this robot where a trainer is there, waiting up to so many seconds for one. Raises NameTaken."""
        give_up = self._clock() + seconds
        while not self._joined and self._clock() < give_up:
            self.pump(0.05)

    def send(
        self,
        quantized: Quantized,
        names: Sequence[str],
        *,
        samples: Sequence[int] = (),
        again: bool = False,
        position: int | None = None,
        evaluation: int = 0,
        progress: float | None = None,
        edge_version: int = 0,
        session: int = 0,
    ) -> None:
        """Put labelled activations into the outbox, as few messages as the broker's bound and the link's rate allow.

        samples: the number of each, of those to train on. again: they went up before, and are encoded anew.
        position: of the source, after these frames. session: of teaching, 0 for none.
        """
        numbers = (np.array(samples or [0] * len(names), np.int64) % 2**32).astype(np.uint32)
        about = Metadata(
            split=self.state.split.fingerprint,
            evaluation=evaluation,
            progress=progress,
            edge_version=edge_version,
            edits=self.outbox.edits,
            session=session,
            again=again,
        )
        for part in self._parts(about, quantized, names, numbers):
            self.outbox.put(
                part.sequence, part.payload, part.samples, again=again, position=position, evaluation=evaluation
            )

    def _parts(
        self, about: Metadata, quantized: Quantized, names: Sequence[str], numbers: NDArray[np.uint32]
    ) -> Iterator[Part]:
        """Yield messages with these samples that are as large as they may be."""
        most = self._samples_per_message(len(set(names)))
        for chosen in np.array_split(np.arange(len(names)), -(-len(names) // most)):
            part = slice(int(chosen[0]), int(chosen[-1]) + 1)
            classes = tuple(dict.fromkeys(names[part]))
            payload = pack(
                ActivationBatch(
                    boot=self.state.boot,
                    sequence=self._sequence,
                    classes=classes,
                    labels=np.array([classes.index(name) for name in names[part]], np.uint16),
                    samples=numbers[part],
                    activations=pack_activations(quantized[part]),
                    **about,
                )
            )
            counted = {} if about["evaluation"] or about["again"] else Counter(names[part])
            yield Part(self._sequence, payload, counted, about["evaluation"], about["again"])
            self._sequence += 1

    def send_edit(self, change: Change, name: str, *, to: str = "", session: int = 0) -> ClassEdit:
        """Put a class edit into the outbox, and return it. It applies to what was sent before, whenever it arrives."""
        edit = ClassEdit(
            boot=self.state.boot,
            sequence=self._sequence,
            number=self.outbox.edits + 1,
            change=change,
            name=name,
            to=to,
            session=session,
        )
        self.outbox.put_edit(self._sequence, pack(edit))
        self._sequence += 1
        return edit

    def answer_command(self, result: CommandResult) -> None:
        """Tell who gave a command what came of it."""
        self._link.publish(topics.topic("robot", self._robot, "result"), pack(result), qos=1)

    def publish_metrics(self, metrics: RobotMetrics) -> None:
        """Tell whoever listens how the robot is doing."""
        if self._joined_connection:  # else the name may be another robot's
            self._link.publish(topics.topic("robot", self._robot, "metrics"), pack(metrics))

    def close(self) -> None:
        """Say goodbye."""
        self._link.close(farewell=will(self._robot, self.state) if self._joined_connection else None)

    def _tell_apart(self) -> None:
        """Have the link keep what is sent to us, and by our trainer, from what anybody may send."""
        own = [topics.sender("robot", self._robot)]
        self._link.know([*own, topics.sender("trainer", self._own_trainer)] if self._own_trainer else own)

    def _note_connection(self) -> None:
        """On a new connection forget the trainers: where they are online, their states are about to come in again."""
        if self._connection != self._link.connections:
            self._connection = self._link.connections
            self._trainers.clear()
            self._heard.clear()
            if self._pace.connection_ended():
                self._say_limit()

    @property
    def _joined(self) -> bool:
        """Whether our state was published on the connection that there is."""
        return self._link.connected and self._joined_connection == self._link.connections

    @property
    def _is_unanswered(self) -> bool:
        """Whether not even our own heartbeat comes back."""
        heard_at = self._link.heard_at
        answered = float("-inf") < self._announced_at <= heard_at  # the former is just being dialled again
        return self._joined and not answered and self._clock() - heard_at > QUIET_SECONDS

    @property
    def _present_trainers(self) -> list[str]:
        """Those to send for: the one that trains for this robot, or all that are there while that one is not."""
        now = self._clock()
        there = [
            name
            for name, trainer in self._trainers.items()
            if trainer.online and now - self._heard[name] <= AWAY_SECONDS
        ]
        return [self._own_trainer] if self._own_trainer in there else there

    def _try_sizes(self, now: float) -> None:
        """Send probes where messages seem to be too large for the broker; stop where the trainer answers none."""
        limit = self._pace.size_limit
        while (delivery := self._probe_results.take(0.0)) is not None:
            with suppress(MalformedMessage):
                result = unpack_as(ProbeResult, delivery.payload)
                if result.boot == self.state.boot and limit.answered(result.number):
                    self._say_limit()
        if sizes := limit.to_try:
            topic = topics.topic("robot", self._robot, "probe")
            numbers = self._probe, self._probe + 1
            self._probe += 2
            for number, size in zip(numbers, sizes, strict=True):
                probe = Probe(boot=self.state.boot, number=number, split=None, rest=bytes(size))
                self._link.publish(topic, pack(probe), qos=1)
            limit.sent(*numbers)
            self._probes_until = now + PROBE_SECONDS
        elif now > self._probes_until:
            self._probes_until = math.inf
            limit.give_up()

    def _say_limit(self) -> None:
        log.warning(
            "the broker lets no message of %s bytes through: sending at most %s from now on; raise its limit "
            "(mosquitto: max_packet_size and message_size_limit) to more than %s bytes",
            f"{2 * self._pace.size_limit.limit:,}",
            f"{self._pace.size_limit.limit:,}",
            f"{SEND_LIMIT_BYTES:,}",
        )

    def _cut_what_is_too_large(self) -> None:
        """Cut messages in the outbox into such as the broker lets through. What was sent of them did not arrive."""
        limit = self._pace.size_limit.limit
        for stored in self.outbox.larger_than(limit, CUT_AT_ONCE + len(self._uncut)):
            if stored.id in self._uncut:
                continue
            batch = unpack_as(ActivationBatch, stored.payload)
            about = Metadata(**{name: getattr(batch, name) for name in Metadata.__annotations__})  # type: ignore[typeddict-item]
            parts = list(self._parts(about, unpack_activations(batch.activations), batch.names, batch.samples))
            if all(len(part.payload) < len(stored.payload) for part in parts):
                self.outbox.replace(stored.id, parts)
            else:
                self._uncut.add(stored.id)
                log.warning(
                    "one sample takes %s bytes, and the broker lets no message of more than %s through: such samples "
                    "wait in the outbox; raise the broker's limit, or use fewer --bits or a smaller --bottleneck",
                    f"{len(stored.payload):,}",
                    f"{limit:,}",
                )

    def _turn_outbox(self, now: float, may_send: bool) -> None:
        """Let the outbox write down what it holds, and send what is due."""
        self._pace.expire(now)
        admission = self._pace.admission(now, live=self.outbox.has_live)
        admit = admission if may_send else nothing
        topic = topics.topic("robot", self._robot, "activations")
        for message in self.outbox.take(now, admit, self._pace.under_way):
            if not self._link.publish(topic, message.payload, qos=1):
                break  # marked as sent, so it goes first the next time
            self._pace.sent(message.id, len(message.payload), now, backlog=message.backlog)

    def _samples_per_message(self, classes: int) -> int:
        try:
            return samples_per_message(self.state.split, classes, self._pace.message_limit)
        except PayloadTooLarge:
            return 1  # the link is so slow that one sample takes longer than a message should

    def _announce(self, now: float) -> None:
        topic = topics.topic("robot", self._robot, "state")
        # A trainer that takes over would wait for ever for edits that only the one before it was told of.
        state = dataclasses.replace(self.state, edits=self.outbox.edits_taken)
        if self._link.publish(topic, pack(state), qos=1, retain=True):
            self._joined_connection = self._link.connections
            self._next_heartbeat = now + HEARTBEAT_SECONDS
            self._announced_at = now

    def _read(self, delivery: Delivery) -> None:
        topic = topics.parse(delivery.topic)
        match topic.role, topic.channel:
            case "robot", "state":
                self._read_namesake(unpack_as(RobotState, delivery.payload), delivery.retained)
            case "robot", "command":
                if not delivery.retained:  # a broker that keeps one would have it done again at every start
                    self.commands.put(unpack_as(Command, delivery.payload))
            case "robot", "receipt":
                self._read_receipt(unpack_as(Receipt, delivery.payload), delivery.arrived)
            case "trainer", "state":
                self._read_trainer(topic.name, unpack_as(TrainerState, delivery.payload))
            case "trainer", "metrics":
                figures = unpack_as(TrainerMetrics, delivery.payload)
                if (figures.robot, figures.boot) == (self._robot, self.state.boot):
                    if self._own_trainer != topic.name:
                        self._own_trainer = topic.name
                        self._tell_apart()
                    self._read_figures(figures)

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
        before, present = self._trainers.get(name), self._present_trainers
        stayed = before is not None and before.boot == trainer.boot and name in present
        concerns_us = name == self._own_trainer or self._own_trainer not in present
        self._trainers[name], self._heard[name] = trainer, self._clock()
        if len(self._trainers) > MOST_TRAINERS:
            oldest = min((one for one in self._heard if one != self._own_trainer), key=self._heard.__getitem__)
            del self._trainers[oldest], self._heard[oldest]
        if trainer.online and not stayed and concerns_us:
            # It has come, or come back. What was on the way is lost with its connection, or ours, or the broker; and a
            # new trainer process has not seen what the old one took but did not store.
            self._next_heartbeat = 0.0
            self._pace.forget()

    def _read_figures(self, figures: TrainerMetrics) -> None:
        self.figures = figures
        if figures.quarantine and figures.quarantine != self._quarantine:
            log.warning("the trainer takes nothing from this robot for now: %s", figures.quarantine)
        self._quarantine = figures.quarantine

    def _read_receipt(self, receipt: Receipt, arrived: float) -> None:
        rejected = receipt.outcome == "rejected"
        message = self.outbox.receipted(receipt.boot, receipt.sequence, "rejected" if rejected else "receipted")
        if message is None:
            return
        # A robot or a trainer that is busy with a step for seconds is no slow link.
        self._pace.arrived(message, arrived, held=receipt.held)
        if rejected and receipt.reason not in self._reasons and len(self._reasons) < MOST_REASONS:
            self._reasons.add(receipt.reason)
            log.warning("the trainer rejects what we send: %s", receipt.reason)


def nothing(_size: int, /, *, backlog: bool) -> bool:
    """Admit no message."""
    return False
