"""A film whose frames are asked for by their times, in order: decoded once, and sought in where much is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robot_edge.sources.frames import Pixels
from robot_edge.sources.video_file import PixelsOf, decoded, load_av, open_container, why_not

# Decoding on is cheaper than going back to a key frame where less is left out.
FAR_SECONDS = 2.0


class UnreadableFilm(Exception):
    """A file that is missing, or cannot be decoded. Its text says why."""


class Film:
    """The first video of a file, on the file's own clock.

    fps: what its container says, in frames a second; 0 for nothing.
    """

    def __init__(self, path: Path) -> None:
        """Open the file. Raises UnreadableFilm."""
        av = load_av()
        self.path = path
        try:
            self._container = open_container(path)
        except FileNotFoundError:
            raise UnreadableFilm(f"{path} is missing") from None
        except (av.error.FFmpegError, IndexError, ValueError) as error:
            reason = "it has no pictures" if isinstance(error, IndexError) else why_not(error)
            raise UnreadableFilm(f"{path} cannot be read: {reason}") from error
        stream = self._container.streams.video[0]
        stream.thread_type = "AUTO"
        self.fps = float(stream.average_rate or 0)
        self._base = float(stream.time_base or 1)
        self._frames = decoded(self._container, path)
        self._pixels = PixelsOf()
        self._frame: Any = None
        self._time = self._asked = 0.0  # of the frame above; and what was asked for last

    def at(self, second: float, tolerance: float) -> Pixels | None:
        """Return the frame of a time; None where none that near can be decoded. Raises UnreadableFilm."""
        earliest = second - tolerance
        if second < self._asked or second > self._time + FAR_SECONDS:
            self._seek(earliest)
        self._asked = second
        while self._frame is None or self._time < earliest:
            self._frame = next(self._frames, None)
            if self._frame is None:
                return None
            if self._frame.pts is None:
                self._frame = None
            else:
                self._time = self._frame.pts * self._base
        try:
            return self._pixels(self._frame) if self._time <= second + tolerance else None
        except ValueError as error:  # a film may change to a size that is too large
            raise UnreadableFilm(f"{self.path}: {error}") from error

    def close(self) -> None:
        self._container.close()

    def _seek(self, second: float) -> None:
        place = max(0, int(second / self._base))
        try:
            self._container.seek(place, stream=self._container.streams.video[0], backward=True)
        except load_av().error.FFmpegError:
            return  # what cannot be sought in is read on
        self._frames, self._frame, self._time = decoded(self._container, self.path), None, second
