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

from broker.errors import ReflexarcError
from broker.messages import Prediction
from robot_edge.batches import resize
from robot_edge.frames import Frame, FrameSource, PacedSource, Pixels
from robot_edge.teaching import Teaching

# How long to wait for a frame before looking whether to end.
FRAME_SECONDS = 0.2
# Ages of predictions behind the percentiles: half a minute at 30 frames a second.
AGES = 1000


@dataclass(frozen=True)
class Sight:
    """What was seen last. number: of the frame, from 1. at: time.monotonic() when it was predicted."""

    frame: Frame
    prediction: Prediction
    number: int
    at: float


class Seeing:
    """Looks at a camera until closed."""

    def __init__(
        self,
        camera: FrameSource,
        teaching: Teaching,
        *,
        image_size: int,
        answer: Callable[[Pixels, float], Prediction],
        tell: Callable[[Prediction], None],
    ) -> None:
        """answer: names an image uint8 (S, S, 3) taken at a Unix time. tell: hears of every prediction."""
        self._camera = camera
        self._teaching = teaching
        self._image_size = image_size
        self._answer = answer
        self._tell = tell
        self._ages: deque[float] = deque(maxlen=AGES)
        self._sight: Sight | None = None
        self._error: ReflexarcError | None = None
        self._end = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._look, name="seeing", daemon=True)
        self._thread.start()

    @property
    def sight(self) -> Sight | None:
        """What was seen last; None before the first frame."""
        return self._sight

    @property
    def ended(self) -> bool:
        """Whether no further frame will come. Raises what ended it, if it was an error."""
        if self._error:
            raise self._error
        return not self._thread.is_alive()

    def wait(self, number: int, timeout: float) -> Sight | None:
        """Return what was seen last, waiting for a frame beyond that number; None where none came."""
        with self._changed:
            self._changed.wait_for(lambda: self._sight is not None and self._sight.number > number, timeout)
            return self._sight if self._sight and self._sight.number > number else None

    def latency(self) -> tuple[float, float] | None:
        """Return median and 99th percentile of the frames' age when they were predicted, in seconds."""
        ages = list(self._ages)
        return (float(np.median(ages)), float(np.percentile(ages, 99))) if ages else None

    def close(self) -> None:
        """End the thread."""
        self._end = True
        self._thread.join()

    def _look(self) -> None:
        number = 0
        try:
            while not self._end and not self._camera.ended:
                frame = self._camera.latest(FRAME_SECONDS)
                if frame is None:
                    continue
                number += 1
                begin = time.monotonic()
                prediction = self._answer(resize(frame.image, self._image_size), frame.time)
                self._ages.append(time.monotonic() - begin)
                self._teaching.see(frame)
                self._tell(prediction)
                with self._changed:
                    self._sight = Sight(frame, prediction, number, time.monotonic())
                    self._changed.notify_all()
        except ReflexarcError as error:
            self._error = error


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
