"""A source at a chosen pace: as it was recorded, so many frames a second, or as fast as they go; with a pause."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from robot_edge.sources.frames import Frame, FrameSource, LeftOut
from robot_edge.sources.settings import Rate

Read = Callable[[float | None], Frame | None]
# A reader of every frame that is later than this many seconds goes on at the same pace from there: no burst follows.
# A reader of the newest does not catch up for longer at a time, as it never would with a decoder that is too slow.
MAX_LATE = 1.0


class Paced:
    """A FrameSource around another one, which shows its frames when they are due.

    ``next`` shows every frame, none before its time; ``latest`` leaves out those that a newer one has overtaken that
    is due. Frames are taken by one thread; ``pause``, ``resume`` and ``step`` may come from any.

    clock: seconds, monotonic.
    """

    def __init__(self, source: FrameSource, rate: Rate = "max", *, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._rate: Rate = rate if isinstance(rate, str) else float(rate)  # whole numbers are told apart below
        self._clock = clock
        self._changed = threading.Condition()
        self._paused = False
        self._steps = 0  # frames to be shown although it is paused
        self._held: Frame | None = None  # read, but not due yet
        # The pace counts from a frame: when it was shown, its own time, and how many were shown since, itself included.
        self._anchor: tuple[float, float] | None = None
        self._shown = 0
        self._late = 0.0

    @property
    def length(self) -> int | None:
        return self._source.length

    @property
    def position(self) -> int:
        """How many frames were consumed; one that waits for its time was not."""
        return self._source.position - (self._held is not None)

    @property
    def skipped(self) -> int:
        return self._source.skipped

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        return self._source.left_out

    @property
    def ended(self) -> bool:
        return self._held is None and self._source.ended

    @property
    def status(self) -> str:
        """What is wrong with the source, or that it is paused."""
        return self._source.status or ("paused" if self._paused else "")

    @property
    def reconnects(self) -> int:
        return self._source.reconnects

    @property
    def paused(self) -> bool:
        return self._paused

    def pause(self) -> None:
        with self._changed:
            self._paused, self._steps = True, 0

    def resume(self) -> None:
        """Go on at the same pace, from now."""
        with self._changed:
            self._paused, self._steps, self._anchor = False, 0, None
            self._changed.notify_all()

    def step(self) -> None:
        """Show one more frame, at once, and stay paused, or become it."""
        with self._changed:
            self._paused, self._steps = True, self._steps + 1
            self._changed.notify_all()

    def next(self, timeout: float | None = None) -> Frame | None:
        """Return the next frame when it is due; None where that is not within so many seconds, or at the end."""
        frame = self._take(self._source.next, self._deadline(timeout))
        if self._late > MAX_LATE:
            self._anchor = None
        return frame

    def latest(self, timeout: float | None = None) -> Frame | None:
        """Return the newest frame that is due; wait as ``next`` does where that one was returned before."""
        if self._rate == "max":
            return self._take(self._source.latest, self._deadline(timeout))
        newest = frame = self._take(self._source.latest, self._deadline(timeout))
        give_up = self._deadline(MAX_LATE)
        while frame is not None and not self._paused and self._clock() < give_up:
            newest = frame
            frame = self._take(self._source.latest, self._clock())
        return newest

    def seek(self, position: int) -> None:
        self._source.seek(position)

    def close(self) -> None:
        self._source.close()

    def _deadline(self, timeout: float | None) -> float:
        return math.inf if timeout is None else self._clock() + timeout

    def _take(self, read: Read, deadline: float) -> Frame | None:
        """Return the next frame once it may be shown, unless that is after the deadline."""
        while True:
            with self._changed:
                wait, left = self._to_wait(), deadline - self._clock()
                if wait > 0:
                    if left <= 0:
                        return None
                    seconds = min(wait, left)
                    self._changed.wait(None if math.isinf(seconds) else seconds)
                    continue
                if self._held is not None:
                    return self._show(self._held)
            # Outside the lock: whoever wants to pause should not have to wait for a camera.
            self._held = read(None if math.isinf(left) else max(0.0, left))
            if self._held is None:
                return None

    def _to_wait(self) -> float:
        """Return in how many seconds the held frame may be shown, or where none is, the next one read."""
        if self._paused:
            return 0.0 if self._steps else math.inf
        return self._due() - self._clock()

    def _due(self) -> float:
        match self._rate, self._anchor, self._held:
            case float(rate), (begin, _), _:
                return begin + self._shown / rate
            case "realtime", (begin, first), Frame() as frame:
                return begin + frame.time - first
            case _:
                return -math.inf

    def _show(self, frame: Frame) -> Frame:
        now, due = self._clock(), self._due()
        self._late = 0.0 if math.isinf(due) else now - due
        if self._anchor is None:
            self._anchor, self._shown = (now, frame.time), 0
        self._shown += 1
        self._steps = max(0, self._steps - 1)
        self._held = None
        return frame
