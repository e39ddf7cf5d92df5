"""Frames from a recorded video, read by PyAV, with a file that says what is shown when."""

from __future__ import annotations

import logging
import re
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from broker.errors import SourceError
from robot_edge.sources.frames import NOMINAL_RATE, Frame, Pixels, check_size
from robot_edge.sources.label_file import read_labels
from robot_edge.sources.recordings import check_is_video
from robot_edge.sources.replay import Replay

if TYPE_CHECKING:
    import av

# FFmpeg's demuxers for files with pictures in them. Its others include playlists, which open further files and URLs.
CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg,mjpeg,h264,hevc,m4v,ivf,mxf,gif"
# What FFmpeg says of a file of another demuxer.
NOT_READ = re.compile(r"\[([^\]]+)\] Format not on whitelist")
# FFmpeg's clock of a whole file counts microseconds.
FILE_CLOCK = 1e-6
# Kinds of boxes that are looked at for an mp4's index: there are some ten.
MAX_BOXES = 100
# The first bytes of files that are given for videos, and what to do with them.
PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"BM")
SINGLE_PICTURE = "it is a single picture: pictures lie in folders of their classes, for --source folder:"

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
            # A packet is a frame, unless an edit list hides it; some raw formats know no times.
            shown = (packet for packet in self._container.demux(stream) if packet.size and not packet.is_discard)
            packets = [packet.pts for packet in shown]
            self._container.close()
            self._container = self._open()
        except (av.error.FFmpegError, IndexError, ValueError) as error:
            reason = "it has no pictures" if isinstance(error, IndexError) else _reason(error)
            raise SourceError(f"video {path} cannot be read: {reason}; {_advice(path)}") from error
        stream = self._container.streams.video[0]
        stream.thread_type = "AUTO"
        self.length = len(packets)
        if not packets:
            raise SourceError(f"video {path} has no pictures; {_advice(path)}")
        if len(packets) == 1 and self._container.format.name == "mjpeg":
            raise SourceError(f"video {path}: {SINGLE_PICTURE}")
        times = [pts for pts in packets if pts is not None]
        # Where times are missing or come twice, frames are only counted, one packet after the other.
        self._times = sorted(times) if len(set(times)) == len(packets) else None
        self._time_base = float(stream.time_base or 1)
        self._rate = float(stream.average_rate or NOMINAL_RATE)
        self._begin = self._first_moment()
        self._seen = False
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

    def _picture(self, frame: Any) -> Pixels:
        try:
            check_size(frame.width, frame.height)
        except ValueError as error:
            raise SourceError(f"video {self._path}: {error}") from error
        matrix = frame.side_data.get("DISPLAYMATRIX")
        return upright(frame.to_ndarray(format="rgb24"), np.frombuffer(bytes(matrix), np.int32) if matrix else None)

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


def upright(image: Pixels, matrix: NDArray[np.int32] | None) -> Pixels:
    """Return a picture as its display matrix shows it: turned by quarters, mirrored, or as it is where there is none.

    matrix: the nine numbers of ISO/IEC 14496-12, by which x' = a x + c y and y' = b x + d y.
    """
    if matrix is None:
        return image
    (a, b, _), (c, d, _), _ = np.sign(matrix.reshape(3, 3)).tolist()
    if a == d == 0 != b:
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: d or 1, :: a or 1])


def _reason(error: Exception) -> str:
    """Return what FFmpeg says, which is followed by its log and led by a number."""
    text = str(error)
    if found := NOT_READ.search(text):
        return f"files of the kind {found[1]} are not read; read are {CONTAINERS.replace(',', ', ')}"
    return re.sub(r"^\[Errno \d+\] ", "", text.partition(": '")[0].partition("; last error log")[0])


def _advice(path: Path) -> str:
    """Say what may be wrong with a file that is no video."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
            if head.startswith(PICTURES):
                return SINGLE_PICTURE
            if head[4:8] == b"ftyp" and b"moov" not in _boxes(file, path.stat().st_size):
                return "its index (moov) is missing: the recording was cut off before its end"
    except OSError as error:
        return str(error)
    return "is it a video, and was its recording ended?"


def _boxes(file: BinaryIO, size: int) -> set[bytes]:
    """Return the kinds of an mp4's outer boxes, as far as they can be followed."""
    kinds: set[bytes] = set()
    place = 0
    while place + 8 <= size and len(kinds) < MAX_BOXES:
        file.seek(place)
        length, kind = struct.unpack(">I4s", file.read(8))
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        kinds.add(kind)
        if length < 8:
            break
        place += length
    return kinds


def _av() -> Any:
    """Return PyAV. Raises SourceError where it is not installed."""
    try:
        import av
        import av.logging
    except ImportError:
        raise SourceError("video: needs PyAV: pip install 'reflexarc[video]'") from None
    av.logging.set_level(av.logging.PANIC)
    return av
