"""Frame sources: where a robot sees from. A replay is just another source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from broker.errors import SourceError
from robot_edge.frames import Frame, FrameSource
from robot_edge.sources.folder import FolderSource
from robot_edge.sources.sim import SimulatedCamera

# Frames that the simulated camera shows where nobody says how many.
SIM_FRAMES = 12_000


def open_source(
    text: str,
    *,
    image_size: int,
    phases: Sequence[Sequence[str]] = (),
    epochs: int = 1,
    images: int = 0,
    seed: int = 0,
) -> FrameSource:
    """Open folder:PATH or sim: as written on the command line.

    phases: the classes shown in each phase, one phase after the other; none for all classes at once.
    epochs: of a folder, in each phase. images: at most that many frames in all, 0 for no bound.
    Raises SourceError.
    """
    kind, _, rest = text.partition(":")
    shown: list[Sequence[str] | None] = list(phases) or [None]
    parts: list[FrameSource]
    if kind == "folder" and rest:
        parts = [
            FolderSource(Path(rest), classes=classes, epochs=epochs, seed=seed + number)
            for number, classes in enumerate(shown)
        ]
    elif kind == "sim" and not rest:
        share = (images or SIM_FRAMES) // len(shown)
        parts = [
            SimulatedCamera(
                classes=classes, frames=share, size=image_size, seed=seed + number, first_scene=number * share
            )
            for number, classes in enumerate(shown)
        ]
    else:
        raise SourceError(f"source {text!r}: expected folder:PATH or sim:")
    return ChainedSource(parts, images)


class ChainedSource:
    """Shows one source after the other, in all at most ``images`` of all frames where that is not 0."""

    def __init__(self, parts: Sequence[FrameSource], images: int = 0) -> None:
        self._parts = list(parts)
        self._images = images or None
        total = sum(part.length for part in parts if part.length is not None)
        endless = any(part.length is None for part in parts)
        self.length = self._images if endless else min(total, self._images or total)

    @property
    def position(self) -> int:
        """How many frames were consumed in all."""
        return sum(part.position for part in self._parts)

    @property
    def skipped(self) -> int:
        """How many frames could not be read."""
        return sum(part.skipped for part in self._parts)

    def next(self) -> Frame | None:
        """Return the next frame of the first part that has one."""
        if self._images is not None and self.position >= self._images:
            return None
        return next((frame for part in self._parts if (frame := part.next()) is not None), None)

    def seek(self, position: int) -> None:
        """Go on behind so many frames of all parts together."""
        for part in self._parts:
            part.seek(position)
            position -= part.position

    def close(self) -> None:
        """Close every part."""
        for part in self._parts:
            part.close()
