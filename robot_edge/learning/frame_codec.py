"""A frame in a fixed number of bytes: JPEG without its tables, at the highest quality that fits, or as it is. Pure."""

from __future__ import annotations

import numpy as np
from PIL import Image

from robot_edge.sources.encoded import check_jpeg_size, decode_own_jpeg, encode_jpeg
from robot_edge.sources.frames import Pixels

# Bytes of a raw frame for each byte of room: many frames teach more than good ones. A photograph of 32 pixels takes 500
# of its 3,072 bytes at quality 90, and 250 at 45, where most of them end.
SQUEEZED = 12
# Frames so small that a few blocks are all they have get this much, or what they take raw.
MIN_ROOM = 256
# From best to worst. At the first, network and eye see no difference; the last ones are for noise. Colour lies as
# densely as light at all of them: at half the density vivid little things lose more (3 dB) than the bytes are worth.
QUALITIES = (90, 75, 60, 45, 30, 15, 1)
START_OF_SCAN = b"\xff\xda"


class FrameCodec:
    """Encodes frames of one size, uint8 (size, size, 3), into at most ``room`` bytes each.

    All JPEGs of one size and quality begin with the same 600 bytes of tables, more than a small picture itself takes.
    They are kept once. heads: those that were met, which whoever keeps encoded frames has to keep, too: another
    machine's library might write others.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        raw = 3 * size**2
        self.room = max(raw // SQUEEZED, min(raw, MIN_ROOM))
        self.heads: list[bytes] = []

    def encode(self, frame: Pixels) -> tuple[int, bytes]:
        """Return which of the heads it has, and what remains of the JPEG, of the best quality that fits.

        What fits at none is smoothed first.
        """
        smoothed, side = frame, self.size
        while (fitting := self._best_that_fits(smoothed)) is None:
            side = max(1, side // 2)  # with one colour it fits
            smaller = Image.fromarray(frame).resize((side, side), Image.Resampling.BOX)
            smoothed = np.asarray(smaller.resize((self.size, self.size)))
        head, body = fitting
        if head not in self.heads:
            self.heads.append(head)
        return self.heads.index(head), body

    def decode(self, head: int, body: bytes) -> Pixels:
        """Return the frame. Raises one of UNREADABLE where the bytes are none of this codec's."""
        check_jpeg_size(self.heads[head], self.size)
        return decode_own_jpeg(self.heads[head] + body)

    def _best_that_fits(self, frame: Pixels) -> tuple[bytes, bytes] | None:
        """Return head and body at the best quality at which the body fits; None where it does at none."""
        fitting, better, worse = None, 0, len(QUALITIES)
        while better < worse:  # a bisection: to encode is what costs
            middle = (better + worse) // 2
            head, body = _split(encode_jpeg(frame, QUALITIES[middle], dense=True))
            if len(body) <= self.room:
                fitting, worse = (head, body), middle
            else:
                better = middle + 1
        return fitting


class ExactCodec(FrameCodec):
    """Frames as they are."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.room = 3 * size**2

    def encode(self, frame: Pixels) -> tuple[int, bytes]:
        return 0, frame.tobytes()

    def decode(self, head: int, body: bytes) -> Pixels:
        return np.frombuffer(body, np.uint8).reshape(self.size, self.size, 3)


def _split(encoded: bytes) -> tuple[bytes, bytes]:
    """Return the tables and what is peculiar to a picture."""
    at = encoded.index(START_OF_SCAN)
    at += 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
    return encoded[:at], encoded[at:]
