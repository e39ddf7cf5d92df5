"""All robots of one store: who is let in, whose turn it is, who gives up room. Knows no broker."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from broker.errors import ConfigError, Superseded
from broker.wire.codec import unpack_as
from broker.wire.messages import ActivationBatch, RobotMetrics, RobotState, SplitSpec
from cloud_trainer.checkpoints import FORMER, CheckpointFolder, CheckpointPlace
from cloud_trainer.config import TrainerConfig, TrainingSettings
from cloud_trainer.cost import TooCostly
from cloud_trainer.logs import belongs_to, is_shared, title
from cloud_trainer.robots.entry import entered_state, why_apart
from cloud_trainer.robots.intake import Intake
from cloud_trainer.robots.network_room import NetworkRoom
from cloud_trainer.robots.network_training import NetworkTraining, Problem
from cloud_trainer.robots.new_networks import Preparer
from cloud_trainer.robots.robot import Robot
from cloud_trainer.robots.saved_network import refuse_strange_checkpoints
from cloud_trainer.robots.workplace import Workplace
from cloud_trainer.session.batches import KeptBatches
from cloud_trainer.store.log import Store
from hierarchy.runtime.disk import DiskWatch

# The store gives up its oldest trained samples when it is this full, and goes down to this.
NEARLY_FULL, ROOM_MADE = 0.9, 0.8

logger = logging.getLogger("cloud-trainer")


def fair_share(sizes: Sequence[int], room: float) -> float:
    """Return what each of those sizes may hold at most to fit the room together: small ones leave theirs to others."""
    for count, size in enumerate(sorted(sizes)):
        share = room / (len(sizes) - count)
        if size > share:
            return share
        room -= size
    return math.inf


class Fleet:
    """The robots of one store.

    trainings: of all logs, by name. preparer: of networks that robots are about to begin. meet(), enter() and
    tell_apart() are for the thread that takes messages in, all else is for the one that trains.
    """

    def __init__(
        self,
        config: TrainerConfig,
        store: Store,
        folder: Path,
        device: torch.device,
        place: CheckpointPlace | None = None,
        room: Callable[[TrainerConfig, int, torch.device], NetworkRoom] | None = None,
    ) -> None:
        """Take up the training of every robot in the store, and become its owner.

        folder: the run's. place: of the checkpoints; the run's folder by default.
        room: given, nothing is taken up but what `take_up` is asked for, and the networks have this room.
        Raises ConfigError where a checkpoint and the store do not belong together, and StorageError.
        """
        self.store = store
        self.disk = DiskWatch(logger, folder)
        place = place or CheckpointFolder(folder)
        self._owner = f"{config.trainer} on {socket.gethostname()}, process {os.getpid()}"
        settings = TrainingSettings(**store.settings)
        self.room = (room or NetworkRoom)(config, settings.batch, device)
        self.batches = KeptBatches()
        self._config = config
        self._is_one_of_many = room is not None
        self._workplace = Workplace(
            config=config,
            settings=settings,
            store=store,
            place=place,
            device=device,
            room=self.room,
            batches=self.batches,
            disk=self.disk,
        )
        self._last = ""
        self.trainings: dict[str, NetworkTraining] = {}
        self.robots: dict[str, Robot] = {}
        self.preparer = Preparer(self._workplace, self.robots, self.trainings)
        self._intakes: dict[str, Intake] = {}  # of logs that several robots share
        if room is None:
            refuse_strange_checkpoints(place, store.logs())
            self._resume()

    def meet(self, name: str, now: float = 0.0) -> Robot:
        """Return a new robot of that name. now: monotonic seconds."""
        self._training(name)
        self.robots[name] = Robot(name, self.trainings, since=now)
        return self.robots[name]

    def give_up(self, name: str) -> None:
        """Know a robot no more that has sent nothing to train on."""
        del self.robots[name]
        self.trainings.pop(name, None)

    def give_up_classes(self, name: str, log: str) -> None:
        """Let classes that a robot alone taught in a log make room: its samples were taken out."""
        if log in self._intakes:
            self._intakes[log].leave(name)

    def training_of(self, robot: str) -> NetworkTraining:
        """Return the training of the network that a robot belongs to."""
        return self.trainings[self.robots[robot].training.log]

    def _training(self, log: str) -> NetworkTraining:
        if log not in self.trainings:
            self.trainings[log] = NetworkTraining(log, self._workplace)
        return self.trainings[log]

    def _intake(self, log: str, split: SplitSpec) -> Intake:
        """Return what a log's messages are held against: in one that several share, by all of them together."""
        shared = is_shared(log)
        if shared and log in self._intakes:
            return self._intakes[log]
        intake = Intake(split, most_classes=self._config.most_classes, shared=shared)
        return self._intakes.setdefault(log, intake) if shared else intake

    def _resume(self) -> None:
        """Let every robot go on from its log and the checkpoint of that."""
        entries = {name: self._states_of(name) for name in self.store.robots()}
        if lacking := [name for name, its in entries.items() if not its]:
            raise ConfigError(f"the log of robot {lacking[0]} does not begin with a start: is it another version's?")
        newest = dict(filter(None, map(belongs_to, entries.values())))
        logs = self.store.logs()
        intakes = {
            log: self._resume_log(log, newest.get(log)) for log in sorted(logs, key=lambda log: log not in newest)
        }
        for name, its in entries.items():
            belongs = belongs_to(its)
            log = belongs[0] if belongs else name
            self._resume_robot(name, its, self._training(log), intakes.get(log) if belongs else None)

    def _states_of(self, robot: str) -> list[tuple[str, RobotState]]:
        """Return a robot's states, with the logs that they entered."""
        return [(log, entered_state(event)) for log, event in self.store.states_of(robot)]

    def _resume_robot(
        self, name: str, its: Sequence[tuple[str, RobotState]], training: NetworkTraining, intake: Intake | None
    ) -> Robot:
        """Return a robot with what the store has of it.

        its: its states, with the logs that they entered. training, intake: of the log that it belongs to.
        """
        robot, metrics = self.meet(name), self.store.metrics(name)
        robot.resume(its, training, intake, unpack_as(RobotMetrics, metrics) if metrics else None)
        return robot

    # One log after the other, where others train on the rest

    def take_up(self, log: str) -> None:
        """Let training go on from a log, and know the robots that belong to it. Raises as the constructor does."""
        self.drop(log)
        names = list(dict.fromkeys(event.robot or log for event in self.store.states(log)))
        entries = {name: self._states_of(name) for name in names}
        entered = {name: belongs_to(its) for name, its in entries.items()}
        newest = [one[1] for one in entered.values() if one and one[0] == log]
        if not names:
            self.store.claim(log, self._owner)
            self._training(log)
            return
        intake = self._resume_log(log, newest[-1] if newest else entered_state(self.store.states(log)[-1]))
        for name, one in entered.items():
            if one is None or one[0] == log:
                self._resume_robot(name, entries[name], self._training(log if one else name), intake if one else None)

    def know(self, name: str, now: float) -> Robot:
        """Return a robot that has said something, with what the store has of it."""
        if name in self.robots:
            return self.robots[name]
        its = self._states_of(name)
        if not its:
            return self.meet(name, now)
        belongs = belongs_to(its)
        log, state = belongs or (name, its[-1][1])
        training = self.trainings.get(log) or NetworkTraining(log, self._workplace)  # which others train
        return self._resume_robot(name, its, training, self._intake(log, state.split) if belongs else None)

    def drop(self, log: str) -> None:
        """Know a log no more, nor the robots that belong to it. Nothing is saved."""
        for name in [name for name, robot in self.robots.items() if robot.training.log == log]:
            self.batches.drop(name)
            del self.robots[name]
        if training := self.trainings.pop(log, None):
            training.session = None  # whoever still has it trains no more
        self._intakes.pop(log, None)
        self.room.give_up(log)

    def _resume_log(self, log: str, newest: RobotState | None) -> Intake:
        """Let training go on from a log. newest: state of a robot that belongs to it, None where none does."""
        self.store.claim(log, self._owner)
        training, states = self._training(log), self.store.states(log)
        training.resume(deserted=newest is None)
        if not states or states[0].kind != "start":
            raise ConfigError(f"the log of {title(log)} does not begin with a start: is it another version's?")
        intake = self._intake(log, entered_state(states[-1]).split)
        if session := training.session:
            intake.know(session.trainer.classes)
            for name, member in session.members.items():
                intake.know(member.taught, name)
        for event in self.store.batches_after(log, training.cursor):
            intake.know(unpack_as(ActivationBatch, event.payload).classes, event.robot)
            training.stored[event.robot] += 1
        if newest:
            self.room.keep_if_any(log, newest)  # where there is none, that is said when the log comes to it
        training.note_standing()
        training.note_details()
        return intake

    # Who is let in

    def enter(self, name: str, store: Store) -> int:
        """Enter a robot's new state into its log: it starts a network, or goes on with the one it has.

        Return the event, which is not committed; 0 where nothing is done, as where a network must be prepared first.
        Raises StorageError. store: of the thread that calls this.
        """
        robot = self.robots[name]
        if not robot.enters:
            return 0
        assert robot.state
        log, prepared = robot.log, robot.prepared if robot.is_prepared else None
        shared = is_shared(log) and store.has_events(log, 0)
        if not shared and prepared is None:
            logger.info("robot %s is back, going on from its checkpoint", name)
            return robot.rejoin(store)
        if prepared and prepared.cost and not (shared and prepared.start):  # else its room is kept already
            try:  # again: what was prepared holds no room, and others may have come
                self.room.beside(log, prepared.cost)
            except TooCostly as error:
                robot.refuse(str(error))
                return 0
            self.room.keep(log, prepared.cost)
        self._say_what_is_given_up(robot)
        if log not in store.claims:
            store.claim(log, self._owner)
        enter = robot.join if shared else robot.begin
        try:
            return enter(self._training(log), self._intake(log, robot.state.split), store)
        except Superseded as error:
            if self._is_one_of_many:
                raise
            robot.refuse(str(error))
            return 0

    def _say_what_is_given_up(self, robot: Robot) -> None:
        state = robot.state
        assert state
        if robot.training.log != robot.log:
            if robot.entered:
                logger.warning("robot %s leaves %s for %s", robot.name, title(robot.training.log), title(robot.log))
            return
        if is_shared(robot.log):
            logger.info("robot %s is back, and shares what %s knows", robot.name, title(robot.log))
            return
        if robot.entered:
            logger.warning(
                "robot %s begins %s: the network that it had until now learns no more, and is kept for --weights %s",
                robot.name,
                "its run anew" if robot.entered.run == state.run else "another run",
                self._workplace.place.where(FORMER),
            )
        if state.weights == "checkpoint" and self._workplace.settings.weights == "none":
            logger.warning(
                "robot %s goes on with a front that was trained before, and there is no network here that belongs to "
                "it: its other half starts from %s; a trainer with --weights FOLDER starts from a former one",
                robot.name,
                "nothing" if state.rest_weights == "none" else "the pretrained weights that the robot once began with",
            )

    def tell_apart(self) -> None:
        """Find out which robots of a fleet share nothing with it, or not with all, and why; say what is new of that."""
        there = {name: robot.state for name, robot in self.robots.items() if robot.online and robot.state}
        for name, state in there.items():
            robot = self.robots[name]
            why = robot.taken_out or why_apart(name, state, there)
            if why and why != robot.apart:
                logger.warning("robot %s: %s", name, why)
            robot.apart = why

    # Turns

    def fed(self) -> dict[str, float]:
        """Return when anything to train on came last, monotonic seconds, by log, of those that robots belong to."""
        fed: dict[str, float] = {}
        for robot in dict(self.robots).values():  # another thread lets new ones in
            log = robot.training.log
            fed[log] = max(robot.fed, fed.get(log, -math.inf))
        return fed

    def next_to_train(self) -> str:
        """Return the log whose turn it is: the next one, in a circle, with work to do; empty where there is none."""
        trainings = dict(self.trainings)
        names = list(trainings)
        place = names.index(self._last) + 1 if self._last in trainings else 0
        return next((name for name in names[place:] + names[:place] if trainings[name].has_work), "")

    def train(self, log: str) -> Problem | None:
        """Take a turn at what a log asks for. Return what was wrong with it, None where nothing was."""
        self._last = log
        return self.trainings[log].turn()

    def settle(self, log: str, seconds: float = math.inf) -> None:
        """End idle rehearsal, where it is in the middle, in so many seconds."""
        self.trainings[log].settle(seconds)

    def save(self, log: str) -> bool:
        """Write a network's checkpoint, if anything has changed; False where the disk does not take it."""
        return self.trainings[log].save()

    def make_room(self) -> str:
        """Give up the oldest trained samples where the store is nearly full. Return why it takes no more, if so."""
        limit = self._config.store_gb * 1e9
        used = self.store.bytes_used
        if used < NEARLY_FULL * limit:
            return ""
        trainings = dict(self.trainings)
        held = {(log, robot): size for log in trainings for robot, size in self.store.batch_bytes(log).items()}
        # A batch takes more of the disk than it has bytes: the rest of a page, and its place in two indices.
        share = fair_share(list(held.values()), ROOM_MADE * limit * sum(held.values()) / used)
        for (log, robot), size in held.items():
            if size > share:
                trainings[log].give_up_oldest(robot, math.ceil(size - share))
        return (
            f"the store is full (--store-gb {self._config.store_gb:g}): there is room again when its oldest samples "
            "are trained on and given up"
            if (self.store.bytes_used > limit)
            else ""
        )
