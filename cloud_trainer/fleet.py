"""All robots' training from one store: whose turn it is, when to save, what to delete. Knows no broker."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch

from broker.errors import ConfigError, MalformedMessage, PeerError, StorageError
from broker.wire.codec import pack, unpack_as
from broker.wire.messages import ActivationBatch, ClassEdit, RobotMetrics, RobotState
from cloud_trainer.class_edits import Wipes
from cloud_trainer.config import TrainerConfig, TrainingSettings
from cloud_trainer.cost import Cost, TooCostly, check_time, cost_of, machine_speed, room_beside
from cloud_trainer.intake import Intake
from cloud_trainer.robot_record import Preparation, RobotRecord
from cloud_trainer.session import RobotSession, Work
from cloud_trainer.session_start import SessionStart, new_start, open_session
from cloud_trainer.store import STORE, Event, Store
from hierarchy.runtime.checkpoint import CHECKPOINT, Parts, load_checkpoint, save_checkpoint
from hierarchy.runtime.disk import DiskWatch
from hierarchy.runtime.downloads import Downloads

# The store gives up its oldest trained samples when it is this full, and goes down to this.
NEARLY_FULL, ROOM_MADE = 0.9, 0.8

# A turn ends behind the step, test or edit in which it gets this old: others wait for it.
TURN_SECONDS = 1.0
# Steps on stored samples alone that are taken before looking whether anything came: a second or two on a small machine.
IDLE_STEPS_AT_ONCE = 4
# Steps in which the rate falls to its end where idle rehearsal is cut short: whoever stopped it waits for them. A
# network that 20 steps near the peak rate had left at 70.0 % held-out came to 99.0 % with 4 more, and 100 % with 7; but
# another one had 94.5 % after 10, in place of 99.5 %.
SETTLING_STEPS = 30

# Networks of runs that their robots have left are kept in here, as in a run folder of their own.
FORMER = "former"
FORGETTING = "that samples of the store are forgotten"

log = logging.getLogger("cloud-trainer")


def fair_share(sizes: Sequence[int], room: float) -> float:
    """Return what each of those sizes may hold at most to fit the room together: small ones leave theirs to others."""
    for count, size in enumerate(sorted(sizes)):
        share = room / (len(sizes) - count)
        if size > share:
            return share
        room -= size
    return math.inf


def goes_on(state: RobotState, entered: RobotState) -> bool:
    """Whether a robot in that state has the front of the network that was entered last for its name."""
    same_run = entered.run in {state.run, state.former}
    return state.weights == "checkpoint" and same_run and state.split == entered.split


class Fleet:
    """The robots of one store and their sessions.

    Of a record, what note() and enter() set belongs to the thread that takes messages in, all else here to the one that
    trains. checkpoints: folder with a checkpoint for each robot that has one; sessions go on from there.
    """

    def __init__(self, config: TrainerConfig, store: Store, checkpoints: Path, device: torch.device) -> None:
        """Take up the training of every robot in the store.

        Raises ConfigError where a checkpoint and the store do not belong together.
        """
        self.store = store
        self._config = config
        self._settings = TrainingSettings(**store.settings)
        self._checkpoints = checkpoints
        self._former = checkpoints.parent / FORMER / checkpoints.name
        self._device = device
        self.disk = DiskWatch(log, checkpoints.parent)
        self._downloads = Downloads()
        self._last = ""
        self._refuse_strange_checkpoints()
        self.robots: dict[str, RobotRecord] = {}
        for robot in store.robots():
            self.robots[robot] = self._load(robot)

    def close(self) -> None:
        """End what is being downloaded."""
        self._downloads.close()

    def must_prepare(self, record: RobotRecord) -> bool:
        """Whether a network has to be prepared for a robot's state before that may enter its log."""
        state, prepared = record.state, record.prepared
        if state is None or record.refused or record.entered == state or not self._may_enter(record):
            return False
        goes = record.entered is not None and goes_on(state, record.entered)
        return not goes and (prepared is None or prepared.state != state)

    def prepare(self, robot: str, state: RobotState) -> Preparation:
        """Find out how a network that a robot is about to begin is computed fastest, while that does so itself.

        What comes of it is for note(): that is about the log, and this is a part of training, and takes seconds.
        """
        try:
            cost = self._cost(state)
            room = self._room_beside(robot, cost)
            if state.weights == "default" and (waits := self._downloads.waits_for(state.split.backbone)):
                return Preparation(robot=robot, state=state, waits=waits)
            check_time(cost, machine_speed(self._device))
            start = self._new_start(robot, state, room)
        # It is built from the robot's words, and a step of it taken: whatever comes of that is the robot's trouble.
        except (ConfigError, PeerError, RuntimeError, ValueError, MemoryError) as error:
            return Preparation(robot=robot, state=state, refused=(str(error) or type(error).__name__)[:400])
        return Preparation(robot=robot, state=state, start=start, cost=cost)

    def note(self, prepared: Preparation) -> None:
        """Let the robot begin the network, or be refused, unless it has said another state meanwhile."""
        record = self.robots.get(prepared.robot)
        if record is None or record.state != prepared.state:
            return
        record.prepared = prepared if prepared.start else None
        record.waits = prepared.waits
        if prepared.refused:
            self._refuse(prepared.robot, record, prepared.refused)

    def _refuse(self, robot: str, record: RobotRecord, reason: str) -> None:
        log.warning("robot %s cannot be trained for: %s", robot, reason)
        record.prepared, record.refused, record.waits = None, reason, ""

    def enter(self, robot: str, store: Store) -> None:
        """Enter a robot's new state into its log: it starts a network, or goes on with the one it has.

        Nothing is committed, and nothing done where a network must be prepared first. Raises StorageError.
        store: of the thread that calls this.
        """
        record = self.robots[robot]
        state, prepared = record.state, record.prepared
        assert state is not None
        if self.must_prepare(record) or record.refused or not self._may_enter(record):
            return
        if prepared is None or prepared.state != state:
            log.info("robot %s is back, going on from its checkpoint", robot)
            store.append(robot, "rejoin", pack(state))
            record.entered = state
            return
        assert prepared.start
        assert prepared.cost
        try:  # again: what was prepared holds no room, and others may have come
            self._room_beside(robot, prepared.cost)
        except TooCostly as error:
            self._refuse(robot, record, str(error))
            return
        self._say_what_is_given_up(robot, record, state)
        record.cost, record.prepared = prepared.cost, None
        record.start_entered = replace(prepared.start, state=state).pack()
        event = store.append(robot, "start", record.start_entered)
        if record.too_costly:  # until the event is committed there is nothing to train on
            record.skipped, record.stored = event - 1, record.trained
            record.stuck, record.too_costly = "", False
        record.intake = Intake(state.split, most_classes=self._config.most_classes)
        record.entered = state

    def _may_enter(self, record: RobotRecord) -> bool:
        """Whether a robot's state may enter its log: not behind what cannot be trained on, unless it begins anew."""
        begins = not (record.entered and record.state and goes_on(record.state, record.entered))
        return not record.stuck or (record.too_costly and begins)

    def next_to_train(self) -> str:
        """Return the robot whose turn it is: the next one, in a circle, with events left; empty where there is none."""
        robots = dict(self.robots)  # another thread lets new ones in
        names = list(robots)
        place = names.index(self._last) + 1 if self._last in robots else 0
        for robot in names[place:] + names[:place]:
            if self._has_events(robot, robots[robot]):
                return robot
        return ""

    def train(self, robot: str) -> str:
        """Take a turn at what the robot's next event asks for, or at the rest of one.

        Return what was wrong with the event, empty where nothing was or it is not done yet.
        """
        self._last = robot
        record = self.robots[robot]
        if record.work is None:
            record.work, record.work_seconds = self._next_work(robot, record), 0.0
        begin = time.perf_counter()
        try:
            for _ in record.work:
                if time.perf_counter() >= begin + TURN_SECONDS:
                    record.work_seconds += time.perf_counter() - begin
                    record.note_standing()
                    return ""
        except TooCostly as error:
            assert record.event is not None
            self._skip(robot, record, record.event.id, error)
        except (ConfigError, MalformedMessage) as error:
            log.error("robot %s: training cannot go on: %s", robot, error)
            record.session, record.stuck = None, f"training cannot go on: {error}"[:400]
        event, record.event, record.work = record.event, None, None
        if event and event.kind == "rehearse":
            seconds = record.work_seconds + time.perf_counter() - begin
            record.idle_seconds = seconds / int(event.payload.split()[0])
        record.note_standing()
        return record.session.trouble if event and record.session else ""

    def _next_work(self, robot: str, record: RobotRecord) -> Work:
        if record.tidy:
            return self._tidied(robot, record)
        record.event = self.store.next_event(robot, record.cursor)
        assert record.event is not None
        return self._apply(robot, record, record.event)

    def finish_idle(self, robot: str) -> None:
        """Where a silent robot's log is done with, train on what is left over, save what is due, and rehearse.

        Rehearsal waits while there is anything to train on, of whatever robot: it is what an idle trainer does.
        That steps are taken depends on when nothing comes. So it is an event in the log, as all that training depends
        on.
        """
        record = self.robots.get(robot)
        if record is None or record.session is None or self._has_events(robot, record):
            return
        if record.session.waiting:
            self._append(robot, "flush")
        elif record.save_when_idle:
            record.save_when_idle = False
            self._write_checkpoint(robot)
        elif not self.next_to_train() and (due := record.session.idle_steps_due(self._config.practice)):
            count = min(due, IDLE_STEPS_AT_ONCE)
            record.save_when_idle = self._append(robot, "rehearse", b"%d %d" % (count, due)) and count == due

    def settle(self, robot: str, seconds: float = math.inf) -> None:
        """Where idle rehearsal is in the middle, end it for now, in a few steps; the rest waits for the next start.

        Its rate begins at the peak, which leaves a network wherever the last steps took it.
        seconds: to take fewer steps in, where they are slow, and not to test what comes of them; but one at least.
        """
        record = self.robots[robot]
        until = time.perf_counter() + seconds
        while record.event and time.perf_counter() < until:  # one broken off would be begun again at the next start
            self.train(robot)
        if record.messages_waiting:
            return
        while self._has_events(robot, record):
            self.train(robot)
        session = record.session
        if session and session.rehearses and (due := session.idle_steps_due(self._config.practice)):
            log.info("robot %s: a few last steps of idle rehearsal before its network is saved", robot)
            most = seconds / record.idle_seconds if record.idle_seconds else math.inf
            count = max(1, min(due, SETTLING_STEPS, int(min(most, SETTLING_STEPS))))
            test = most >= count + SETTLING_STEPS  # a test takes about as long as so many
            if self._append(robot, "settle", b"%d %d %d" % (count, due, test)):
                while self._has_events(robot, record):
                    self.train(robot)

    def save(self, robot: str) -> bool:
        """Write a robot's checkpoint, if anything has changed since the last, and delete what no checkpoint needs.

        Return False where the disk does not take it.
        """
        record = self.robots[robot]
        saved = self._write_checkpoint(robot)
        if record.tidy and record.event is None:
            for _ in self._tidied(robot, record):
                pass
        return saved

    def _write_checkpoint(self, robot: str) -> bool:
        """Write it, if anything has changed; what no checkpoint needs from then on is deleted in turns."""
        record = self.robots[robot]
        session = record.session
        # Where an event was broken off the log has it still, and the former checkpoint is what it goes on from.
        if session is None or session.is_torn:
            return True
        if session.cursor == record.cursor_saved and not record.forget_up_to and not session.wipes:
            return True
        what = f"the checkpoint of robot {robot}"
        record.steps_saved = session.trainer.steps  # where it fails, not again at every step
        try:
            parts, about = session.checkpoint()
            about |= {"split": asdict(session.state.split), "start": record.start.decode()}
            save_checkpoint(self._checkpoints / robot, parts, about)
            record.cursor_saved = session.cursor
            record.tidy = bool(record.forget_up_to) or bool(session.wipes)
        except OSError as error:
            self.disk.failed(what, error, ", training goes on without")
            return False
        self.disk.written(what)
        return True

    def _tidied(self, robot: str, record: RobotRecord) -> Work:
        """Delete what was given up, and overwrite what was forgotten: gigabytes, maybe, so in pieces."""
        record.tidy = False
        session = record.session
        if session is None:
            return
        try:
            while record.forget_up_to and self.store.forget_some(robot, record.forget_up_to):
                yield
            record.forget_up_to, record.forgetting = 0, False
            wipes = session.wipes
            cursor: int | None = 0 if wipes else None
            while cursor is not None:
                cursor = self.store.wipe_some(robot, cursor, wipes.up_to, wipes.others, session.without_forgotten)
                yield
            session.wipes = Wipes()
            self.disk.written(FORGETTING)
        except StorageError as error:
            self.disk.failed(FORGETTING, error)

    def knows_edit(self, robot: str, edit: ClassEdit) -> bool:
        """Whether an edit need not be stored; any thread may ask. One that is stored once more does nothing.

        A session that has not come to this start of the robot may take its edits' numbers for those of a run before.
        """
        session = self.robots[robot].session
        return session is not None and session.state.boot == edit.boot and session.knows_edit(edit)

    def make_room(self) -> str:
        """Give up the oldest trained samples where the store is nearly full. Return why it takes no more, if so."""
        limit = self._config.store_gb * 1e9
        used = self.store.bytes_used
        if used < NEARLY_FULL * limit:
            return ""
        robots = dict(self.robots)
        held = {robot: self.store.batch_bytes(robot) for robot in robots}
        # A batch takes more of the disk than it has bytes: the rest of a page, and its place in two indices.
        share = fair_share(list(held.values()), ROOM_MADE * limit * sum(held.values()) / used)
        for robot, record in robots.items():
            if record.session is None or held[robot] <= share:
                continue
            if record.forgetting:
                if record.forget_up_to:
                    self._write_checkpoint(robot)  # then what was given up before is deleted
                continue
            excess = math.ceil(held[robot] - share)
            if up_to := self.store.oldest_batches(robot, record.session.oldest_needed - 1, excess):
                log.info("the store is nearly full: robot %s gives up its oldest trained samples", robot)
                record.forgetting = self._append(robot, "forget", str(up_to).encode())
        return (
            f"the store is full (--store-gb {self._config.store_gb:g}): there is room again when its oldest samples "
            "are trained on and given up"
            if (self.store.bytes_used > limit)
            else ""
        )

    def _refuse_strange_checkpoints(self) -> None:
        """Raise ConfigError where a robot has a checkpoint and no log, as where the store was emptied or made anew."""
        known = self.store.robots()
        for path in sorted(self._checkpoints.glob(f"*/{CHECKPOINT}")):
            if path.parent.name not in known:
                raise ConfigError(
                    f"the store beside {path.parent} knows no robot of that name: put back the store that belongs to "
                    "it, or move the checkpoint away"
                )

    def _without_checkpoint(self, robot: str) -> str:
        """Say what to do where a robot's checkpoint cannot be used, and what that would cost."""
        whole = self.store.is_whole(robot)
        again = "once more from the log, to the same weights" if whole else "from what is left of the log only"
        return f"put a copy of it back, or move {self._checkpoints / robot} away: then its network is trained {again}"

    def _load(self, robot: str) -> RobotRecord:
        """Return what is known of a robot from its log and its checkpoint."""
        record = RobotRecord()
        states = self.store.states(robot)
        folder = self._checkpoints / robot
        if (folder / CHECKPOINT).exists():
            parts, about = load_checkpoint(folder, self._without_checkpoint(robot))
            cursor, record.start = about["cursor"], about["start"].encode()
            if cursor > self.store.last_event(robot):
                raise ConfigError(
                    f"the checkpoint {folder} is from event {cursor}, the store ends at "
                    f"{self.store.last_event(robot)}: put back the store that belongs to it"
                )
            starts = [event.payload for event in states if event.kind == "start" and event.id <= cursor]
            if starts[-1:] != [record.start]:
                raise ConfigError(
                    f"the checkpoint {folder} was made with another store than the one beside it: put back the store "
                    "that belongs to it, or move the checkpoint away"
                )
            try:
                self._restore(robot, record, parts, about)
            except TooCostly as error:
                self._skip(robot, record, cursor, error)
        elif not self.store.is_whole(robot):
            log.warning(
                "robot %s has no checkpoint, and its oldest samples were given up: starting from the rest", robot
            )
        if not states or states[0].kind != "start":
            raise ConfigError(f"the log of robot {robot} does not begin with a start: is it another version's?")
        entered = [_state(event) for event in states]
        record.entered, record.boots = entered[-1], {state.boot for state in entered}
        record.intake = Intake(record.entered.split, most_classes=self._config.most_classes)
        record.intake.know(record.session.trainer.classes if record.session else ())
        record.stored = record.trained = 0
        for batch in self.store.batches_after(robot, record.cursor):
            record.intake.know(unpack_as(ActivationBatch, batch).classes)
            record.stored += 1
        with suppress(ConfigError):  # it is said when the log has come to it
            cost = self._cost(record.entered)
            self._room_beside(robot, cost)
            record.cost = cost
        record.note_standing()
        record.note_details()
        if metrics := self.store.metrics(robot):
            record.metrics = unpack_as(RobotMetrics, metrics)
        return record

    def _restore(self, robot: str, record: RobotRecord, parts: Parts, about: dict[str, Any]) -> None:
        """Let a robot's session go on from its checkpoint. Raises TooCostly, and ConfigError for another network's."""
        record.session = self._open(robot, record.start, restored=True)
        try:
            record.session.restore(parts, about)
        except (RuntimeError, KeyError) as error:
            folder, advice = self._checkpoints / robot, self._without_checkpoint(robot)
            raise ConfigError(f"the checkpoint {folder} is of another network ({error}): {advice}") from error
        record.cost = self._cost(record.session.state)
        record.cursor_saved, record.steps_saved = about["cursor"], record.session.trainer.steps
        record.save_when_idle = bool(record.session.wipes)  # a killed process may not have come to it

    def _open(self, robot: str, start: bytes, *, restored: bool = False) -> RobotSession:
        """Return a session at its beginning. Raises TooCostly, and ConfigError where there can be none."""
        self._room_beside(robot, self._cost(SessionStart.unpack(start).state))
        parts = (SessionStart.unpack(start), self._settings, self._device, self.store.batch)
        try:
            return open_session(robot, *parts, restored=restored)
        except (RuntimeError, MemoryError) as error:  # it was built on trial, but there was more room then
            raise ConfigError(
                f"the network of robot {robot} cannot be built: {str(error) or 'out of memory'}"
            ) from error

    def network_room(self) -> int:
        """Return the bytes that robots' networks leave, for one network and its work."""
        return self._room - sum(one.network for one in self._costs())

    def _costs(self, robot: str = "") -> list[Cost]:
        """Return what all robots' networks take, apart from that robot's own."""
        return [record.cost for name, record in dict(self.robots).items() if name != robot and record.cost]

    def _cost(self, state: RobotState) -> Cost:
        return cost_of(state.split, self._settings.batch, self._device)

    def _room_beside(self, robot: str, cost: Cost) -> int:
        return room_beside(self._costs(robot), cost, self._room)

    @property
    def _room(self) -> int:
        return round(self._config.networks_gb * 1e9)

    def _skip(self, robot: str, record: RobotRecord, event: int, error: TooCostly) -> None:
        """Let what there is no room for rest: go on where another network begins behind it, or wait for one to begin.

        Training is a function of what is behind the last start, so nothing is lost that the new network would have.
        """
        record.session = None
        starts = [one.id for one in self.store.states(robot) if one.kind == "start" and one.id > event]
        if starts:
            record.skipped = starts[-1] - 1
            record.trained += self.store.count_batches(robot, event, record.skipped)
            return
        record.cost = None
        log.error("robot %s: its network is not trained any further: %s", robot, error)
        record.stuck, record.too_costly = f"training cannot go on: {error}"[:400], True

    def _new_start(self, robot: str, state: RobotState, room: int) -> SessionStart:
        record = self.robots.get(robot)  # it may have given way to another one meanwhile
        others = list(dict(self.robots).values())
        prepared = [its.start.pack() for other in others if (its := other.prepared) and its.start]
        # Those entered count too: robots that come together are all entered before any of them is trained for.
        entered = [start for other in others for start in (other.start, other.start_entered)]
        known = filter(None, [record.start if record else b"", *entered, *prepared])  # none before the first event
        start = new_start(robot, state, self._settings, self._device, known=known, room=room)
        log.info(
            "robot %s: %s from %s on, %s", robot, state.split.backbone, state.split.cut, start.compute(self._device)
        )
        return start

    def _say_what_is_given_up(self, robot: str, record: RobotRecord, state: RobotState) -> None:
        if record.entered:
            log.warning(
                "robot %s begins %s: the network that it had until now learns no more, and is kept for --weights %s",
                robot,
                "its run anew" if record.entered.run == state.run else "another run",
                self._former.parent,
            )
        if state.weights == "checkpoint" and self._settings.weights == "none":
            log.warning(
                "robot %s goes on with a front that was trained before, and there is no network here that belongs to "
                "it: its other half starts from nothing; a trainer with --weights FOLDER starts from a former one",
                robot,
            )

    def _keep_former(self, robot: str, session: RobotSession) -> None:
        """Keep the network of a run that its robot has left; only the last one, as each takes some 100 MB."""
        try:
            parts, about = session.checkpoint()
            save_checkpoint(self._former / robot, parts, about | {"split": asdict(session.state.split)})
        except OSError as error:
            log.warning("the former network of robot %s cannot be kept: %s", robot, error)

    def _has_events(self, robot: str, record: RobotRecord) -> bool:
        at_work = record.work is not None or record.tidy
        return not record.stuck and (at_work or self.store.has_events(robot, record.cursor))

    def _apply(self, robot: str, record: RobotRecord, event: Event) -> Work:
        if event.kind == "start":
            if record.session and record.session.trainer.steps:
                self._keep_former(robot, record.session)
            record.session = None  # two networks at once may be one too many for this machine
            record.start, record.session = event.payload, self._open(robot, event.payload)
            record.session.cursor = event.id
            record.steps_saved = 0
            return
        session = record.session
        if session is None:
            raise MalformedMessage(f"event {event.id} comes before any start")
        yield from session.work(event)
        if event.kind == "batch":
            record.trained += 1
        elif event.kind == "edit":
            record.save_when_idle = True  # people want to see a class gone, on the disk too
        elif event.kind == "rehearse" and not session.idle_steps_due(self._config.practice):
            log.info("robot %s: rehearsed while idle%s", robot, _tested(session))
        elif event.kind == "forget":
            record.forget_up_to, record.forgetting = int(event.payload), True
        if session.trainer.steps >= record.steps_saved + self._config.checkpoint_every:
            self._write_checkpoint(robot)

    def _append(self, robot: str, kind: Literal["flush", "forget", "rehearse", "settle"], payload: bytes = b"") -> bool:
        try:
            self.store.append(robot, kind, payload)
            self.store.commit()
        except StorageError as error:
            self.disk.failed(STORE, error)
            return False
        self.disk.written(STORE)
        return True


def _tested(session: RobotSession) -> str:
    accuracy = session.held_out.accuracy
    return "" if accuracy is None else f", held-out accuracy {100 * accuracy:.1f} %"


def _state(event: Event) -> RobotState:
    """Return the robot's state that a start or a rejoin holds."""
    if event.kind == "start":
        return SessionStart.unpack(event.payload).state
    return unpack_as(RobotState, event.payload)
