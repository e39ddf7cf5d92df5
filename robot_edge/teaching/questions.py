"""Frames that neither end is sure of, kept until somebody names them. Bounded, in memory alone. Pure but for a lock."""

from __future__ import annotations

import secrets
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from robot_edge.sources.frames import Frame, Pixels
from robot_edge.teaching.near_duplicates import Look, distances, is_alike, look_of

# More than one looks through at once. With all that is beside them, they take 11 MB at 224 pixels.
MAX_QUESTIONS = 24
# What was named or dismissed is not asked again, up to so many frames.
MAX_CLOSED = 40
# A comparison with all of them takes 6 ms at 224 pixels, and a scene stays for longer than that.
LOOK_SECONDS = 0.5
# Who comes later hardly knows any more what was there.
OLDEST_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """A frame that asks for a name.

    number: from 1. frame: with the image as the network sees it, and its encoding. picture: the same for people, uint8
    (H, W, 3). guess: the most probable class, empty where none fits; confidence: in it, 0 to 1. asked_at: on the
    caller's clock. mark: stands for it in URLs.
    """

    number: int
    frame: Frame
    picture: Pixels
    guess: str
    confidence: float
    asked_at: float
    look: Look
    mark: str = field(default_factory=lambda: secrets.token_hex(8))


class Questions:
    """The questions that are open. One thread offers frames, others read, and one closes.

    most: how many are open at the same time. Beyond them one of those goes whose guess is the most common: the one that
    is most like an older one of them. So what waits shows many things, and a thing that is seen all day leaves room.
    """

    def __init__(self, clock: Callable[[], float], most: int = MAX_QUESTIONS) -> None:
        """clock: seconds, as time.monotonic."""
        self._clock = clock
        self._most = most
        self._lock = threading.Lock()
        self._open: tuple[Question, ...] = ()
        self._closed: deque[Look] = deque(maxlen=MAX_CLOSED)
        self._next_number = 1
        self._next_look = float("-inf")

    @property
    def open(self) -> tuple[Question, ...]:
        """Those that wait for a name, in the order in which they came."""
        now = self._clock()
        return tuple(one for one in self._open if now < one.asked_at + OLDEST_SECONDS)

    def chosen(self, numbers: Collection[int]) -> list[Question]:
        """Return those of these numbers that are still open."""
        return [one for one in self.open if one.number in numbers]

    def offer(self, frame: Frame, picture: Callable[[], Pixels], *, guess: str, confidence: float) -> bool:
        """Take in a frame that nobody is sure of. Return whether it is kept.

        It is where it differs from all others, and no more than one in LOOK_SECONDS. picture: called for one that is
        kept.
        """
        now = self._clock()
        if now < self._next_look:
            return False
        self._next_look = now + LOOK_SECONDS
        look = look_of(frame.image, frame.encoding)
        with self._lock:
            waiting, closed = self.open, list(self._closed)
        if any(is_alike(look, other) for other in [*(one.look for one in waiting), *closed]):
            return False
        question = Question(
            number=self._next_number,
            frame=replace(frame, image=frame.image.copy()),  # it may be part of a camera's larger one
            picture=picture(),
            guess=guess,
            confidence=confidence,
            asked_at=now,
            look=look,
        )
        self._next_number += 1
        with self._lock:
            kept = [*self.open, question]
            if len(kept) > self._most:
                kept.remove(_least_telling(kept))
            self._open = tuple(kept)
        return question in kept

    def close(self, numbers: Collection[int]) -> int:
        """Ask these no more, nor what looks like them; return how many were open."""
        with self._lock:
            gone = self.chosen(numbers)
            self._closed.extend(one.look for one in gone)
            self._open = tuple(one for one in self.open if one.number not in numbers)
            return len(gone)

    def classes_changed(self, known: Collection[str]) -> None:
        """Keep nothing of what a class edit may have been about: frames taken for a class that is gone, and answers."""
        with self._lock:
            self._closed.clear()
            self._open = tuple(one for one in self.open if not one.guess or one.guess in known)

    def drop(self, numbers: Collection[int]) -> None:
        """Let go of these, as the robot is sure of them by now. They may be asked again where it is not any more."""
        with self._lock:
            self._open = tuple(one for one in self.open if one.number not in numbers)


def _least_telling(questions: Sequence[Question]) -> Question:
    """Return the one to let go of. questions: two at least, in the order in which they came."""
    counts = Counter(one.guess for one in questions)
    common = [one for one in questions if counts[one.guess] == max(counts.values())]
    apart = distances([one.look for one in common])
    to_older = [apart[place, :place].min() for place in range(1, len(common))]
    return common[1 + int(np.argmin(to_older))]
