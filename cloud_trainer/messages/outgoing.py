"""What the trainer says: that it is there, how robots' training is doing, what is missing. To robots, log and page."""

from __future__ import annotations

import dataclasses
import logging
import time

from broker.link.base import Link, redial_if_silent, unanswered
from broker.wire import topics
from broker.wire.codec import pack
from broker.wire.messages import HEARTBEAT_SECONDS, TrainerMetrics, TrainerState
from cloud_trainer.messages.other_trainers import TAKEOVER_SECONDS, OtherTrainers
from cloud_trainer.robots.robot import Robot
from cloud_trainer.robots.told import no_metrics
from hierarchy.evaluation import RECENT
from hierarchy.runtime.command_line import Notice
from hierarchy.runtime.disk import REMIND_SECONDS

# After the disk refused to take something it is tried again this often; robots hold their data meanwhile.
RETRY_SECONDS = 10.0
# Between two warnings that nothing is taken: a store that is nearly full takes some and refuses the next, all the time.
WARNING_SECONDS = 60.0

log = logging.getLogger("cloud-trainer")


class Outgoing:
    """Speaks for one trainer. state: what it says of itself."""

    def __init__(
        self, state: TrainerState, trainer: str, link: Link, others: OtherTrainers, robots: dict[str, Robot]
    ) -> None:
        """robots: all that the trainer knows; the owner adds and removes them."""
        self.state = state
        self._trainer = trainer
        self._link = link
        self._others = others
        self._robots = robots
        self._notice = Notice(log)
        self._connection = 0
        self._announced_at = float("-inf")
        self._next_heartbeat = self._retry_at = 0.0
        self._problem_said = ""  # in the log, and not over yet
        self._warned_at = float("-inf")

    @property
    def problem(self) -> str:
        """Why nothing is taken; empty where it is."""
        return self.state.trouble

    def beat(self, now: float) -> None:
        """Say that the trainer is there, where that is due, and dial anew where nobody seems to hear it."""
        if self._link.connections != self._connection or now >= self._next_heartbeat:
            self._announce(now)
        if redial_if_silent(self._link, self._announced_at, now):
            self._announced_at = float("-inf")  # until there is an answer to wait for again

    def announce_soon(self) -> None:
        """Say it in the next turn: another trainer has taken the place of our state at the broker."""
        self._next_heartbeat = 0.0

    def _announce(self, now: float) -> None:
        if not self._others.name_is_free(now):
            return
        topic = topics.topic("trainer", self._trainer, "state")
        if self._link.publish(topic, pack(self.state), qos=1, retain=True):
            self._connection = self._link.connections
            self._next_heartbeat = now + HEARTBEAT_SECONDS
            self._announced_at = unanswered(self._announced_at, self._link.heard_at, now)
            for robot in self._robots.values():
                robot.told.published = None  # metrics are QoS 0: say them again, in case some were lost

    # Whether anything is taken

    def pause(self, problem: str, where: str = "") -> None:
        """Say why nothing is taken for a while. where: to make room, for who reads the log."""
        self._retry_at = time.monotonic() + RETRY_SECONDS
        self._set_problem(problem, where)

    def resume_if_due(self, now: float) -> None:
        """Take messages again, after a while."""
        if now >= self._retry_at:
            self._set_problem("")

    def note_stored(self) -> None:
        """Say that what comes is taken, where the log has said that it is not."""
        if self._problem_said:
            self._problem_said = ""
            log.info("taking activations again")

    def _set_problem(self, problem: str, where: str = "") -> None:
        now = time.monotonic()
        pause = WARNING_SECONDS if problem != self._problem_said else REMIND_SECONDS
        if problem and now >= self._warned_at + pause:
            self._problem_said, self._warned_at = problem, now
            log.warning("taking no activations: %s%s", problem, where)
        if problem[:400] != self.problem:
            self.state = dataclasses.replace(self.state, trouble=problem[:400])
            self._announce(now)

    # How training is doing

    def publish_metrics(self, now: float) -> None:
        """Tell robots what is new of their training."""
        for robot in list(self._robots.values()):
            if (metrics := robot.told.news(robot.trainer_metrics(now))) and self._publish(metrics):
                robot.told.published = metrics

    def turn_away(self, robot: str, boot: str, reason: str) -> None:
        """Tell a robot that it is not let in, and why."""
        self._publish(no_metrics(robot, boot, reason))

    def _publish(self, metrics: TrainerMetrics) -> bool:
        if not self._others.name_is_free(time.monotonic()):
            return False
        payload = pack(metrics)
        # To the robot alone; and for whoever watches them all, and for robots of before, who read nothing else.
        return self._link.publish(topics.cloud_metrics_topic(metrics.robot, self._trainer), payload) and (
            self._link.publish(topics.topic("trainer", self._trainer, "metrics"), payload)
        )

    def say_what_is_missing(self) -> None:
        """Say in the log what the trainer waits for, once."""
        if not self._link.connected:
            self._notice.say(f"waiting for the broker ({self._link.problem})")
        elif not self._others.name_is_free(time.monotonic()):
            seconds = TAKEOVER_SECONDS
            self._notice.say(
                f"another trainer seems to be named {self._trainer!r}: waiting {seconds:g} s for a sign of life"
            )
        elif not any(robot.state for robot in self._robots.values()):
            self._notice.say("connected; waiting for robots")
        else:
            self._notice.say("")

    def report(self) -> None:
        """Say in the log what robots' training has come to."""
        for name, robot in self._robots.items():
            if (doubted := robot.told.doubt_news(robot.doubt)) is not None:
                log.warning("robot %s: %s", name, doubted or "what it sends teaches something now")
            if metrics := robot.told.progress_news(robot.standing.metrics if robot.standing else None):
                log.info(
                    "robot %s: %s images, %d classes, loss %.2f, %.1f %% right of the last %s, %s messages wait",
                    name,
                    f"{metrics.images:,}",
                    metrics.classes,
                    metrics.cloud_loss,
                    100 * (metrics.cloud_recent or 0),
                    f"{RECENT:,}",
                    f"{robot.messages_waiting:,}",
                )
