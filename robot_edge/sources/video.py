"""Frames from a recorded video, read by PyAV, with a file that says what is shown when."""

from __future__ import annotations

import csv
import logging
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from broker.codec import check_class_name
from broker.errors import MalformedMessage, SourceError
from robot_edge.frames import NOMINAL_RATE, Frame, check_size
from robot_edge.sources.kinds import check_is_video
from robot_edge.sources.replay import Replay

if TYPE_CHECKING:
    import av

# A line a second for a day; a file that is larger is something else.
MOST_INTERVALS = 100_000
MOST_LABEL_BYTES = 10_000_000
# FFmpeg's demuxers for files with pictures in them. Its others include playlists, which open further files and URLs.
CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg,mjpeg,h264,hevc,m4v,ivf,mxf,gif"

log = logging.getLogger("robot-edge")


@dataclass(frozen=True, kw_only=True)
class Interval:
    """What is shown from ``start`` until before ``end``, in seconds since the video's beginning."""

    start: float
    end: float
    name: str


def read_labels(path: Path) -> list[Interval]:
    """Read a CSV file with the columns start, end and class; sorted by time. Raises SourceError."""
    try:
        if path.stat().st_size > MOST_LABEL_BYTES:
            raise SourceError(f"--labels {path}: {path.stat().st_size:,} bytes, limit {MOST_LABEL_BYTES:,}")
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if any(map(str.strip, row))]
    except (OSError, UnicodeError, csv.Error) as error:
        raise SourceError(f"--labels {path}: {error}") from error
    if rows and [cell.strip().lower() for cell in rows[0][1]] == ["start", "end", "class"]:
        del rows[0]
    if not 0 < len(rows) <= MOST_INTERVALS:
        raise SourceError(f"--labels {path}: {len(rows):,} lines with labels; use 1 to {MOST_INTERVALS:,}")
    intervals = sorted(
        ((_interval(row, f"--labels {path}, line {number}"), number) for number, row in rows),
        key=lambda one: one[0].start,
    )
    for (one, number), (other, later) in pairwise(intervals):
        if other.start < one.end:
            raise SourceError(f"--labels {path}: lines {number} and {later} say what is shown at {other.start:g} s")
    return [interval for interval, _ in intervals]


def _interval(row: list[str], where: str) -> Interval:
    try:
        start, end, name = (cell.strip() for cell in row)
        interval = Interval(start=float(start), end=float(end), name=name)
        if not 0 <= interval.start < interval.end < math.inf:
            raise ValueError(f"from {start} to {end} is no time")
        check_class_name(name)
    except (ValueError, MalformedMessage) as error:
        shown = ",".join(row)[:80]
        raise SourceError(f"{where}: {shown!r}: {error}; expected start,end,class as in 0,12.5,cup") from None
    return interval


class VideoSource(Replay):
    """Replays the first video stream of a file. Frames of the same second share a scene.

    Frames are counted by their times in the file, so that going on in the middle is exact and cheap, and one that
    cannot be decoded is skipped.
    """

    def __init__(self, path: Path, labels: Path | None = None) -> None:
        """Open the file, and read through it once for its frames' times. Raises SourceError."""
        av = _av()
        self._path = path
        self._intervals = read_labels(labels) if labels else []
        self._starts = [interval.start for interval in self._intervals]
        self.position = 0
        self.skipped = 0
        check_is_video(path)
        try:
            self._container = self._open()
            stream = self._container.streams.video[0]
            # A packet is a frame; some raw formats know no times.
            packets = [(packet.pts, packet.size) for packet in self._container.demux(stream) if packet.size]
            self._container.close()
            self._container = self._open()
        except (av.error.FFmpegError, IndexError, ValueError) as error:
            reason = "it has no pictures" if isinstance(error, IndexError) else error
            raise SourceError(f"video {path} cannot be read: {reason}; was its recording cut off?") from error
        stream = self._container.streams.video[0]
        stream.thread_type = "AUTO"
        times = [pts for pts, _ in packets if pts is not None]
        # Where times are missing or come twice, frames are only counted, one packet after the other.
        self._times = sorted(times) if len(set(times)) == len(packets) else None
        self._time_base = float(stream.time_base or 1)
        self._rate = float(stream.average_rate or NOMINAL_RATE)
        self.length = len(packets)
        if not packets:
            raise SourceError(f"video {path} has no pictures; was its recording cut off?")
        self._frames = self._decode()
        self._warn_of_labels_behind_the_end()

    @property
    def ended(self) -> bool:
        """Whether the last frame was shown."""
        return self.position >= self.length

    def next(self, timeout: float | None = None) -> Frame | None:
        """Return the next frame that can be decoded; None at the end. Raises SourceError for a picture too large."""
        if self.ended:
            return None
        for one in self._frames:
            number = self.position if self._times is None else bisect_left(self._times, one.pts)
            if number < self.position:
                continue  # between the key frame and the place to go on from
            self.skipped += number - self.position
            self.position = min(number + 1, self.length)
            second = self._second(number)
            return Frame(image=self._picture(one), label=self._label(second), scene=int(second), time=second)
        self.skipped += self.length - self.position
        self.position = self.length
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
        """Close the file."""
        self._container.close()

    def _open(self) -> av.container.InputContainer:
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
        container: av.container.InputContainer = _av().open(str(self._path.resolve()), container_options=options)
        try:
            context = container.streams.video[0].codec_context
            check_size(context.width, context.height)
        except BaseException:
            container.close()
            raise
        return container

    def _decode(self) -> Iterator[Any]:
        """Yield the frames that can be decoded."""
        av = _av()
        packets = self._container.demux(self._container.streams.video[0])
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                frames = packet.decode()
            except av.error.InvalidDataError:
                continue  # counted when the next frame shows which ones are missing
            except av.error.FFmpegError as error:
                log.warning("video %s: %s", self._path, error)
                return
            # Those without a time have no place among the others.
            yield from (
                frame for frame in frames if not frame.is_corrupt and (frame.pts is not None or self._times is None)
            )

    def _picture(self, frame: Any) -> NDArray[np.uint8]:
        try:
            check_size(frame.width, frame.height)
        except ValueError as error:
            raise SourceError(f"video {self._path}: {error}") from error
        image: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
        return image

    def _second(self, number: int) -> float:
        if self._times is None:
            return number / self._rate
        return (self._times[min(number, self.length - 1)] - self._times[0]) * self._time_base

    def _label(self, second: float) -> str | None:
        place = bisect_right(self._starts, second) - 1
        return self._intervals[place].name if place >= 0 and second < self._intervals[place].end else None

    def _warn_of_labels_behind_the_end(self) -> None:
        last = self._second(self.length - 1)
        behind = [interval for interval in self._intervals if interval.start > last]
        if behind:
            log.warning(
                "video %s ends at %.1f s: %d labels are of later times, the first %r at %g s",
                *(self._path, last, len(behind), behind[0].name, behind[0].start),
            )


def _av() -> Any:
    """Return PyAV. Raises SourceError where it is not installed."""
    try:
        import av
        import av.logging
    except ImportError:
        raise SourceError("video: needs PyAV: pip install 'reflexarc[video]'") from None
    av.logging.set_level(av.logging.PANIC)
    return av
