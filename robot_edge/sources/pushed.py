"""Frames that a program hands over itself, from any thread."""

from __future__ import annotations

import threading
from collections import deque

from robot_edge.sources.frames import Frame, LeftOut


class FrameQueue:
    """Frames that one thread puts in, and another one takes out in order. limit: that wait at most."""

    def __init__(self, length: int | None, limit: int) -> None:
        self.length = length
        self.position = 0
        self._limit = limit
        self._waiting: deque[Frame] = deque()
        self._over = False
        self._changed = threading.Condition()

    @property
    def ended(self) -> bool:
        return self._over and not self._waiting

    def put(self, frame: Frame, timeout: float) -> bool:
        """Add a frame, waiting up to so many seconds for room; False where there was none."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._waiting) < self._limit, timeout):
                return False
            self._waiting.append(frame)
            self._changed.notify_all()
            return True

    def end(self) -> None:
        """Let no further frame come behind those that wait."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def next(self, timeout: float | None = None) -> Frame | None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting) or self._over, timeout)
            if not self._waiting:
                return None
            self.position += 1
            self._changed.notify_all()
            return self._waiting.popleft()

    def seek(self, position: int) -> None:
        self.position = position


class PushedCamera:
    """A camera whose pictures a program hands over. Of those that are only shown the newest counts."""

    length: int | None = None
    skipped = reconnects = 0
    left_out: tuple[LeftOut, ...] = ()

    def __init__(self) -> None:
        self.position = 0
        self.ended = False
        self._newest: Frame | None = None
        self._asked: deque[Frame] = deque()
        self._steps: int | None = None  # frames to be shown although it is paused; None while it is not
        self._changed = threading.Condition()

    @property
    def status(self) -> str:
        return "paused" if self.paused else ""

    @property
    def paused(self) -> bool:
        """Whether frames come by ``step`` only, and those that somebody asks about."""
        return self._steps is not None

    def show(self, frame: Frame) -> None:
        """Show a frame in place of the last one, if nobody has looked at that yet."""
        with self._changed:
            self._newest = frame
            self._changed.notify_all()

    def ask(self, frame: Frame) -> None:
        """Have a frame looked at, whatever else is shown."""
        with self._changed:
            self._asked.append(frame)
            self._changed.notify_all()

    def latest(self, timeout: float | None = None) -> Frame | None:
        """Return a frame that somebody asks about, or else the newest one, waiting up to so many seconds for one."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._asked) or self._is_shown or self.ended, timeout)
            if self._asked:
                return self._asked.popleft()
            if not self._is_shown:
                return None
            self.position += 1
            self._steps = self._steps and self._steps - 1
            frame, self._newest = self._newest, None
            return frame

    def next(self, timeout: float | None = None) -> Frame | None:
        return self.latest(timeout)

    def seek(self, position: int) -> None:
        self.position = position

    def pause(self) -> None:
        self._steps = 0

    def resume(self) -> None:
        self._steps = None

    def step(self) -> None:
        self._steps = (self._steps or 0) + 1

    def close(self) -> None:
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    @property
    def _is_shown(self) -> bool:
        return self._newest is not None and self._steps != 0
