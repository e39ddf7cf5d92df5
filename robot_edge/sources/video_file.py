"""Files of videos, by PyAV: how they are opened and decoded, and what is wrong with one that is not."""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from broker.errors import SourceError
from robot_edge.sources.frames import Pixels, check_size

if TYPE_CHECKING:
    import av

# FFmpeg's demuxers for files with pictures in them. Its others include playlists, which open further files and URLs.
CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg,mjpeg,h264,hevc,m4v,ivf,mxf,gif"
# What FFmpeg says of a file of another demuxer.
NOT_READ = re.compile(r"\[([^\]]+)\] Format not on whitelist")
# Kinds of boxes that are looked at for an mp4's index: there are some ten.
MAX_BOXES = 100
# The first bytes of files that are given for videos, and what to do with them.
PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"BM")
SINGLE_PICTURE = "it is a single picture: pictures lie in folders of their classes, for --source folder:"

log = logging.getLogger("robot-edge")


def open_container(path: Path) -> av.container.InputContainer:
    """Open a file whose first video can be decoded. Raises FFmpegError, IndexError for no video, and ValueError."""
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    container: av.container.InputContainer = load_av().open(str(path.resolve()), container_options=options)
    try:
        context = container.streams.video[0].codec_context
        if context is None:
            raise ValueError("this build of PyAV has no decoder for its pictures")
        check_size(context.width, context.height)
    except BaseException:
        container.close()
        raise
    return container


def decoded(container: av.container.InputContainer, path: Path) -> Iterator[Any]:
    """Yield the frames of the first video that can be decoded, from where the container is."""
    av = load_av()
    packets = container.demux(container.streams.video[0])
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            frames = packet.decode()
        except av.error.InvalidDataError:
            continue  # counted when the next frame shows which ones are missing
        except av.error.FFmpegError as error:
            log.warning("video %s: %s", path, error)
            return
        yield from (frame for frame in frames if not frame.is_corrupt)


class PixelsOf:
    """Turns frames of one film into pixels.

    What converts colours is kept: with threads of its own for each frame it takes 50 times as long for a small picture.
    """

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        # Where a version of PyAV can have threads for this it has as many as there are cores.
        has_threads = "threads" in (VideoReformatter.reformat.__doc__ or "")
        self._options = {"threads": 1} if has_threads else {}

    def __call__(self, frame: Any) -> Pixels:
        """Return a frame as a player shows it. Raises ValueError for one that is too large."""
        check_size(frame.width, frame.height)
        matrix = frame.side_data.get("DISPLAYMATRIX")
        converted: Any = self._reformatter.reformat(frame, format="rgb24", **self._options)
        return upright(converted.to_ndarray(), np.frombuffer(bytes(matrix), np.int32) if matrix else None)


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


def why_not(error: Exception) -> str:
    """Return what FFmpeg says, which is followed by its log and led by a number."""
    text = str(error)
    if found := NOT_READ.search(text):
        return f"files of the kind {found[1]} are not read; read are {CONTAINERS.replace(',', ', ')}"
    return re.sub(r"^\[Errno \d+\] ", "", text.partition(": '")[0].partition("; last error log")[0])


def advice(path: Path) -> str:
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


def load_av() -> Any:
    """Return PyAV. Raises SourceError where it is not installed."""
    try:
        import av
        import av.logging
    except ImportError:
        raise SourceError("video: needs PyAV: pip install 'reflexarc[video]'") from None
    av.logging.set_level(av.logging.PANIC)
    return av
