"""Finds out whether a network that a robot is about to begin can be trained here, and how fastest. Takes seconds."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace

from broker.errors import ConfigError, PeerError
from broker.wire.messages import RobotState, SplitSpec
from cloud_trainer.cost import check_time, machine_speed
from cloud_trainer.logs import is_shared, log_of, title
from cloud_trainer.robots.entry import Preparation
from cloud_trainer.robots.network_training import NetworkTraining
from cloud_trainer.robots.robot import Robot
from cloud_trainer.robots.workplace import Workplace
from cloud_trainer.session.session_start import begins_with, new_start
from cloud_trainer.session.start import SessionStart
from hierarchy.runtime.downloads import Downloads

# Starts whose measurements are remembered: networks of different splits are few.
MAX_REMEMBERED = 16

logger = logging.getLogger("cloud-trainer")


class Preparer:
    """Builds networks on trial.

    robots: all of the trainer, whose networks need not be measured once more. trainings: by log.
    """

    def __init__(
        self, workplace: Workplace, robots: Mapping[str, Robot], trainings: Mapping[str, NetworkTraining]
    ) -> None:
        self._workplace = workplace
        self._robots = robots
        self._trainings = trainings
        self._downloads = Downloads()
        self._recent: OrderedDict[SplitSpec, bytes] = OrderedDict()  # starts, also of robots that have gone

    def close(self) -> None:
        """End what is being downloaded."""
        self._downloads.close()

    def prepare(self, robot: str, state: RobotState) -> Preparation:
        """Return what came of a robot's state. Who takes messages in enters it: that is about the log."""
        room, log = self._workplace.room, log_of(robot, state)
        try:
            cost = room.cost(state)
            left = room.beside(log, cost)
            if self._rests(log):
                return Preparation(robot=robot, state=state, cost=cost)
            if begins_with(state) == "default" and (waits := self._downloads.waits_for(state.split.backbone)):
                return Preparation(robot=robot, state=state, waits=waits)
            check_time(cost, machine_speed(self._workplace.device))
            start = self._new_start(log, robot, state, left)
        # It is built from the robot's words, and a step of it taken: whatever comes of that is the robot's trouble.
        except (ConfigError, PeerError, RuntimeError, ValueError, MemoryError) as error:
            return Preparation(robot=robot, state=state, refused=(str(error) or type(error).__name__)[:400])
        return Preparation(robot=robot, state=state, start=start, cost=cost)

    def _rests(self, log: str) -> bool:
        """Whether a fleet's network waits on the disk for a robot to come back."""
        training = self._trainings.get(log)
        return is_shared(log) and training is not None and training.rests

    def _new_start(self, log: str, robot: str, state: RobotState, left: int) -> SessionStart:
        settings, device = self._workplace.settings, self._workplace.device
        known = [*self._known_starts(robot), *self._recent.values()]
        start = new_start(log, state, settings, device, known=known, room=left)
        self._recent[replace(state.split, bits=1)] = start.pack()
        if len(self._recent) > MAX_REMEMBERED:
            self._recent.popitem(last=False)
        logger.info("%s: %s from %s on, %s", title(log), state.split.backbone, state.split.cut, start.compute(device))
        return start

    def _known_starts(self, robot: str) -> list[bytes]:
        """Return starts on this machine, the robot's own first."""
        robots = dict(self._robots)
        own = robots.get(robot)  # it may have given way to another one meanwhile
        # Those entered count too: robots that come together are all entered before any of them is trained for.
        entered = [start for one in robots.values() for start in (one.training.start, one.start_entered)]
        prepared = [its.start.pack() for one in robots.values() if (its := one.prepared) and its.start]
        return [start for start in (own.training.start if own else b"", *entered, *prepared) if start]
