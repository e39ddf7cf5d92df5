"""What of a camera's frame the network sees: a region of it, fitted into the network's square. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from broker.errors import ConfigError
from hierarchy.input_spec import Interpolation
from robot_edge.sources.frames import Pixels

# crop: the largest centred square. letterbox: all of it, between grey bars. squash: all of it, its sides made equal.
Fit = Literal["crop", "letterbox", "squash"]

# What people write for all of a frame.
WHOLE_TEXT = "whole"
# Less of a frame shows nothing, and is drawn by a slip of the finger.
LEAST_PERCENT, LEAST_PIXELS = 2.0, 8
# More than any frame has: numbers stay short enough to be printed.
MOST_PIXELS = 65_536
HOW = "give left, top, width and height, as in 160,48,320,384 (pixels) or 25%,10%,50%,80%; whole for all of the frame"
# The bars of a letterbox; near the mean of most networks' input, so that they say little.
BAR_GREY = 128

_NUMBER = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)\s*(%?)", re.ASCII)
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Region:
    """A part of a frame, from its left upper corner on: in pixels, or in percent of the frame's width and height."""

    left: float
    top: float
    width: float
    height: float
    in_percent: bool = True

    def __post_init__(self) -> None:
        """Raise ConfigError for a region that no frame has."""
        most, least = (100.0, LEAST_PERCENT) if self.in_percent else (MOST_PIXELS, LEAST_PIXELS)
        unit = " %" if self.in_percent else " pixels"
        for start, extent, name in ((self.left, self.width, "width"), (self.top, self.height, "height")):
            if not (math.isfinite(start) and math.isfinite(extent) and start >= 0):
                raise ConfigError(f"region {self}: a number is below 0, or none; {HOW}")
            if extent < least:
                raise ConfigError(f"region {self}: a {name} of {extent:g}{unit} shows nothing, give {least:g} at least")
            if start + extent > most + 1e-6:
                raise ConfigError(
                    f"region {self} reaches to {start + extent:g}{unit} of the {name}, the frame ends at {most:g}"
                )

    def __str__(self) -> str:
        """Return the region as people write it."""
        if self == WHOLE:
            return WHOLE_TEXT
        sign = "%" if self.in_percent else ""
        return ",".join(f"{round(one, 2):g}{sign}" for one in (self.left, self.top, self.width, self.height))

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom in a frame of that size, in pixels.

        Raises ConfigError for pixels that the frame does not have.
        """
        across, down = (width / 100, height / 100) if self.in_percent else (1.0, 1.0)
        left, top = round(self.left * across), round(self.top * down)
        if self.in_percent:  # of a frame of a few pixels, a region at its edge has the last one
            left, top = min(left, width - 1), min(top, height - 1)
        right = max(left + 1, round((self.left + self.width) * across))
        bottom = max(top + 1, round((self.top + self.height) * down))
        if right > width or bottom > height:
            raise ConfigError(
                f"region {self} reaches to {right} x {bottom} pixels, and a frame has {width} x {height}; give a "
                "smaller one, or percent where frames differ in size"
            )
        return left, top, right, bottom

    def cut(self, image: Pixels) -> Pixels:
        """Return the region of a frame uint8 (H, W, 3), without a copy. Raises ConfigError as ``box`` does."""
        height, width, _ = image.shape
        left, top, right, bottom = self.box(width, height)
        return image if (right - left, bottom - top) == (width, height) else image[top:bottom, left:right]

    def of_frame(self, width: int, height: int) -> Region:
        """Return the same region in percent. Raises ConfigError as ``box`` does."""
        if self.in_percent:
            return self
        left, top, right, bottom = self.box(width, height)
        return Region(
            100 * left / width, 100 * top / height, 100 * (right - left) / width, 100 * (bottom - top) / height
        )


WHOLE = Region(0.0, 0.0, 100.0, 100.0)


def parse_region(text: str) -> Region:
    """Return the region that people wrote. Raises ConfigError, which says how to write one."""
    if text.strip().lower() == WHOLE_TEXT:
        return WHOLE
    parts = [_NUMBER.fullmatch(part.strip()) for part in text.split(",")[:5]]
    numbers = [(float(part[1]), part[2]) for part in parts if part]
    if len(numbers) != 4 or len(parts) != 4:
        raise ConfigError(f"{text[:80]!r} is no region: {HOW}")
    units = {unit for _, unit in numbers}
    if len(units) > 1:
        raise ConfigError(f"{text[:80]!r}: some numbers are in percent and some are not; {HOW}")
    left, top, width, height = (number for number, _ in numbers)
    return Region(left, top, width, height, in_percent=units == {"%"})


@dataclass(frozen=True, kw_only=True)
class Framing:
    """How a frame becomes what the network sees: uint8 (size, size, 3).

    crop: share of the square's side that the fit of that name keeps, around its centre, as the network was tested.
    """

    size: int
    fit: Fit = "crop"
    interpolation: Interpolation = "bilinear"
    crop: float = 1.0
    region: Region = WHOLE

    def input(self, image: Pixels) -> Pixels:
        """Return what the network sees of a frame uint8 (H, W, 3). Raises ConfigError for a region it does not have."""
        return self.fitted(self.region.cut(image))

    def seen(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom of what the network sees of a frame of that size, in pixels.

        Raises ConfigError for a region that the frame does not have.
        """
        left, top, right, bottom = self.region.box(width, height)
        wide, high = self._kept(right - left, bottom - top)
        left, top = left + (right - left - wide) // 2, top + (bottom - top - high) // 2
        return left, top, left + wide, top + high

    def fitted(self, part: Pixels) -> Pixels:
        """Return a part of a frame, uint8 (H, W, 3), as the network sees it."""
        if self.fit == "letterbox":
            return self._letterboxed(part)
        height, width, _ = part.shape
        wide, high = self._kept(width, height)
        left, top = (width - wide) // 2, (height - high) // 2
        return self._scaled(part[top : top + high, left : left + wide], self.size, self.size)

    def _kept(self, width: int, height: int) -> tuple[int, int]:
        """Return how wide and high the middle is that the fit keeps of a part of that size."""
        if self.fit != "crop":
            return width, height
        return (max(1, round(self.crop * min(width, height))),) * 2

    def _letterboxed(self, part: Pixels) -> Pixels:
        height, width, _ = part.shape
        longer = max(width, height)
        wide, high = (max(1, round(self.size * one / longer)) for one in (width, height))
        square = np.full((self.size, self.size, 3), BAR_GREY, np.uint8)
        left, top = (self.size - wide) // 2, (self.size - high) // 2
        square[top : top + high, left : left + wide] = self._scaled(part, wide, high)
        return square

    def _scaled(self, part: Pixels, width: int, height: int) -> Pixels:
        if part.shape[:2] == (height, width):
            return part
        return np.asarray(Image.fromarray(part).resize((width, height), _RESAMPLING[self.interpolation]))
