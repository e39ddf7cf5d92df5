"""Pictures with boxes of things in them: each box is a frame, cut out of its picture."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from robot_edge.sources.folder import read_picture
from robot_edge.sources.frames import Pixels
from robot_edge.sources.indexed import Record
from robot_edge.sources.tally import Tally

# A crop of fewer pixels a side shows nothing that can be learned.
MIN_SIDE = 2.0


class Box(NamedTuple):
    """A thing in a picture: its edges, in pixels, or in parts of the picture where it ``is_share``."""

    left: float
    top: float
    right: float
    bottom: float
    is_share: bool

    @property
    def is_sound(self) -> bool:
        """Whether it has a size."""
        return all(map(math.isfinite, self[:4])) and self.left < self.right and self.top < self.bottom


class Crop(NamedTuple):
    """A box in a picture's file."""

    file: str
    box: Box

    def __str__(self) -> str:
        left, top, right, bottom = (f"{edge:g}" for edge in self.box[:4])
        return f"{self.file} at {left}, {top} to {right}, {bottom}"


def read_crop(crop: Crop) -> Pixels:
    """Return what is in a box, (height, width, 3). Raises one of UNREADABLE."""
    image = read_picture(crop.file)
    height, width, _ = image.shape
    scale = np.array([width, height] * 2 if crop.box.is_share else [1] * 4)
    limits = [width, height, width, height]
    left, top, right, bottom = np.clip(np.rint(np.array(crop.box[:4]) * scale), 0, limits).astype(int).tolist()
    if right - left < MIN_SIDE or bottom - top < MIN_SIDE:
        raise ValueError(f"a box of {right - left} x {bottom - top} pixels in a picture of {width} x {height}")
    return image[top:bottom, left:right].copy()  # or the whole picture would be kept with it


def crops_of(
    pictures: Iterable[tuple[str, str, list[tuple[str, Box]]]],
    tally: Tally,
    exists: Callable[[str], bool] = os.path.exists,
) -> list[Record]:
    """Return a record of each box of (path, what it is called, its classes and boxes). One picture's share a scene."""
    records: list[Record] = []
    for scene, (file, place, boxes) in enumerate(pictures):
        if not exists(file):
            tally.add("pictures that are not there", place)
            continue
        if not boxes:
            tally.add("pictures without a box", place)
        for name, box in boxes:
            if box.is_sound:
                records.append(Record(scene, Crop(file, box), name))
            else:
                tally.add("boxes without a size", place)
    return records
