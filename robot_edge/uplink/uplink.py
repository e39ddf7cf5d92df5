"""A robot's conversation with the cloud: presence, activations, receipts and what comes back of metrics."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from broker.errors import MalformedMessage, SealedPayload
from broker.link.base import Link
from broker.link.inbox import Delivery
from broker.link.mailbox import Mailbox
from broker.wire import topics
from broker.wire.codec import pack, unpack_as
from broker.wire.messages import (
    Change,
    ClassEdit,
    Command,
    CommandResult,
    Probe,
    Receipt,
    RobotMetrics,
    RobotState,
    TrainerMetrics,
    TrainerState,
)
from broker.wire.names import PLAIN_NAMES, ClassNames
from broker.wire.quantize import Quantized
from hierarchy.runtime.command_line import SparseLog
from robot_edge.uplink.batching import Batching, Metadata
from robot_edge.uplink.broker_limit import BrokerLimit
from robot_edge.uplink.outbox import Outbox
from robot_edge.uplink.pacing import Pace
from robot_edge.uplink.presence import Presence, will

# People give one at a time. More than these would be somebody who floods us.
COMMANDS_WAITING = 100
# Different reasons for a rejection that are logged; a trainer that invents more would only fill the log.
MAX_REASONS = 32
# Between two receipts a robot that trains makes a few messages at most. Twice a window of them is an outage.
MESSAGES_OF_A_LINK_THAT_KEEPS_UP = 128
# Nor does such a link need so long for what waits: three windows. A slow one needs minutes for far fewer messages.
SECONDS_OF_A_LINK_THAT_KEEPS_UP = 10.0
# Between two lines about messages that were dropped unread.
FLOOD_REPORT_SECONDS = 5.0
# Behind a first receipt. A hundred robots that came together have each had a turn by then, and been told of it.
UNTOLD_SECONDS = 120.0
# Between two signs of life for a trainer whose payloads are sealed, while ours are not.
NOTICE_SECONDS = 10.0

log = logging.getLogger("robot-edge")


class Uplink:
    """Everything a robot says and hears. Call pump() often: all that happens, happens there, on the caller's thread."""

    def __init__(
        self,
        link: Link,
        robot: str,
        state: RobotState,
        outbox: Outbox,
        *,
        names: ClassNames = PLAIN_NAMES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """names: how class names leave the robot; the link has the same."""
        self.state = state
        self.outbox = outbox
        self.cloud_metrics: TrainerMetrics | None = None
        self.commands: Mailbox[Command] = Mailbox(COMMANDS_WAITING)
        self.link = link
        self.names = names
        self._robot = robot
        self._clock = clock
        self.pace = Pace()
        self.presence = Presence(link, robot, state, clock)
        self._batching = Batching(state.boot, state.split, names)
        self._quarantine = ""
        self._apart = ""
        self._forgotten: set[str] = set()
        self._reads_all_metrics = False
        self._untold_since = math.inf  # when the first receipt came; -inf where there is nothing to say of that
        self._reasons: set[str] = set()
        self._garbage = SparseLog(log)
        self._floods = SparseLog(log)
        self._next_flood_report = self._next_notice = 0.0
        # In this order: a namesake's retained state comes in before the trainer's state lets us begin.
        for filter_ in (
            topics.topic("robot", robot, "state"),
            topics.topic("robot", robot, "receipt"),
            topics.topic("robot", robot, "command"),
            topics.cloud_metrics_topic(robot, topics.ANYONE),
            topics.topic("trainer", topics.ANYONE, "state"),
        ):
            link.subscribe(filter_)
        self._broker_limit = BrokerLimit(link, robot, state.boot, outbox, self._batching, self.pace)

    @property
    def waits_for(self) -> str:
        """What is missing before activations can go out, for people; empty when nothing is."""
        return self.presence.waits_for

    @property
    def quarantine(self) -> str:
        """Why the trainer does not take this robot's messages for now, for people; empty while it does."""
        return self.cloud_metrics.quarantine if self.cloud_metrics else ""

    @property
    def is_behind(self) -> bool:
        """Whether more waits for the cloud than a link that keeps up would leave waiting."""
        goodput = self.pace.goodput
        seconds = self.outbox.payload_held / goodput if goodput else 0.0
        return len(self.outbox) > MESSAGES_OF_A_LINK_THAT_KEEPS_UP or seconds > SECONDS_OF_A_LINK_THAT_KEEPS_UP

    def pump(self, timeout: float = 0.0) -> None:
        """Read what came, waiting up to timeout seconds for it, and send what is due.

        Raises NameTaken where another robot with this name is online.
        """
        while (delivery := self.link.receive(timeout)) is not None:
            timeout = 0.0
            self._note_connection()
            try:
                self._read(delivery)
            except MalformedMessage as error:
                self._garbage.warn(f"ignoring a message on {delivery.topic}: {error}")
                if isinstance(error, SealedPayload):
                    self._be_noticed()
        self._note_connection()
        now = self._clock()
        if now >= self._next_flood_report:
            self._next_flood_report = now + FLOOD_REPORT_SECONDS
            for source, count in self.link.take_dropped().items():
                self._floods.warn(
                    f"{count:,} messages on {source} dropped unread: more than are read, too large, or badly sealed"
                )
        self._doubt_rights(now)
        self.presence.pass_time(now)
        may_send = not self.waits_for
        if self.presence.is_due(now):
            self.presence.announce(now, edits=self.outbox.edits_taken)
        if may_send:
            self._broker_limit.try_sizes(now)
        self._broker_limit.cut(now)
        self._turn_outbox(now, may_send)

    def greet(self, seconds: float) -> None:
        """Announce this robot where a trainer is there, waiting up to so many seconds for one. Raises NameTaken."""
        give_up = self._clock() + seconds
        while not self.presence.joined and self._clock() < give_up:
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
        metadata = Metadata(
            split=self.state.split.fingerprint,
            evaluation=evaluation,
            progress=progress,
            edge_version=edge_version,
            edits=self.outbox.edits,
            session=session,
            again=again,
        )
        for part in self._batching.parts(metadata, quantized, names, numbers, self.pace.message_limit):
            self.outbox.put(
                part.sequence, part.payload, part.samples, again=again, position=position, evaluation=evaluation
            )

    def send_edit(
        self, change: Change, name: str, *, to: str = "", session: int = 0, everywhere: bool = False
    ) -> ClassEdit:
        """Put a class edit into the outbox, and return it. It applies to what was sent before, whenever it arrives."""
        number = self.outbox.edits + 1
        edit = self._batching.edit(number, change, name, to=to, session=session, everywhere=everywhere)
        self.outbox.put_edit(edit.sequence, pack(edit))
        return edit

    def answer_command(self, result: CommandResult) -> None:
        """Tell who gave a command what came of it."""
        self.link.publish(topics.topic("robot", self._robot, "result"), pack(result), qos=1)

    def publish_metrics(self, metrics: RobotMetrics) -> None:
        """Tell whoever listens how the robot is doing."""
        if self.presence.was_announced:  # else the name may be another robot's
            self.link.publish(topics.topic("robot", self._robot, "metrics"), pack(metrics))

    def close(self) -> None:
        """Say goodbye."""
        self.link.close(farewell=will(self._robot, self.state) if self.presence.was_announced else None)

    def _be_noticed(self) -> None:
        """Say something that is not sealed: a trainer that seals would else wait for us, and never say why."""
        if self._clock() >= self._next_notice:
            self._next_notice = self._clock() + NOTICE_SECONDS
            probe = Probe(boot=self.state.boot, number=0, split=None, rest=b"")
            self.link.publish(topics.topic("robot", self._robot, "probe"), pack(probe))

    def _doubt_rights(self, now: float) -> None:
        """Say once what may be behind it that the trainer takes what we send and says nothing of it."""
        if math.isfinite(self._untold_since) and now > self._untold_since + UNTOLD_SECONDS:
            self._untold_since = -math.inf
            log.warning(
                "the trainer takes what this robot sends, and nothing comes of how its training goes: perhaps access "
                "rules of an older version keep it back; `local-broker provision` with all names writes new ones"
            )

    def _note_connection(self) -> None:
        if self.presence.is_new_connection() and self.pace.connection_ended():
            self._broker_limit.say_limit()

    def _turn_outbox(self, now: float, may_send: bool) -> None:
        """Let the outbox write down what it holds, and send what is due."""
        self.pace.expire(now)
        admission = self.pace.admission(now, live=self.outbox.has_live)
        admit = admission if may_send else nothing
        topic = topics.topic("robot", self._robot, "activations")
        for message in self.outbox.take(now, admit, self.pace.under_way):
            if not self.link.publish(topic, message.payload, qos=1):
                break  # marked as sent, so it goes first the next time
            self.pace.sent(message.id, len(message.payload), now, backlog=message.backlog)

    def _read(self, delivery: Delivery) -> None:
        topic = topics.parse(delivery.topic)
        match topic.role, topic.channel:
            case "robot", "state":
                self.presence.hear_namesake(unpack_as(RobotState, delivery.payload), retained=delivery.retained)
            case "robot", "command":
                if not delivery.retained:  # a broker that keeps one would have it done again at every start
                    self.commands.put(unpack_as(Command, delivery.payload))
            case "robot", "receipt":
                self._read_receipt(unpack_as(Receipt, delivery.payload), delivery.arrived)
            case "trainer", "state":
                self._read_trainer(topic.name, unpack_as(TrainerState, delivery.payload))
            case "robot", "cloud-metrics":
                self._read_metrics(topics.trainer_of(delivery.topic), unpack_as(TrainerMetrics, delivery.payload))
            case "trainer", "metrics":
                self._read_metrics(topic.name, unpack_as(TrainerMetrics, delivery.payload))

    def _read_trainer(self, name: str, trainer: TrainerState) -> None:
        if trainer.online and not trainer.metrics_by_robot and not self._reads_all_metrics:
            # A trainer of before says to all robots at once what is for one of them.
            self._reads_all_metrics = True
            self.link.subscribe(topics.topic("trainer", topics.ANYONE, "metrics"))
        if self.presence.hear_trainer(name, trainer):
            self.pace.forget()

    def _read_metrics(self, trainer: str, cloud_metrics: TrainerMetrics) -> None:
        if (cloud_metrics.robot, cloud_metrics.boot) != (self._robot, self.state.boot):
            return
        self._untold_since = -math.inf
        self.presence.is_trained_by(trainer)
        self.cloud_metrics = cloud_metrics
        if cloud_metrics.quarantine and cloud_metrics.quarantine != self._quarantine:
            log.warning("the trainer takes nothing from this robot for now: %s", cloud_metrics.quarantine)
        self._quarantine = cloud_metrics.quarantine
        if cloud_metrics.apart and cloud_metrics.apart != self._apart:
            log.warning("the cloud's half is not all of the fleet's: %s", cloud_metrics.apart)
        self._apart = cloud_metrics.apart
        for name in sorted({*cloud_metrics.forgotten} - self._forgotten):
            log.warning(
                "the fleet has forgotten %r, and what this robot taught of it: it is known here alone until it is "
                "forgotten here, too, or taught again",
                name,
            )
        self._forgotten = {*cloud_metrics.forgotten}

    def _read_receipt(self, receipt: Receipt, arrived: float) -> None:
        rejected = receipt.outcome == "rejected"
        message = self.outbox.receipted(receipt.boot, receipt.sequence, "rejected" if rejected else "receipted")
        if message is None:
            return
        self._untold_since = min(self._untold_since, self._clock())
        # A robot or a trainer that is busy with a step for seconds is no slow link.
        self.pace.arrived(message, arrived, held=receipt.held)
        if rejected and receipt.reason not in self._reasons and len(self._reasons) < MAX_REASONS:
            self._reasons.add(receipt.reason)
            log.warning("the trainer rejects what we send: %s", receipt.reason)


def nothing(_size: int, /, *, backlog: bool) -> bool:
    """Admit no message."""
    return False
