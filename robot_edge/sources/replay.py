"""What all replays have in common: the next frame is there already."""

from __future__ import annotations

from abc import ABC, abstractmethod

from robot_edge.sources.frames import Frame, LeftOut


class Replay(ABC):
    """A FrameSource that never waits, and so can neither stall nor get lost."""

    left_out: tuple[LeftOut, ...] = ()
    status = ""
    reconnects = 0

    @property
    def unlabelled(self) -> str:
        """Why not one frame has a label, and what to do; empty where one may have. Known from the start."""
        return ""

    @property
    def classes(self) -> frozenset[str]:
        """The names that labels have, as far as they are known from the start."""
        return frozenset()

    @abstractmethod
    def next(self, timeout: float | None = None) -> Frame | None:
        """Return the next frame; None at the end. Raises SourceError."""

    def latest(self, timeout: float | None = None) -> Frame | None:
        """Return the next frame: without a clock none is old."""
        return self.next(timeout)

    def close(self) -> None:  # noqa: B027  most hold nothing open
        """Let go of files."""
