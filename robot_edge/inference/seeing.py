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
from robot_edge.inference.predictor import Predictor
from robot_edge.inference.sight import Sight
from robot_edge.learning.batcher import resize
from robot_edge.sources.frames import Frame, LeftOut, PacedSource, age
from robot_edge.teaching.lessons import Teaching

# How long to wait for a frame before looking whether to end.
FRAME_SECONDS = 0.2
# Without a new frame for so long nothing is seen any more: what the last one showed may have gone. Of a camera that
# takes its time, as for a time-lapse, so many times what lies between two of its frames.
STALE_SECONDS, STALE_GAPS = 3.0, 3
# Frames whose distance says what is usual.
GAPS = 5
# Ages of predictions behind the percentiles: half a minute at 30 frames a second.
AGES = 1000


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


class Seeing:
    """Looks at a camera until closed."""

    def __init__(
        self,
        camera: PacedSource,
        teaching: Teaching,
        sight: Sight,
        *,
        image_size: int,
        tell: Callable[[Decision, Frame], None],
    ) -> None:
        """tell: hears of every decision, and of the frame that it is about, in this thread."""
        self._camera = camera
        self._teaching = teaching
        self._sight = sight
        self._image_size = image_size
        self._tell = tell
        self._undecided: dict[float, Frame] = {}  # by when they were taken
        self._ages: deque[float] = deque(maxlen=AGES)
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

    def latency(self) -> tuple[float, float] | None:
        """Return median and 99th percentile of the frames' age when the exit had predicted them, in seconds."""
        ages = list(self._ages)
        return (float(np.median(ages)), float(np.percentile(ages, 99))) if ages else None

    def close(self) -> None:
        """End the thread."""
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
            decisions = self._sight.look(resize(frame.image, self._image_size), taken_at=taken_at)
            self._ages.append(time.monotonic() - taken_at)
            self._teaching.see(frame)
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


class TaughtFrames:
    """A FrameSource of what was taught. It never ends: who teaches does."""

    length = None
    ended = False

    def __init__(self, teaching: Teaching, camera: PacedSource) -> None:
        self._teaching = teaching
        self._camera = camera
        self.position = 0

    @property
    def skipped(self) -> int:
        """How many of the camera's frames could not be read."""
        return self._camera.skipped

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """What is there and is not shown."""
        return self._camera.left_out

    @property
    def status(self) -> str:
        """What is wrong with the camera."""
        return self._camera.status

    @property
    def reconnects(self) -> int:
        """How often the camera was lost and came back."""
        return self._camera.reconnects

    def next(self, timeout: float | None = None) -> Frame | None:
        """Return the next taught frame, without waiting; None where there is none."""
        frame = self._teaching.next_frame()
        self.position += frame is not None
        return frame

    def latest(self, timeout: float | None = None) -> Frame | None:
        """Return the next taught frame: each of them counts."""
        return self.next(timeout)

    def seek(self, position: int) -> None:
        """Count from there on."""
        self.position = position

    @property
    def paused(self) -> bool:
        """Whether the camera is."""
        return self._camera.paused

    def pause(self) -> None:
        """Show no further frame of the camera."""
        self._camera.pause()

    def resume(self) -> None:
        """Let the camera go on."""
        self._camera.resume()

    def step(self) -> None:
        """Show one more frame of the camera."""
        self._camera.step()

    def close(self) -> None:
        """Close the camera."""
        self._camera.close()
