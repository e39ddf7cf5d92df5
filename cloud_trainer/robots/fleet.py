"""All robots of one store: who is let in, whose turn it is, who gives up room. Knows no broker."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from broker.errors import ConfigError
from broker.wire.codec import unpack_as
from broker.wire.messages import ActivationBatch, RobotMetrics
from cloud_trainer.config import TrainerConfig, TrainingSettings
from cloud_trainer.cost import TooCostly
from cloud_trainer.robots.entry import entered_state
from cloud_trainer.robots.network_room import NetworkRoom
from cloud_trainer.robots.network_training import NetworkTraining, Workplace
from cloud_trainer.robots.new_networks import Preparer
from cloud_trainer.robots.robot import Robot
from cloud_trainer.robots.saved_network import FORMER, refuse_strange_checkpoints
from cloud_trainer.session.batches import KeptBatches
from cloud_trainer.store import Store
from hierarchy.runtime.disk import DiskWatch

# The store gives up its oldest trained samples when it is this full, and goes down to this.
NEARLY_FULL, ROOM_MADE = 0.9, 0.8

log = logging.getLogger("cloud-trainer")


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

    preparer: of networks that robots are about to begin. meet() and enter() are for the thread that takes messages in,
    all else is for the one that trains.
    """

    def __init__(self, config: TrainerConfig, store: Store, checkpoints: Path, device: torch.device) -> None:
        """Take up the training of every robot in the store. checkpoints: folder with one for each robot that has any.

        Raises ConfigError where a checkpoint and the store do not belong together.
        """
        self.store = store
        self.disk = DiskWatch(log, checkpoints.parent)
        settings = TrainingSettings(**store.settings)
        self.room = NetworkRoom(config, settings.batch, device)
        self.batches = KeptBatches()
        self._config = config
        self._workplace = Workplace(
            config=config,
            settings=settings,
            store=store,
            checkpoints=checkpoints,
            device=device,
            room=self.room,
            batches=self.batches,
            disk=self.disk,
        )
        self._last = ""
        self.robots: dict[str, Robot] = {}
        self.preparer = Preparer(self._workplace, self.robots)
        refuse_strange_checkpoints(checkpoints, store.robots())
        for name in store.robots():
            self._resume(self.meet(name))

    def meet(self, name: str, now: float = 0.0) -> Robot:
        """Return a new robot of that name. now: monotonic seconds."""
        training = NetworkTraining(name, self._workplace)
        self.robots[name] = Robot(name, training, most_classes=self._config.most_classes, since=now)
        return self.robots[name]

    def _resume(self, robot: Robot) -> None:
        """Let a robot go on from its log and its checkpoint."""
        training, states = robot.training, self.store.states(robot.name)
        training.resume()
        if not states or states[0].kind != "start":
            raise ConfigError(f"the log of robot {robot.name} does not begin with a start: is it another version's?")
        metrics = self.store.metrics(robot.name)
        robot.resume(
            [entered_state(event) for event in states],
            (unpack_as(ActivationBatch, one).classes for one in self.store.batches_after(robot.name, training.cursor)),
            unpack_as(RobotMetrics, metrics) if metrics else None,
        )
        assert robot.entered
        self.room.keep_if_any(robot.name, robot.entered)  # where there is none, that is said when the log comes to it
        training.note_standing()
        training.note_details()

    # Who is let in

    def enter(self, name: str, store: Store) -> None:
        """Enter a robot's new state into its log: it starts a network, or goes on with the one it has.

        Nothing is committed, and nothing done where a network must be prepared first. Raises StorageError.
        store: of the thread that calls this.
        """
        robot = self.robots[name]
        if not robot.enters:
            return
        if not robot.is_prepared:
            log.info("robot %s is back, going on from its checkpoint", name)
            robot.rejoin(store)
            return
        assert robot.prepared
        assert robot.prepared.cost
        cost = robot.prepared.cost
        try:  # again: what was prepared holds no room, and others may have come
            self.room.beside(name, cost)
        except TooCostly as error:
            robot.refuse(str(error))
            return
        self._say_what_is_given_up(robot)
        self.room.keep(name, cost)
        robot.begin(store)

    def _say_what_is_given_up(self, robot: Robot) -> None:
        state = robot.state
        assert state
        if robot.entered:
            log.warning(
                "robot %s begins %s: the network that it had until now learns no more, and is kept for --weights %s",
                robot.name,
                "its run anew" if robot.entered.run == state.run else "another run",
                self._workplace.checkpoints.parent / FORMER,
            )
        if state.weights == "checkpoint" and self._workplace.settings.weights == "none":
            log.warning(
                "robot %s goes on with a front that was trained before, and there is no network here that belongs to "
                "it: its other half starts from %s; a trainer with --weights FOLDER starts from a former one",
                robot.name,
                "nothing" if state.rest_weights == "none" else "the pretrained weights that the robot once began with",
            )

    # Turns

    def next_to_train(self) -> str:
        """Return the robot whose turn it is: the next one, in a circle, with work to do; empty where there is none."""
        robots = dict(self.robots)  # another thread lets new ones in
        names = list(robots)
        place = names.index(self._last) + 1 if self._last in robots else 0
        return next((name for name in names[place:] + names[:place] if robots[name].training.has_work), "")

    def train(self, name: str) -> str:
        """Take a turn at what a robot's log asks for. Return what was wrong with it, empty where nothing was."""
        self._last = name
        return self.robots[name].training.turn()

    def settle(self, name: str, seconds: float = math.inf) -> None:
        """End a robot's idle rehearsal, where it is in the middle, in so many seconds."""
        self.robots[name].training.settle(seconds)

    def save(self, name: str) -> bool:
        """Write a robot's checkpoint, if anything has changed; False where the disk does not take it."""
        return self.robots[name].training.save()

    def make_room(self) -> str:
        """Give up the oldest trained samples where the store is nearly full. Return why it takes no more, if so."""
        limit = self._config.store_gb * 1e9
        used = self.store.bytes_used
        if used < NEARLY_FULL * limit:
            return ""
        robots = dict(self.robots)
        held = {name: self.store.batch_bytes(name) for name in robots}
        # A batch takes more of the disk than it has bytes: the rest of a page, and its place in two indices.
        share = fair_share(list(held.values()), ROOM_MADE * limit * sum(held.values()) / used)
        for name, robot in robots.items():
            if held[name] > share:
                robot.training.give_up_oldest(math.ceil(held[name] - share))
        return (
            f"the store is full (--store-gb {self._config.store_gb:g}): there is room again when its oldest samples "
            "are trained on and given up"
            if (self.store.bytes_used > limit)
            else ""
        )
