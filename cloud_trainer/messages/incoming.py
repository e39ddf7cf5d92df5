"""What robots send: into the store, and only then receipted. Decides what is taken, and trains on nothing."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import deque
from pathlib import Path

from broker.errors import MalformedMessage, StorageError
from broker.link.base import Link
from broker.link.inbox import Delivery
from broker.program.machine import room
from broker.wire import topics
from broker.wire.codec import pack, unpack, unpack_as
from broker.wire.messages import (
    HEARTBEAT_SECONDS,
    ActivationBatch,
    ClassEdit,
    Outcome,
    Receipt,
    RobotMetrics,
    RobotState,
    TrainerState,
)
from cloud_trainer.config import TrainerConfig
from cloud_trainer.logs import title
from cloud_trainer.messages.held_messages import Held
from cloud_trainer.messages.other_trainers import OtherTrainers
from cloud_trainer.messages.outgoing import Outgoing
from cloud_trainer.messages.training_side import TrainingSide
from cloud_trainer.messages.unstored import Checked, Unstored
from cloud_trainer.robots.intake import Intake
from cloud_trainer.robots.log_training import LogTraining
from cloud_trainer.robots.robot import MAX_REJECTIONS, Rejection, Robot
from cloud_trainer.session.batches import InflatedBatch
from cloud_trainer.store.log import Store
from hierarchy.runtime.command_line import SparseLog

# Messages stored with one flush of the disk. A flush takes milliseconds; a receipt should not wait for more of them.
TAKE_AT_ONCE = 256
# A name that never trained may give way to another one after this: three heartbeats, in which a robot that is there
# sends its first activations. Names cost nothing where a broker lets anybody in.
NEWCOMER_SECONDS = 3 * HEARTBEAT_SECONDS
# Unless it sends activations, which wait for its network to be prepared: a robot repeats them after 30 s.
FED_SECONDS = 60.0

log = logging.getLogger("cloud-trainer")


class Strangers:
    """Counts what came of robots that this trainer does not know. Of what was rejected the last is remembered."""

    def __init__(self) -> None:
        self.rejected = 0
        self.dropped = 0  # unread, as they were too many
        self.rejections: deque[Rejection] = deque(maxlen=MAX_REJECTIONS)

    def reject(self, robot: str, reason: str) -> None:
        """Note a message that was not taken."""
        self.rejections.append(Rejection(time=time.time(), robot=robot, reason=reason))
        self.rejected += 1


class Incoming:
    """Takes in messages, as they come. Nothing of it is trained on before it is committed.

    stored: how many were, as events.
    """

    def __init__(
        self,
        config: TrainerConfig,
        link: Link,
        folder: Path,
        store: Store,
        training: TrainingSide,
        others: OtherTrainers,
        outgoing: Outgoing,
    ) -> None:
        """folder: the run's, for how much room its disk has."""
        self.strangers = Strangers()
        self.stored = 0
        self._most_robots = config.most_robots
        self._own_sender = topics.sender("trainer", config.trainer)
        self._link = link
        self._folder = folder
        self._store = store
        self._training = training
        self._fleet = training.fleet
        self._robots = training.fleet.robots
        self._others = others
        self._outgoing = outgoing
        self._unstored = Unstored()
        # Not committed yet: receipts to send once it is, and when what they are about came; and batches.
        self._receipts: list[tuple[str, Receipt, float]] = []
        self._added: list[tuple[Robot, int, InflatedBatch]] = []
        self._grown: list[tuple[LogTraining, int]] = []  # logs with their new events, of any kind
        self._new_states: set[str] = set()  # robots that said one since they were last looked at
        self._held = Held()  # messages of robots whose networks are being prepared
        self._ready: deque[Delivery] = deque()  # of those, what can be taken now
        self._garbage = SparseLog(log)
        self._floods = SparseLog(log)
        # Trainers first: one that has our name must be known before anything is taken. Then robots' states: they say
        # what the activations behind them are.
        self._tell_apart()
        link.subscribe(topics.topic("trainer", topics.ANYONE, "state"))
        for channel in ("state", "metrics", "activations"):
            link.subscribe(topics.topic("robot", topics.ANYONE, channel))

    def take_in(self, timeout: float, *, gather: float = 0.0) -> None:
        """Store what came, waiting up to timeout seconds for it, and receipt it.

        gather: seconds to wait behind the first message for more, to be stored together with it.
        """
        until = 0.0
        try:
            for _ in range(TAKE_AT_ONCE):
                delivery = self._ready.popleft() if self._ready else self._link.receive(timeout)
                if delivery is None:
                    break
                self._take(delivery)
                until = until or time.monotonic() + gather
                timeout = max(0.0, until - time.monotonic())
                if self._unstored.is_full:
                    break
            self._commit()
        except StorageError as error:
            self._unstored.drop()
            self._receipts.clear()  # the robots send it again
            for robot, _, _ in self._added:
                self._fleet.batches.drop(robot.name)  # the ids of their events are given out once more
            self._added.clear()
            self._grown.clear()
            self._outgoing.pause(str(error), "" if self._store.is_remote else f"; {room(self._folder)}")

    def hear_training(self) -> None:
        """Take in what networks robots may begin, and what was wrong with what they sent."""
        while prepared := self._training.take_prepared():
            if robot := self._robots.get(prepared.robot):
                robot.note(prepared)
                self._tell_apart()
            if not prepared.waits:  # else it is asked for again after a while
                self._have_prepared(prepared.robot)  # where it has said another state meanwhile
            self._ready.extend(self._held.release(prepared.robot))
        while self._training.reports:
            name, problem = self._training.reports.popleft()
            self._reject(name, problem, time.monotonic(), grave=True)
        while self._training.verdicts:
            verdict = self._training.verdicts.popleft()
            robot = self._robots.get(verdict.robot)
            if robot and verdict.log in robot.joined:
                self._take_out(robot, verdict.log, verdict.why)

    def have_next_prepared(self) -> None:
        """Have a network prepared for a robot that has said a new state, for one at a time."""
        if self._new_states and self._others.name_is_free(time.monotonic()):
            self._have_prepared(self._new_states.pop())

    def look_again(self) -> None:
        """Ask once more for what robots wait for, and say what the link dropped unread."""
        self._new_states.update(name for name, robot in self._robots.items() if robot.waits)
        for one in list(self._robots.values()):
            for log_name in one.wants_back:
                self._take_out(one, log_name)
        self._fleet.tell_apart()
        for source, count in self._link.take_dropped().items():
            name = source.split("/")[3] if "/" in source else ""
            robot = self._robots.get(name)
            (robot or self.strangers).dropped += count
            whose = f"robot {name}" if robot else source
            self._floods.warn(
                f"{whose}: {count:,} messages dropped unread: more than are read, too large, or badly sealed"
            )

    def _append(self) -> None:
        """Append what was taken, and have it receipted once it is committed. Raises StorageError."""
        for one, event in self._unstored.store(self._store):
            if event is None:
                continue  # no state of it has entered the log: it comes again
            if event:
                self._grown.append((one.training, event))
                if one.batch:
                    self._added.append((one.robot, event, one.batch))
            self._receipt(one.robot, one.message, "accepted" if event else "duplicate", one.arrived)

    def _commit(self) -> None:
        """Put what came on the disk, and only then say so to the robots."""
        self._append()
        for robot, event, batch in self._added:  # first, or training might have read it from the store by then
            self._fleet.batches.keep(robot.name, event, batch)
        if self._grown:
            self._training.expect({training.log for training, _ in self._grown})
        self._store.commit()
        self.stored += len(self._grown)
        for robot, _, _ in self._added:
            robot.training.stored[robot.name] += 1
        for training, event in self._grown:
            training.note_grown(event)
        self._training.look()
        if self._added:  # not before something was stored: to try is not to succeed
            self._outgoing.note_stored()
        for name, receipt, arrived in self._receipts:
            receipt = dataclasses.replace(receipt, held=time.monotonic() - arrived)
            self._link.publish(topics.topic("robot", name, "receipt"), pack(receipt), qos=1)
        self._added.clear()
        self._grown.clear()
        self._receipts.clear()

    def _take(self, delivery: Delivery) -> None:
        now = time.monotonic()
        try:
            topic = topics.parse(delivery.topic)
        except MalformedMessage as error:
            self._garbage.warn(f"ignoring a message: {error}")
            return
        if topic.role == "trainer":
            self._take_trainer(topic.name, delivery, now)
            return
        robot = self._robots.get(topic.name)
        # States are heard all the same: a robot that goes, or comes back, is told whether it is in quarantine.
        if robot and topic.channel != "state" and robot.quarantine.reason(now):
            if topic.channel == "activations":
                robot.quarantine.ignore()
            return
        try:
            self._take_of_robot(topic.name, topic.channel, robot, delivery, now)
        except MalformedMessage as error:
            self._reject(topic.name, str(error), now)

    def _take_of_robot(
        self,
        name: str,
        channel: topics.AnyChannel,
        robot: Robot | None,
        delivery: Delivery,
        now: float,
    ) -> None:
        match channel:
            case "state":
                self._take_state(name, unpack_as(RobotState, delivery.payload), now)
            case "metrics" if robot:
                if robot.hear_metrics(unpack_as(RobotMetrics, delivery.payload)):
                    self._store.keep_metrics(name, delivery.payload)
            case "activations":
                message = unpack(delivery.payload)
                if not isinstance(message, ActivationBatch | ClassEdit):
                    raise MalformedMessage(f"ActivationBatch or ClassEdit expected, got {type(message).__name__}")
                if robot and robot.state:  # else it comes again, once its state has come
                    self._take_message(robot, message, delivery, now)

    def _take_trainer(self, name: str, delivery: Delivery, now: float) -> None:
        try:
            other = unpack_as(TrainerState, delivery.payload)
        except MalformedMessage as error:
            self._garbage.warn(f"ignoring a message on {delivery.topic}: {error}")
            return
        if self._others.hear(name, other, now, retained=delivery.retained):
            self._outgoing.announce_soon()

    def _reject(self, name: str, reason: str, now: float, *, grave: bool = False) -> None:
        self._garbage.warn(f"robot {name}: message rejected: {reason}")
        robot = self._robots.get(name)
        if robot is None:
            self.strangers.reject(name, reason)
        elif quarantine := robot.reject(reason, now, grave=grave):
            log.warning("robot %s is in quarantine: %s", name, quarantine)

    # States

    def _take_state(self, name: str, state: RobotState, now: float) -> None:
        robot = self._robots.get(name)
        if not state.online:
            if robot and robot.state and robot.state.boot == state.boot:
                log.info("robot %s has gone", name)
                robot.leave(now)
            return
        if robot is None:
            if len(self._robots) >= self._most_robots and not self._make_place(name, now):
                reason = f"this trainer has its {self._most_robots} robots (--most-robots)"
                self._outgoing.turn_away(name, state.boot, reason)
                self._garbage.warn(f"robot {name} is turned away: {reason}")
                return
            robot = self._fleet.meet(name, now)
        try:
            if robot.hear_state(state, now):
                self._new_states.add(name)
        except MalformedMessage as error:
            self._reject(name, str(error), now, grave=True)

    def _make_place(self, newcomer: str, now: float) -> bool:
        """Let a name that never trained give way to another one; whether there was one that has had its time."""
        idle = [
            (robot.since, name)
            for name, robot in self._robots.items()
            if not robot.has_trained
            and now >= robot.since + NEWCOMER_SECONDS
            and (robot.refused or now >= robot.fed + FED_SECONDS)
        ]
        if not idle:
            return False
        since, name = min(idle)
        self._garbage.warn(
            f"robot {name} gives way to {newcomer}: it has sent nothing to train on in {now - since:.0f} s, and this "
            f"trainer has its {self._most_robots} robots (--most-robots)"
        )
        self._fleet.give_up(name)
        self._new_states.discard(name)
        return True

    def _tell_apart(self) -> None:
        """Have the link keep what trained robots send from what all others do, who may be many and nobody."""
        trained = [name for name, robot in self._robots.items() if robot.has_trained]
        self._link.know([self._own_sender, *(topics.sender("robot", name) for name in trained)])

    def _have_prepared(self, name: str, *, urgent: bool = False) -> None:
        robot = self._robots.get(name)
        if robot and robot.state and robot.must_prepare:
            self._training.prepare(name, robot.state, urgent=urgent)

    # Batches and class edits

    def _take_message(self, robot: Robot, message: ActivationBatch | ClassEdit, delivery: Delivery, now: float) -> None:
        robot.feed(now)
        problem = self._outgoing.problem
        if not self._others.name_is_free(now) or robot.waits:
            return  # without a receipt: the robot keeps it
        if robot.entered != robot.state and not robot.refused and not problem:
            if robot.must_prepare:
                self._have_prepared(robot.name, urgent=True)
                self._held.add(robot.name, delivery)
                return
            self._enter(robot)
        if robot.refused or robot.training.stuck or robot.intake is None or problem:
            return  # without a receipt: the robot keeps it
        try:
            self._check(robot, robot.intake, message, delivery)
        except MalformedMessage as error:
            self._receipt(robot, message, "rejected", delivery.arrived, str(error)[:400])
            raise
        robot.quarantine.good(now)

    def _check(self, robot: Robot, intake: Intake, message: ActivationBatch | ClassEdit, delivery: Delivery) -> None:
        """Have a message stored with the next commit. Raises MalformedMessage where it cannot be trained on."""
        batch = None
        if isinstance(message, ActivationBatch):
            batch = intake.check(message, robot.name)
        elif robot.training.knows_edit(robot.name, message):
            self._receipt(robot, message, "duplicate", delivery.arrived)
            return
        else:
            intake.check_edit(message, robot.name)
        self._unstored.add(
            Checked(
                robot=robot,
                training=robot.training,
                message=message,
                batch=batch,
                payload=delivery.payload,
                arrived=delivery.arrived,
            )
        )

    def _receipt(
        self, robot: Robot, message: ActivationBatch | ClassEdit, outcome: Outcome, arrived: float, reason: str = ""
    ) -> None:
        """Have a receipt sent for a message that came in then, once all that came before it is in the store."""
        receipt = Receipt(boot=message.boot, sequence=message.sequence, outcome=outcome, reason=reason, held=0.0)
        self._receipts.append((robot.name, receipt, arrived))

    def _enter(self, robot: Robot) -> None:
        self._append()  # it came before
        with robot.entering():
            if event := self._fleet.enter(robot.name, self._store):
                self._grown.append((robot.training, event))
            self._commit()  # what was entered must not be lost with what comes behind it
        if robot.entered:
            self._tell_apart()

    def _take_out(self, robot: Robot, log_name: str, why: str = "") -> None:
        """Enter that what a robot shared is taken out of a log. why: where it did not ask for it.

        Where the disk does not take it, that is tried again.
        """
        try:
            with robot.entering():
                event = robot.take_out(log_name, self._store, why)
                if training := robot.training_of(log_name):  # else others train on it
                    self._grown.append((training, event))
                self._commit()
        except StorageError as error:
            self._grown.clear()
            self._outgoing.pause(str(error), f"; {room(self._folder)}")
            return
        self._fleet.give_up_classes(robot.name, log_name)
        whose = title(log_name)
        log.warning("robot %s: its samples are taken out of %s: %s", robot.name, whose, why or "it asked for it")
