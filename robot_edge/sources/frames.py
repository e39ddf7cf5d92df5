"""What a robot sees: one frame, and anything that yields frames."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from broker.wire.messages import ClassEdit
from hierarchy.encoding import Encoding

# What a recording that has no times is taken to have been filmed with, in frames a second.
NOMINAL_RATE = 30.0
# What a picture may have before it is decoded: the largest cameras have 50 megapixels, and each takes three bytes.
MAX_PIXELS = 64_000_000
# A frame that says it is older was not taken by a clock like ours.
OLDEST_SECONDS = 60.0

Pixels = NDArray[np.uint8]


class Header(NamedTuple):
    """Of the ROS message that a picture came in. stamp: nanoseconds, of the publisher's clock."""

    stamp: int
    frame_id: str


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One picture from a source.

    image: uint8, (height, width, 3), RGB, at the source's own size.
    label: the name of the class shown, or None where nobody said.
    scene: frames that are near-duplicates of one another (a scene filmed from one place, a picture met again
        in the next epoch) share a number, so that holding out a scene leaves no twin of it in training. Sources
        that know nothing better give all frames of a second the same one.
    time: when it was taken, in Unix seconds; of a video, in seconds since its beginning. Sources without a clock
        count NOMINAL_RATE frames to the second.
    session: the teaching session that gave it its label, from 1; 0 where the source did.
    header: of a live ROS topic's message, for who wants to know which one this was.
    phase: which part of a replay it is from, from 0, where that has --phases.
    encoding: what a network that stands still made of it when it was seen.
    """

    image: Pixels
    label: str | None
    scene: int
    time: float
    session: int = 0
    header: Header | None = None
    phase: int = 0
    encoding: Encoding | None = None


@dataclass(frozen=True, kw_only=True)
class Numbering:
    """The scenes of a folder's pictures, by their paths below it. is_all: whether only these are shown."""

    numbers: Mapping[str, int]
    is_all: bool


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """What a source has and does not show: how many of one kind there are, for people, and where the first is."""

    kind: str
    count: int
    example: str


class Frames(Protocol):
    """Yields frames, one after the other."""

    @property
    def length(self) -> int | None:
        """How many frames will come in all; None for a stream without an end."""

    @property
    def position(self) -> int:
        """How many frames were consumed, those included that could not be read."""

    @property
    def ended(self) -> bool:
        """Whether no further frame will come."""

    def next(self, timeout: float | None = None) -> Frame | None:
        """Wait for the next frame and return it.

        None where none came within so many seconds, or at the end: ``ended`` says which. A replay does not wait, so
        it returns None at the end only. Raises SourceError for what waiting would not mend.
        """

    def seek(self, position: int) -> None:
        """Go on as if so many frames had been consumed; cheap. Call it before the first frame only."""


class FrameSource(Frames, Protocol):
    """Shows what is before it: every frame with ``next``, or only the newest with ``latest``."""

    @property
    def skipped(self) -> int:
        """How many frames were there but could not be read."""

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """What is there beside frames, and is not shown."""

    @property
    def status(self) -> str:
        """What is wrong with it, for people; empty where nothing is."""

    @property
    def reconnects(self) -> int:
        """How often it was lost and came back."""

    def latest(self, timeout: float | None = None) -> Frame | None:
        """Return the newest frame there is, leaving out older ones, and wait for one where it was returned before.

        For a replay this is ``next``, unless it is paced (robot_edge/sources/paced.py). Else as ``next``.
        """

    def close(self) -> None:
        """Let go of files and devices."""


class PacedSource(FrameSource, Protocol):
    """A source that can be paused, from any thread."""

    @property
    def paused(self) -> bool:
        """Whether frames come by ``step`` only."""

    def pause(self) -> None:
        """Show no further frame until ``resume`` or ``step``."""

    def resume(self) -> None:
        """Go on."""

    def step(self) -> None:
        """Show one more frame, and stay paused."""


def age(frame: Frame) -> float:
    """Return how many seconds ago a frame was taken; 0 for one of a recording, whose time is another."""
    seconds = time.time() - frame.time
    return seconds if 0 <= seconds <= OLDEST_SECONDS else 0.0


def relabelled(label: str | None, session: int, edit: ClassEdit) -> str | None:
    """Return what a frame of a lesson is called after a class edit; None where its class, or the lesson, is gone."""
    if edit.change == "rename":
        return edit.to if label == edit.name else label
    return None if label == edit.name or (edit.change == "undo" and session == edit.session) else label


def check_size(width: int, height: int) -> None:
    """Raise ValueError for a picture that nobody should decode."""
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise ValueError(f"a picture of {width:,} x {height:,} pixels, limit {MAX_PIXELS:,} in all")
