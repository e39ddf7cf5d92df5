"""The thread that looks: the newest frame, what it is taken for, and whether it is one to learn from.

It shares nothing with training but a copy of the network and a queue of taught frames, so that learning does not hold
up seeing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from broker.program.threads import LoudThread
from robot_edge.inference.cascade import Decision, nothing_seen
from robot_edge.inference.frame_path import FramePath
from robot_edge.inference.predictor import Predictor
from robot_edge.learning.framed import Viewfinder
from robot_edge.sources.frames import Frame, PacedSource, Pixels, age

# How long to wait for a frame before looking whether to end.
FRAME_SECONDS = 0.2
# Without a new frame for so long nothing is seen any more: what the last one showed may have gone. Of a camera that
# takes its time, as for a time-lapse, so many times what lies between two of its frames.
STALE_SECONDS, STALE_GAPS = 3.0, 3
# Frames whose distance says what is usual.
GAPS = 5


@dataclass(frozen=True)
class View:
    """What was seen last, and what was decided last, which may be of a frame before. number: of the view, from 1.

    seen_at: when the frame came, monotonic seconds. stale: no frame has come since, for longer than STALE_SECONDS; the
    decision is then that nothing is seen.
    """

    frame: Frame
    decision: Decision
    number: int
    seen_at: float = 0.0
    stale: bool = False


class SeeingThread:
    """Looks at a camera until closed."""

    def __init__(
        self,
        camera: PacedSource,
        sight: FramePath,
        *,
        viewfinder: Viewfinder,
        saw: Callable[[Frame, Pixels], object],
        tell: Callable[[Decision, Frame], None],
    ) -> None:
        """saw: hears of every frame, and what the network sees of it. tell: of every decision, and its frame.

        Both are called in this thread.
        """
        self._camera = camera
        self._saw = saw
        self._sight = sight
        self._viewfinder = viewfinder
        self._tell = tell
        self._undecided: dict[float, Frame] = {}  # by when they were taken
        self._gaps: deque[float] = deque(maxlen=GAPS)
        self._view: View | None = None
        self._changed = threading.Condition()
        self._thread = LoudThread("seeing", self._look, restarts=False)
        self._thread.start()

    @property
    def view(self) -> View | None:
        """What was seen last; None before the first frame."""
        return self._view

    @property
    def ended(self) -> bool:
        """Whether no further frame will come. Raises what ended it, if it was an error."""
        self._thread.check()
        return not self._thread.is_alive

    def wait(self, number: int, timeout: float) -> View | None:
        """Return what was seen last, waiting for a frame beyond that number; None where none came."""
        with self._changed:
            self._changed.wait_for(lambda: self._view is not None and self._view.number > number, timeout)
            return self._view if self._view and self._view.number > number else None

    def close(self) -> None:
        self._thread.close()

    def _look(self, ending: threading.Event) -> None:
        Predictor.claim_thread()
        number, seen_at = 0, 0.0
        while not ending.is_set() and not self._camera.ended:
            frame = self._camera.latest(FRAME_SECONDS)
            if frame is None:
                self._hear(self._sight.wait(0.0))
                number = self._note_absence(number)
                continue
            number += 1
            came_at = time.monotonic()
            taken_at = came_at - age(frame)
            self._gaps.append(came_at - seen_at if seen_at else 0.0)
            seen_at = came_at
            self._undecided[taken_at] = frame
            image = self._viewfinder.input(frame.image)
            decisions = self._sight.look(image, taken_at=taken_at)
            self._saw(frame, image)
            self._hear(decisions)
            decision = decisions[-1] if decisions else self._view.decision if self._view else None
            if decision:
                with self._changed:
                    self._view = View(frame, decision, number, came_at)
                    self._changed.notify_all()

    def _note_absence(self, number: int) -> int:
        """Say that nothing is seen, where no frame has come for too long; return the view's number.

        It is said again and again: whoever acts on predictions may have come just now. Who paused a recording wants to
        look at its last frame.
        """
        view, now = self._view, time.monotonic()
        if view is None or self._camera.paused:
            return number
        if now < view.seen_at + max(STALE_SECONDS, STALE_GAPS * float(np.median(self._gaps))):
            return number
        nothing = nothing_seen(now)
        with self._changed:
            self._view = View(view.frame, nothing, number + 1, view.seen_at, stale=True)
            self._changed.notify_all()
        self._tell(nothing, view.frame)
        return number + 1

    def _hear(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            self._tell(decision, self._undecided.pop(decision.taken_at))
