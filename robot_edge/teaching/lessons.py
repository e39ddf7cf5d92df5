"""Teaching by showing: while a lesson is open, what the camera sees is called by its name.

A lesson is opened by one thread and shown frames by another.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from broker.errors import ConfigError, MalformedMessage
from broker.wire.bounds import MAX_TEACH_SECONDS, check_class_name
from broker.wire.messages import ClassEdit
from hierarchy.runtime.command_line import SparseLog
from robot_edge.sources.frames import Frame
from robot_edge.teaching.near_duplicates import NearDuplicateFilter

# Taught frames that wait to be learned from. At 30 a second this is half a minute; then a lesson is only looked at.
MAX_WAITING = 1000
# Lessons that can be taken back, the last one first.
MAX_REMEMBERED = 100
# A scene that is never held out: a frame that somebody named by itself is there to be learned from.
LEARNED_SCENE = 1

log = logging.getLogger("robot-edge")


class TeachingRefused(ConfigError):
    """What was asked for cannot be taught; says why."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A teaching session. number: from 1. frames: kept of what was shown. began: the class was new with it."""

    number: int
    name: str
    frames: int
    began: bool


@dataclass(frozen=True, kw_only=True)
class TeachingState:
    """Lessons that can be taken back, and the number of the next one."""

    next: int
    lessons: list[Lesson]


class Teaching:
    """The robot's lessons, one at a time."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        trusts_source: bool = False,
        over: Callable[[], object] = lambda: None,
        check_name: Callable[[str], object] = check_class_name,
    ) -> None:
        """clock: seconds, as time.monotonic. trusts_source: frames that come with a label are taught, too.

        over: called when a lesson of which something is left has ended, on the thread that ends it. check_name: raises
        MalformedMessage for what no class of this robot may be called.
        """
        self._trusts_source = trusts_source
        self._over = over
        self._check_name = check_name
        self._refused = SparseLog(log)
        self._clock = clock
        self._lock = threading.Lock()
        self._lessons: list[Lesson] = []
        self._open: Lesson | None = None
        self._ends = 0.0
        self._next_number = 1
        self._filter = NearDuplicateFilter()
        self._waiting: deque[Frame] = deque()

    @property
    def open(self) -> Lesson | None:
        """The lesson that is being given; None where there is none, or its time is over."""
        with self._lock:
            return self._open if self._open and self._clock() < self._ends else None

    @property
    def seconds_left(self) -> float:
        """How long the lesson goes on; 0 without one."""
        with self._lock:
            return max(0.0, self._ends - self._clock()) if self._open else 0.0

    @property
    def last(self) -> Lesson | None:
        """The lesson that an undo would take back."""
        with self._lock:
            return self._lessons[-1] if self._lessons else None

    @property
    def waiting(self) -> int:
        """How many taught frames nobody has learned from yet."""
        return len(self._waiting)

    @property
    def more_to_come(self) -> bool:
        """Whether a lesson is open, or frames of one wait."""
        return bool(self.open or self.waiting)

    def begin(self, name: str, seconds: float, *, known: bool) -> Lesson:
        """Open a lesson, or go on with the open one where it is of the same class.

        known: whether there is a class of that name. Raises TeachingRefused where another lesson is open, or for a
        name that no class can have.
        """
        self._check(name)
        if not 0 < seconds <= MAX_TEACH_SECONDS:
            raise TeachingRefused(f"teach for more than 0 and up to {MAX_TEACH_SECONDS} seconds, not {seconds:g}")
        with self._lock:
            now = self._clock()
            if self._open and now < self._ends:
                if self._open.name != name:
                    raise self._is_taught(now)
                self._ends = max(self._ends, now + seconds)
                return self._open
            self._close()
            self._open = Lesson(number=self._next_number, name=name, frames=0, began=not known)
            self._next_number += 1
            self._ends = now + seconds
            self._filter = NearDuplicateFilter()
            return self._open

    def give(self, name: str, frames: Sequence[Frame], *, known: bool) -> Lesson:
        """Teach frames that were seen before, in a lesson that is over at once.

        frames: at least one, each with its encoding, and with the image as the network sees it; none is held out.
        known: whether there is a class of that name. Raises TeachingRefused as ``begin`` does, and while another lesson
        is open.
        """
        self._check(name)
        with self._lock:
            now = self._clock()
            if self._open and now < self._ends:
                raise self._is_taught(now)
            self._close()
            lesson = Lesson(number=self._next_number, name=name, frames=len(frames), began=not known)
            self._next_number += 1
            self._waiting += [replace(one, label=name, session=lesson.number, scene=LEARNED_SCENE) for one in frames]
            self._open = lesson
            self._close()
            return lesson

    def end(self, name: str | None = None) -> Lesson | None:
        """Close the lesson, and return it with what it came to; None where none is open, or none of that class."""
        with self._lock:
            return self._close() if self._open and name in {None, self._open.name} else None

    def ended(self) -> Lesson | None:
        """Return a lesson whose time is over, once."""
        with self._lock:
            return self._close() if self._open and self._clock() >= self._ends else None

    def see(self, frame: Frame) -> bool:
        """Take in a frame that the camera saw. Return whether it is one to learn from."""
        with self._lock:
            lesson = self._open if self._open and self._clock() < self._ends else None
            labelled = self._trusts_source and self._may_be_called(frame.label)
            if len(self._waiting) >= MAX_WAITING or not (lesson or labelled):
                return False
            if not self._filter.keep(frame.image, frame.encoding):
                return False
            if lesson is None:
                self._waiting.append(frame)
                return True
            self._waiting.append(replace(frame, label=lesson.name, session=lesson.number))
            self._open = replace(lesson, frames=lesson.frames + 1)
            return True

    def next_frame(self) -> Frame | None:
        """Return the oldest taught frame that nobody has learned from; None where there is none."""
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def apply(self, edit: ClassEdit) -> None:
        """Do to lessons and frames that wait what a class edit says."""
        with self._lock:
            if edit.change == "undo":  # a killed process may have saved the undo, and not this
                self._lessons = [one for one in self._lessons if one.number != edit.session]
                return
            if self._open and self._open.name == edit.name:
                self._open = replace(self._open, name=edit.to) if edit.change == "rename" else None
            if edit.change == "forget":
                self._lessons = [one for one in self._lessons if one.name != edit.name]
                self._waiting = deque(frame for frame in self._waiting if frame.label != edit.name)
                return
            self._lessons = [replace(one, name=edit.to) if one.name == edit.name else one for one in self._lessons]
            self._waiting = deque(
                replace(frame, label=edit.to) if frame.label == edit.name else frame for frame in self._waiting
            )

    def undo(self) -> Lesson | None:
        """Take the last lesson back, an open one included, with its frames that wait; None where there is none."""
        with self._lock:
            # An open one that saw nothing yet is the last one all the same: the one before was not meant.
            lesson, self._open = self._open, None
            if lesson is None:
                if not self._lessons:
                    return None
                lesson = self._lessons.pop()
            self._waiting = deque(frame for frame in self._waiting if frame.session != lesson.number)
            return lesson

    def state(self) -> TeachingState:
        """Return what a checkpoint must hold; frames that wait are lost with the process.

        An open one counts as given: what was learned in it can be taken back by the next process.
        """
        with self._lock:
            lessons = [*self._lessons, self._open] if self._open and self._open.frames else self._lessons
            return TeachingState(next=self._next_number, lessons=lessons[-MAX_REMEMBERED:])

    def restore(self, state: TeachingState) -> None:
        with self._lock:
            self._next_number = state.next
            self._lessons = list(state.lessons)

    def _check(self, name: str) -> None:
        try:
            self._check_name(name)
        except MalformedMessage as error:
            raise TeachingRefused(str(error)) from error

    def _is_taught(self, now: float) -> TeachingRefused:
        assert self._open
        left = self._ends - now
        return TeachingRefused(f"{self._open.name!r} is being taught for {left:.0f} more seconds: wait, or stop it")

    def _may_be_called(self, label: str | None) -> bool:
        """Whether a frame has a label, and one that a class may have; says where it may not."""
        try:
            if label is not None:
                self._check_name(label)
        except MalformedMessage as error:
            self._refused.warn(f"not learning what the source names: {error}")
            return False
        return label is not None

    def _close(self) -> Lesson | None:
        lesson, self._open = self._open, None
        if lesson and lesson.frames:
            self._lessons = [*self._lessons, lesson][-MAX_REMEMBERED:]
            self._over()
        return lesson


class TaughtFrames:
    """What was taught, frame by frame. It never ends: who teaches does."""

    length = None
    ended = False

    def __init__(self, teaching: Teaching) -> None:
        self._teaching = teaching
        self.position = 0

    def next(self, timeout: float | None = None) -> Frame | None:
        """Return the next taught frame, without waiting; None where there is none."""
        frame = self._teaching.next_frame()
        self.position += frame is not None
        return frame

    def seek(self, position: int) -> None:
        self.position = position
