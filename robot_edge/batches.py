"""Frames to batches: resized, held-out scenes set apart, the rest in batches. Pure but for the source it reads."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robot_edge.frame_memory import FrameMemory
from robot_edge.frames import Frame, FrameSource, Pixels

# One frame in so many is also encoded as JPEG, to know what sending pictures would cost. Pillow's default quality.
JPEG_SAMPLED_EVERY = 50


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Labelled frames of the robot's image size: uint8 (N, H, W, 3) and a class name each.

    positions: how far the source had been read with each of them.
    """

    images: Pixels
    names: list[str]
    positions: list[int]


@dataclass
class Batcher:
    """Reads a source batch by batch.

    held_out_every: one scene in so many goes to ``held_out`` and is never trained on; 0 for none.
    """

    source: FrameSource
    size: int
    image_size: int
    held_out_every: int
    held_out: FrameMemory
    frames_read: int = 0
    unlabelled: int = 0
    _jpeg_sizes: list[int] = field(default_factory=list)
    _held_out_met: set[int] = field(default_factory=set)

    def next(self) -> Batch | None:
        """Return the next batch, a smaller one at the end of the source, then None. Raises SourceError."""
        images: list[Pixels] = []
        names: list[str] = []
        positions: list[int] = []
        while len(images) < self.size and (frame := self.source.next()) is not None:
            image = resize(frame.image, self.image_size)
            self._measure_jpeg(image)
            self.frames_read += 1
            if frame.label is None:
                self.unlabelled += 1
            elif self._is_held_out(frame):
                if not self._is_met_again(image):
                    self.held_out.add(frame.label, image)
            else:
                images.append(image)
                names.append(frame.label)
                positions.append(self.source.position)
        return Batch(images=np.stack(images), names=names, positions=positions) if images else None

    def state(self) -> tuple[dict[str, Any], NDArray[np.int64]]:
        """Return where it stands, as JSON can hold it, and the marks of held-out pictures that may come again."""
        about = {"frames_read": self.frames_read, "unlabelled": self.unlabelled, "jpeg_sizes": self._jpeg_sizes}
        return about, np.array(sorted(self._held_out_met), np.int64)

    def restore(self, about: dict[str, Any], marks: NDArray[np.int64]) -> None:
        """Go on from a state; the source and the held-out frames have their own."""
        self.frames_read, self.unlabelled = about["frames_read"], about["unlabelled"]
        self._jpeg_sizes = list(about["jpeg_sizes"])
        self._held_out_met = set(marks.tolist())

    @property
    def progress(self) -> float | None:
        """The share of the source that is read; None where it has no end."""
        length = self.source.length
        return min(1.0, self.frames_read / length) if length else None

    @property
    def raw_bytes_per_image(self) -> int:
        """What a frame of the robot's image size takes, uncompressed."""
        return 3 * self.image_size**2

    @property
    def jpeg_bytes_per_image(self) -> float | None:
        """What a frame of the robot's image size would cost as JPEG; None before the first."""
        return sum(self._jpeg_sizes) / len(self._jpeg_sizes) if self._jpeg_sizes else None

    def _is_held_out(self, frame: Frame) -> bool:
        return self.held_out_every > 0 and frame.scene % self.held_out_every == 0

    def _is_met_again(self, image: Pixels) -> bool:
        """Whether a held-out picture came in a former epoch or phase, which a stream without an end does not have."""
        if self.source.length is None:
            return False
        # Python's own hash is salted, so it would not know a picture again in the next process.
        digest = hashlib.blake2b(image.tobytes(), digest_size=8).digest()
        mark = int.from_bytes(digest, "little", signed=True)
        known = mark in self._held_out_met
        self._held_out_met.add(mark)
        return known

    def _measure_jpeg(self, image: Pixels) -> None:
        # A thousand sizes give the mean to a percent; a week's run should not keep more.
        if self.frames_read % JPEG_SAMPLED_EVERY == 0 and len(self._jpeg_sizes) < 1000:
            encoded = io.BytesIO()
            Image.fromarray(image).save(encoded, "JPEG")
            self._jpeg_sizes.append(encoded.tell())


def resize(image: Pixels, size: int) -> Pixels:
    """Return the image as uint8 (size, size, 3): its largest centred square, scaled."""
    height, width, _ = image.shape
    if height == width == size:
        return image
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square = Image.fromarray(image[top : top + side, left : left + side])
    return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))
