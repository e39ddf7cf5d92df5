"""What a robot sees: one frame, and anything that yields frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One picture from a source.

    image: uint8, (height, width, 3), RGB, at the source's own size.
    label: the name of the class shown, or None where nobody said.
    scene: frames that are near-duplicates of one another (a scene filmed from one place, a picture met again
        in the next epoch) share a number, so that holding out a scene leaves no twin of it in training.
    """

    image: Pixels
    label: str | None
    scene: int


class FrameSource(Protocol):
    """Yields frames in order until there are none left."""

    @property
    def length(self) -> int | None:
        """How many frames will come in all; None for a stream without an end."""

    @property
    def position(self) -> int:
        """How many frames were consumed, those included that could not be read."""

    @property
    def skipped(self) -> int:
        """How many frames were there but could not be read."""

    def next(self) -> Frame | None:
        """Wait for the next frame and return it; None at the end. Raises SourceError."""

    def seek(self, position: int) -> None:
        """Go on as if so many frames had been consumed; cheap. Call it before the first frame only."""

    def close(self) -> None:
        """Let go of files and devices."""
