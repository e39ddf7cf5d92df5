"""A video whose pictures come in messages, one in each: foxglove's CompressedVideo."""

from __future__ import annotations

from typing import Any

from robot_edge.sources.frames import Pixels
from robot_edge.sources.video_file import PixelsOf, load_av

# What its format may say, and FFmpeg's names.
CODECS = {"h264": "h264", "h265": "hevc", "hevc": "hevc", "vp9": "vp9", "av1": "av1"}


class MessageVideo:
    """Decodes one message after the other. Its pictures can be read behind a key frame only."""

    def __init__(self, kind: str) -> None:
        """Take the format of the messages, one of CODECS. Raises SourceError where PyAV is not installed."""
        self._av = load_av()
        self.kind = kind
        self._context: Any = self._av.CodecContext.create(CODECS[kind], "r")
        self._context.thread_count = 1  # of several threads pictures would come some messages later
        self._number = 0
        self._pixels = PixelsOf()

    def picture(self, data: bytes) -> Pixels:
        """Return the picture of the next message, (height, width, 3). Raises ValueError for one that has none."""
        packet = self._av.Packet(data)
        packet.pts = self._number
        self._number += 1
        try:
            frames = [frame for frame in self._context.decode(packet) if frame.pts == packet.pts]
        except self._av.error.FFmpegError as error:
            raise ValueError(f"{self.kind}: {str(error).partition('; last error log')[0]}") from error
        if not frames or frames[0].is_corrupt:
            raise ValueError(f"{self.kind}: no picture without the key frame before it")
        return self._pixels(frames[0])
