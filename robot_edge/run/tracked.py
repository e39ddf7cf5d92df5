"""What a robot's trackers are told, and when: figures once a second, tests when they are over, a few pictures."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from hierarchy.runtime.tracking.figures import figures, news
from hierarchy.runtime.tracking.trackers import Trackers
from robot_edge.inference.cascade import Decision
from robot_edge.page.pictures import jpeg
from robot_edge.run.run_metrics import RunMetrics
from robot_edge.sources.frames import Frame
from robot_edge.uplink.uplink import Uplink

FIGURES_SECONDS = 1.0
# Between two pictures, and after how many of them it is twice as long: 150 MB in a week.
PICTURE_SECONDS, PICTURES = 1.0, 1000
WIDEST = 320


@dataclass(kw_only=True, eq=False)
class RunTracking:
    """Tells trackers what is new. All is called on the thread that trains, but for ``see``, on the one that sees."""

    trackers: Trackers
    metrics: RunMetrics
    uplink: Uplink
    _told: tuple[int, dict[str, float]] = (0, {})
    _test: tuple[int, int] = (0, 0)  # the round at the last look, and how many frames it had
    _test_told: tuple[int, int] = (0, 0)
    _next_figures: float = -math.inf
    _next_picture: float = -math.inf
    _pictures: int = 0
    _shown: Frame | None = None

    def post(self, now: float) -> None:
        """Tell what is new, if it is time for it. now: monotonic seconds."""
        if now < self._next_figures:
            return
        self._next_figures = now + FIGURES_SECONDS
        self._tell_figures()
        # While one goes on, each look finds more of it.
        test, self._test = self._test, (self.metrics.evaluation, self.metrics.held_out.count)
        if test == self._test:
            self._tell_test()

    def end(self) -> None:
        """Tell what is new at the end of the run."""
        self._tell_figures()
        self._test = (self.metrics.evaluation, self.metrics.held_out.count)
        self._tell_test()

    def see(self, decision: Decision, frame: Frame) -> None:
        """Show a frame and what it was taken for to whoever keeps pictures on this machine, now and then."""
        now = time.monotonic()
        if not self.trackers.wants_pictures or now < self._next_picture or frame is self._shown:
            return
        self._shown = frame
        self._next_picture = now + PICTURE_SECONDS * 2 ** (self._pictures // PICTURES)
        self._pictures += 1
        caption = f"{decision.name or 'nothing it knows'}, {100 * decision.confidence:.0f} %, {decision.by}"
        self.trackers.picture(jpeg(frame.image, WIDEST), caption)

    def _tell_figures(self) -> None:
        own = self.metrics.message()
        values = figures(own, self.uplink.cloud_metrics)
        if (recent := self.metrics.recent) is not None:
            values["exit/recent"] = recent
        if (own.images, news(values)) != self._told:
            self._told = own.images, news(values)
            self.trackers.scalars(own.images, values)

    def _tell_test(self) -> None:
        held_out = self.metrics.held_out
        if held_out.count and self._test != self._test_told:
            self._test_told = self._test
            self.trackers.test(self.metrics.images, "exit", held_out.by_class, held_out.confusion)
