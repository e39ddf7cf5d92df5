"""Frames from a recorded video, read by PyAV, with a file that says what is shown when."""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from broker.errors import SourceError
from robot_edge.sources.frames import NOMINAL_RATE, Frame, Pixels
from robot_edge.sources.label_file import read_labels
from robot_edge.sources.recordings import check_is_video
from robot_edge.sources.replay import Replay
from robot_edge.sources.video_file import SINGLE_PICTURE, PixelsOf, advice, decoded, load_av, open_container, why_not

# FFmpeg's clock of a whole file counts microseconds.
FILE_CLOCK = 1e-6

log = logging.getLogger("robot-edge")


class VideoSource(Replay):
    """Replays the first video stream of a file. Frames of the same second share a scene.

    Frames are those that a player shows, upright, at the times that it shows: what an edit list hides is left out, and
    the file's first moment, of sound or picture, is 0 s. They are counted by their times, so that going on in the
    middle is exact and cheap, and one that cannot be decoded is skipped.
    """

    def __init__(self, path: Path, labels: Path | None = None) -> None:
        """Open the file, and read through it once for its frames' times. Raises SourceError.

        labels: a file for ``read_labels``; refused where it names nothing that the video shows.
        """
        av = load_av()
        self._path = path
        self._intervals = read_labels(labels) if labels else []
        self._starts = [interval.start for interval in self._intervals]
        self.position = 0
        self.skipped = 0
        check_is_video(path)
        try:
            self._container = open_container(path)
            stream = self._container.streams.video[0]
            # A packet is a frame, unless an edit list hides it; some raw formats know no times.
            shown = (packet for packet in self._container.demux(stream) if packet.size and not packet.is_discard)
            packets = [packet.pts for packet in shown]
            self._container.close()
            self._container = open_container(path)
        except (av.error.FFmpegError, IndexError, ValueError) as error:
            reason = "it has no pictures" if isinstance(error, IndexError) else why_not(error)
            raise SourceError(f"video {path} cannot be read: {reason}; {advice(path)}") from error
        stream = self._container.streams.video[0]
        stream.thread_type = "AUTO"
        self.length = len(packets)
        if not packets:
            raise SourceError(f"video {path} has no pictures; {advice(path)}")
        if len(packets) == 1 and self._container.format.name == "mjpeg":
            raise SourceError(f"video {path}: {SINGLE_PICTURE}")
        times = [pts for pts in packets if pts is not None]
        # Where times are missing or come twice, frames are only counted, one packet after the other.
        self._times = sorted(times) if len(set(times)) == len(packets) else None
        self._time_base = float(stream.time_base or 1)
        self._rate = float(stream.average_rate or NOMINAL_RATE)
        self._begin = self._first_moment()
        self._seen = False
        self._pixels = PixelsOf()
        self._frames = self._decode()
        if labels:
            self._check_labels(labels)

    @property
    def unlabelled(self) -> str:
        return "" if self._intervals else f"nothing says what video {self._path} shows: give --labels FILE.csv"

    @property
    def classes(self) -> frozenset[str]:
        return frozenset(interval.name for interval in self._intervals)

    @property
    def ended(self) -> bool:
        return self.position >= self.length

    def next(self, timeout: float | None = None) -> Frame | None:
        """Return the next frame that can be decoded; None at the end.

        Raises SourceError for a picture too large, and where not one could be decoded.
        """
        if self.ended:
            return None
        for one in self._frames:
            number = self.position if self._times is None else bisect_left(self._times, one.pts)
            if number < self.position:
                continue  # between the key frame and the place to go on from
            self.skipped += number - self.position
            self.position = min(number + 1, self.length)
            self._seen = True
            second = self._second(number)
            return Frame(image=self._picture(one), label=self._label(second), scene=int(second), time=second)
        self.skipped += self.length - self.position
        self.position = self.length
        if self.skipped == self.length and not self._seen:
            raise SourceError(f"video {self._path}: none of its {self.length:,} pictures can be decoded")
        return None

    def seek(self, position: int) -> None:
        """Go on behind so many frames: from the key frame before, or else from the beginning."""
        target = min(position, self.length)
        if self._times is None:
            while self.position < target and self.next() is not None:
                pass
            return
        if 0 < target < self.length:
            stream = self._container.streams.video[0]
            self._container.seek(self._times[target], stream=stream, backward=True)
            self._frames = self._decode()
        self.position = target

    def close(self) -> None:
        self._container.close()

    def _decode(self) -> Iterator[Any]:
        """Yield the frames that can be decoded. Those without a time have no place among the others."""
        return (one for one in decoded(self._container, self._path) if one.pts is not None or self._times is None)

    def _picture(self, frame: Any) -> Pixels:
        try:
            return self._pixels(frame)
        except ValueError as error:
            raise SourceError(f"video {self._path}: {error}") from error

    def _first_moment(self) -> float:
        """Return the time in the file that a player calls 0 s, in seconds."""
        begin: int | None = self._container.start_time  # None where no packet has a time
        if begin is not None:
            return begin * FILE_CLOCK
        return self._times[0] * self._time_base if self._times else 0.0

    def _second(self, number: int) -> float:
        if self._times is None:
            return number / self._rate
        second = self._times[min(number, self.length - 1)] * self._time_base - self._begin
        return max(0.0, round(second, 6))  # the file's clock is in microseconds

    def _label(self, second: float) -> str | None:
        place = bisect_right(self._starts, second) - 1
        return self._intervals[place].name if place >= 0 and second < self._intervals[place].end else None

    def _check_labels(self, path: Path) -> None:
        """Say which labels are of times behind the end. Raises SourceError where none is of a frame."""
        last = self._second(self.length - 1)
        if not any(self._label(self._second(number)) for number in range(self.length)):
            first = self._intervals[0]
            raise SourceError(
                f"--labels {path}: none of its {len(self._intervals):,} labels is of a picture in video {self._path}, "
                f"which ends at {last:.1f} s: the first, {first.name!r}, is of {first.start:g} to {first.end:g} s. "
                "Times have to be in seconds, not in frames or milliseconds"
            )
        behind = [interval for interval in self._intervals if interval.start > last]
        if behind:
            log.warning(
                "video %s ends at %.1f s: %d labels are of later times, the first %r at %g s; are they in seconds?",
                *(self._path, last, len(behind), behind[0].name, behind[0].start),
            )
