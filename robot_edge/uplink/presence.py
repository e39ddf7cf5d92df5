"""Who is at the broker: this robot, the trainers, and another robot with this one's name."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable

from broker.errors import NameTaken
from broker.link.base import Link, redial_if_silent, unanswered
from broker.wire import topics
from broker.wire.codec import pack
from broker.wire.messages import AWAY_SECONDS, HEARTBEAT_SECONDS, RobotState, TrainerState

# Trainers that are remembered: names cost nothing where a broker lets anybody in. With their workers, four real ones.
MAX_TRAINERS = 64
# Our own heartbeat comes back from the broker. Where it has not for this long, the broker is to blame, or our rights at
# it, and not the trainer.
QUIET_SECONDS = 1.5 * HEARTBEAT_SECONDS
# A namesake that died with its broker left no last will. After so long without a heartbeat its name is free.
NAMESAKE_SECONDS = 2.5 * HEARTBEAT_SECONDS

log = logging.getLogger("robot-edge")


def will(robot: str, state: RobotState) -> tuple[str, bytes]:
    """Return the topic and payload that say this robot is gone."""
    return topics.topic("robot", robot, "state"), pack(dataclasses.replace(state, online=False))


class Presence:
    """Announces this robot, and knows which trainers are there to send to."""

    def __init__(self, link: Link, robot: str, state: RobotState, clock: Callable[[], float]) -> None:
        self._link = link
        self._robot = robot
        self._state = state
        self._clock = clock
        self._trainers: dict[str, TrainerState] = {}
        self._heard: dict[str, float] = {}  # when each trainer last said its state
        self._own_trainer = ""  # the one that last told us how our training goes
        self._namesake: RobotState | None = None
        self._namesake_until = 0.0
        self._connection = 0  # that there is
        self._joined_connection = 0  # on which our state was published last
        self._next_heartbeat = 0.0
        self._announced_at = float("-inf")
        self._tell_apart()

    @property
    def trainer_online(self) -> bool:
        """Whether a trainer is there to send to."""
        return self._link.connected and bool(self._present_trainers)

    @property
    def waits_for(self) -> str:
        """What is missing before activations can go out, for people; empty when nothing is."""
        if not self._link.connected:
            return f"the broker ({self._link.problem})"
        if not self.trainer_online and self._is_unanswered:
            return "the broker (connected, but it passes nothing on: perhaps it refuses us access by now)"
        if not self.trainer_online:
            return "a cloud trainer (cloud-trainer run --broker with the same URL)"
        problems = [self._trainers[name].trouble for name in self._present_trainers]
        if all(problems):
            return f"the cloud trainer ({problems[0]})"
        if self._namesake:
            return f"the name {self._robot!r}, which another robot seems to use"
        return ""

    @property
    def trainer_heard(self) -> float | None:
        """How many seconds ago a trainer that is there gave its last sign of life; None where none is there."""
        return min((self._clock() - self._heard[name] for name in self._present_trainers), default=None)

    @property
    def joined(self) -> bool:
        """Whether our state was published on the connection that there is."""
        return self._link.connected and self._joined_connection == self._link.connections

    @property
    def was_announced(self) -> bool:
        """Whether our state was ever published: before that the name may be another robot's."""
        return self._joined_connection > 0

    def is_due(self, now: float) -> bool:
        """Whether our state is to be published now.

        The heart beats on while a trainer is away, or another robot would take its name for left.
        """
        return now >= self._next_heartbeat if self.joined else not self.waits_for

    def announce(self, now: float, *, edits: int) -> None:
        """Publish our state. edits: class edits that a trainer has stored.

        A trainer that takes over would wait for ever for edits that only the one before it was told of.
        """
        topic = topics.topic("robot", self._robot, "state")
        if self._link.publish(topic, pack(dataclasses.replace(self._state, edits=edits)), qos=1, retain=True):
            self._joined_connection = self._link.connections
            self._next_heartbeat = now + HEARTBEAT_SECONDS
            self._announced_at = unanswered(self._announced_at, self._link.heard_at, now)

    def is_new_connection(self) -> bool:
        """Whether the link has another connection than at the last call.

        Then the trainers are forgotten: where they are online, their states are about to come in again.
        """
        if self._connection == self._link.connections:
            return False
        self._connection = self._link.connections
        self._trainers.clear()
        self._heard.clear()
        return True

    def pass_time(self, now: float) -> None:
        """Take over the name of a robot that gave no sign of life, and dial again where the broker is silent."""
        if self._namesake and now > self._namesake_until:
            log.warning("no sign of life from the other robot %r: taking the name over", self._robot)
            self._namesake = None
        if redial_if_silent(self._link, self._announced_at, now):
            self._announced_at = float("-inf")  # until there is an answer to wait for again

    def hear_namesake(self, other: RobotState, *, retained: bool) -> None:
        """Take in a state under this robot's name. Of two robots with one name the one that started first stays.

        Raises NameTaken.
        """
        if other.boot == self._state.boot:
            return
        if not other.online:
            self._namesake = None
        elif self.was_announced and (other.started, other.boot) > (self._state.started, self._state.boot):
            self._next_heartbeat = 0.0  # it has overwritten our retained state
        elif retained:
            # Perhaps a robot that died when its broker did, so that its last will never came: wait for a heartbeat.
            self._namesake, self._namesake_until = other, self._clock() + NAMESAKE_SECONDS
        else:
            raise NameTaken(
                f"another robot named {self._robot!r} is online (boot {other.boot}): give this one its own --robot name"
            )

    def hear_trainer(self, name: str, trainer: TrainerState) -> bool:
        """Take in a trainer's state; return whether it has come, or come back, to train for this robot.

        What was on the way is lost then: with its connection, or ours, or the broker. A new trainer process has not
        seen what the old one took but did not store.
        """
        before, present = self._trainers.get(name), self._present_trainers
        stayed = before is not None and before.boot == trainer.boot and name in present
        concerns_us = name == self._own_trainer or self._own_trainer not in present
        self._trainers[name], self._heard[name] = trainer, self._clock()
        if len(self._trainers) > MAX_TRAINERS:
            oldest = min((one for one in self._heard if one != self._own_trainer), key=self._heard.__getitem__)
            del self._trainers[oldest], self._heard[oldest]
        has_come = trainer.online and not stayed and concerns_us
        if has_come:
            self._next_heartbeat = 0.0
        return has_come

    def is_trained_by(self, name: str) -> None:
        """Note which trainer trains for this robot."""
        if self._own_trainer != name:
            self._own_trainer = name
            self._tell_apart()

    def _tell_apart(self) -> None:
        """Have the link keep what is sent to us, and by our trainer, from what anybody may send."""
        own = [topics.sender("robot", self._robot)]
        self._link.know([*own, topics.sender("trainer", self._own_trainer)] if self._own_trainer else own)

    @property
    def _is_unanswered(self) -> bool:
        """Whether not even our own heartbeat comes back."""
        heard_at = self._link.heard_at
        answered = float("-inf") < self._announced_at <= heard_at  # the former is just being dialled again
        return self.joined and not answered and self._clock() - heard_at > QUIET_SECONDS

    @property
    def _present_trainers(self) -> list[str]:
        """Those to send for: the one that trains for this robot, or all that are there while that one is not."""
        now = self._clock()
        there = [
            name
            for name, trainer in list(self._trainers.items())  # a copy: other threads ask, too
            if trainer.online and now - self._heard.get(name, -math.inf) <= AWAY_SECONDS
        ]
        return [self._own_trainer] if self._own_trainer in there else there
