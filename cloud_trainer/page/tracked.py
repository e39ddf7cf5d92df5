"""What a trainer's trackers are told of each robot. No picture is among it: none comes here."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from cloud_trainer.robots.robot import Robot
from hierarchy.runtime.tracking.figures import figures, news
from hierarchy.runtime.tracking.trackers import Trackers

FIGURES_SECONDS = 1.0


@dataclass(kw_only=True, eq=False)
class RobotsTracking:
    """Tells trackers what is new of each robot, under its name. One thread calls."""

    trackers: Trackers
    _told: dict[str, dict[str, float]] = field(default_factory=dict)
    _tests: dict[str, tuple[int, int]] = field(default_factory=dict)  # the round at the last look, and its frames
    _tests_told: dict[str, tuple[int, int]] = field(default_factory=dict)
    _next: float = -math.inf

    def post(self, robots: Iterable[Robot], now: float, *, is_last: bool = False) -> None:
        """Tell what is new, if it is time for it. now: monotonic seconds. is_last: whether it is the run's end."""
        if now < self._next and not is_last:
            return
        self._next = now + FIGURES_SECONDS
        for robot in robots:
            self._tell(robot, now, is_last=is_last)

    def _tell(self, robot: Robot, now: float, *, is_last: bool) -> None:
        cloud, standing, name = robot.trainer_metrics(now), robot.standing, robot.name
        values = figures(robot.metrics, cloud)
        if cloud is None or standing is None:
            return
        if news(values) != self._told.get(name):
            self._told[name] = news(values)
            self.trackers.scalars(cloud.images, values, f"{name}/")
        # Its details are counted once a second, and while a test goes on each look finds more of it.
        seen = sum(sum(row.values()) for row in standing.confusion.values())
        test, self._tests[name] = self._tests.get(name), (standing.metrics.evaluation, seen)
        if seen and (is_last or test == self._tests[name]) and self._tests[name] != self._tests_told.get(name):
            self._tests_told[name] = self._tests[name]
            self.trackers.test(cloud.images, "cloud", standing.by_class, standing.confusion, f"{name}/")
