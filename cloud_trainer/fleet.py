"""All robots' training from one store: whose turn it is, when to save, what to delete. Knows no broker."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch

from broker.codec import pack, unpack_as
from broker.errors import ConfigError, MalformedMessage, StorageError
from broker.messages import ActivationBatch, RobotState
from cloud_trainer.config import TrainerConfig, TrainingSettings
from cloud_trainer.intake import Intake
from cloud_trainer.robot_record import RobotRecord
from cloud_trainer.session import RobotSession
from cloud_trainer.session_start import SessionStart, measured_start, memory_needed, open_session
from cloud_trainer.store import Event, Store
from hierarchy.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from hierarchy.command_line import Notice

# The store gives up its oldest trained samples when it is this full, and goes down to this.
NEARLY_FULL, ROOM_MADE = 0.9, 0.8

log = logging.getLogger("cloud-trainer")


class Fleet:
    """The robots of one store and their sessions.

    checkpoints: folder with a checkpoint for each robot that has one; sessions go on from there.
    """

    def __init__(self, config: TrainerConfig, store: Store, checkpoints: Path, device: torch.device) -> None:
        """Take up the training of every robot in the store.

        Raises ConfigError where a checkpoint and the store do not belong together.
        """
        self.store = store
        self._config = config
        self._settings = TrainingSettings(**store.settings)
        self._checkpoints = checkpoints
        self._device = device
        self._disk = Notice(log)
        self._last = ""
        self.robots = {robot: self._load(robot) for robot in store.robots()}

    def enter(self, robot: str) -> None:
        """Enter a robot's new state into its log: it starts a network, or goes on with the one it has.

        Nothing is committed. Raises StorageError.
        """
        record = self.robots[robot]
        state = record.state
        assert state is not None
        if record.entered and state.weights == "checkpoint" and record.entered.split == state.split:
            log.info("robot %s is back, going on from its checkpoint", robot)
            self.store.append(robot, "rejoin", pack(state))
        else:
            try:
                start = self._new_start(robot, state)
            except ConfigError as error:
                log.warning("robot %s cannot be trained for: %s", robot, error)
                record.refused = str(error)[:400]
                return
            self.store.append(robot, "start", start.pack())
            record.intake = Intake(state.split, most_classes=self._config.most_classes)
        record.entered = state

    def next_to_train(self) -> str:
        """Return the robot whose turn it is: the next one, in a circle, with events left; empty where there is none."""
        names = list(self.robots)
        place = names.index(self._last) + 1 if self._last in self.robots else 0
        for robot in names[place:] + names[:place]:
            if self._has_events(robot):
                return robot
        return ""

    def train(self, robot: str) -> str:
        """Do what the robot's next event asks for. Return what was wrong with it, empty where nothing was."""
        self._last = robot
        record = self.robots[robot]
        event = self.store.next_event(robot, record.cursor)
        assert event is not None
        try:
            return self._apply(robot, record, event)
        except (ConfigError, MalformedMessage) as error:
            log.error("robot %s: training cannot go on: %s", robot, error)
            record.session, record.refused = None, str(error)[:400]
            return ""

    def finish_idle(self, robot: str) -> None:
        """Where a silent robot's log is done with, train on what is left over and save what is due."""
        record = self.robots[robot]
        if record.session is None or self._has_events(robot):
            return
        if record.session.waiting:
            self._append(robot, "flush")
        elif record.save_when_idle:
            record.save_when_idle = False
            self.save(robot)

    def save(self, robot: str) -> None:
        """Write a robot's checkpoint, if anything has changed since the last; then delete what no checkpoint needs."""
        record = self.robots[robot]
        session = record.session
        if session is None or (session.cursor == record.cursor_saved and not record.forget_up_to):
            return
        record.steps_saved = session.trainer.steps  # where it fails, not again at every step
        try:
            parts, about = session.checkpoint()
            about |= {"split": asdict(session.state.split), "start": record.start.decode()}
            save_checkpoint(self._checkpoints / robot, parts, about)
            record.cursor_saved = session.cursor
            if record.forget_up_to:
                self.store.forget(robot, record.forget_up_to)
                record.forget_up_to = 0
            self._disk.say("")
        except (OSError, StorageError) as error:
            self._disk.say(f"no checkpoint could be written, training goes on without: {error}")

    def make_room(self) -> str:
        """Give up the oldest trained samples where the store is nearly full. Return why it takes no more, if so."""
        limit = self._config.store_gb * 1e9
        used = self.store.bytes_used
        if used < NEARLY_FULL * limit:
            return ""
        for robot, record in self.robots.items():
            session = record.session
            excess = self.store.batch_bytes(robot) - ROOM_MADE * limit / len(self.robots)
            if session is None or excess <= 0:
                continue
            if up_to := self.store.oldest_batches(robot, session.oldest_needed - 1, round(excess)):
                log.info("the store is nearly full: robot %s gives up its oldest trained samples", robot)
                self._append(robot, "forget", str(up_to).encode())
            self.save(robot)  # deletes what was given up before
        return (
            f"the store is full, and all of it waits for training (--store-gb {self._config.store_gb:g})"
            if (self.store.bytes_used > limit)
            else ""
        )

    def _load(self, robot: str) -> RobotRecord:
        """Return what is known of a robot from its log and its checkpoint."""
        record = RobotRecord()
        folder = self._checkpoints / robot
        if (folder / CHECKPOINT).exists():
            parts, about = load_checkpoint(folder)
            record.start = about["start"].encode()
            record.session = self._open(robot, record.start)
            try:
                record.session.restore(parts, about)
            except (RuntimeError, KeyError) as error:
                raise ConfigError(f"the checkpoint {folder} does not belong to the store beside it: {error}") from error
            record.cursor_saved, record.steps_saved = record.cursor, record.session.trainer.steps
            if record.cursor > self.store.last_event(robot):
                raise ConfigError(
                    f"the checkpoint {folder} is from event {record.cursor}, the store ends at "
                    f"{self.store.last_event(robot)}: put back the store that belongs to it"
                )
        elif not self.store.is_whole(robot):
            log.warning(
                "robot %s has no checkpoint, and its oldest samples were given up: starting from the rest", robot
            )
        kind, payload = self.store.last_state(robot)
        record.entered = SessionStart.unpack(payload).state if kind == "start" else unpack_as(RobotState, payload)
        record.intake = Intake(record.entered.split, most_classes=self._config.most_classes)
        record.intake.know(record.session.trainer.classes if record.session else ())
        for batch in self.store.batches_after(robot, record.cursor):
            record.intake.know(unpack_as(ActivationBatch, batch).classes)
            record.messages_waiting += 1
        record.memory = memory_needed(record.entered.split, self._settings.batch)
        return record

    def _open(self, robot: str, start: bytes) -> RobotSession:
        return open_session(robot, SessionStart.unpack(start), self._settings, self._device, self.store.batch)

    def _new_start(self, robot: str, state: RobotState) -> SessionStart:
        needed = memory_needed(state.split, self._settings.batch)
        others = sum(record.memory for name, record in self.robots.items() if name != robot)
        limit = round(self._config.networks_gb * 1e9)
        if others + needed > limit:
            raise ConfigError(
                f"its network takes {needed / 1e9:.2f} GB, {(limit - others) / 1e9:.2f} GB are left (--networks-gb)"
            )
        start = measured_start(state, self._settings, self._device)
        self.robots[robot].memory = needed
        log.info(
            "robot %s: %s from %s on, %s", robot, state.split.backbone, state.split.cut, start.compute(self._device)
        )
        return start

    def _has_events(self, robot: str) -> bool:
        record = self.robots[robot]
        # A session that could not be opened, or failed, stays where it is until the robot starts anew.
        stuck = record.refused and record.session is None
        return not stuck and self.store.has_events(robot, record.cursor)

    def _apply(self, robot: str, record: RobotRecord, event: Event) -> str:
        if event.kind == "start":
            record.start, record.session = event.payload, self._open(robot, event.payload)
            record.session.cursor = event.id
            record.steps_saved = 0
            return ""
        session = record.session
        if session is None:
            raise MalformedMessage(f"event {event.id} comes before any start")
        session.apply(event)
        if event.kind == "batch":
            record.messages_waiting -= 1
        elif event.kind == "forget":
            record.forget_up_to = int(event.payload)
        if session.trainer.steps >= record.steps_saved + self._config.checkpoint_every:
            self.save(robot)
        return session.trouble

    def _append(self, robot: str, kind: Literal["flush", "forget"], payload: bytes = b"") -> None:
        try:
            self.store.append(robot, kind, payload)
            self.store.commit()
        except StorageError as error:
            self._disk.say(str(error))
