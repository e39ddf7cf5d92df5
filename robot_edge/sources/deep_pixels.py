"""Pixels of more than 8 bits to 8 bits, for pictures in files and in ROS messages alike."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_edge.sources.frames import Pixels

# A picture that spans less than this share of 16 bits would keep fewer than 64 of 256 levels of grey. So a sensor of
# 14 bits or fewer is always stretched, and a photograph in 16 bits is shown as the same photograph in 8 bits.
MIN_SPAN = 1 / 4
FULL_RANGE = np.iinfo(np.uint16).max
# Dead and saturated pixels, one in a thousand at either end, do not decide what is black and what is white.
OUTLIERS_PERCENT = 0.1
# The range is measured on about so many values: as exact as needed, in a few milliseconds for any size.
MEASURED_VALUES = 100_000


def to_eight_bits(deep: NDArray[Any]) -> Pixels:
    """Return pixels of any integer or float type as uint8, with their contrast kept.

    deep: (height, width) or (height, width, channels), as the result.
    Whole 16 bits are scaled as they are. Less of them, and every type whose range says nothing (12 bits in 16, depth in
    millimetres or metres, temperatures), is stretched from the picture's own darkest to its brightest. All channels are
    scaled alike. What is not finite becomes black.
    """
    if deep.dtype == np.uint8:
        return deep
    is_16_bits = deep.dtype.newbyteorder("=") == np.uint16
    low, high = _range_of(deep)
    if is_16_bits and high - low >= MIN_SPAN * FULL_RANGE:
        low, high = 0.0, float(FULL_RANGE)
    if high <= low:
        low, high = (0.0, float(FULL_RANGE)) if is_16_bits else (low, low + 1)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite, or would not be as float32
        scaled = (deep.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    shown: Pixels = np.nan_to_num(scaled, nan=0, posinf=0, neginf=0).round().clip(0, 255).astype(np.uint8)
    return shown


def _range_of(deep: NDArray[Any]) -> tuple[float, float]:
    """Return the darkest and the brightest value but for outliers; 0 and 0 where none is finite."""
    every = max(1, math.isqrt(deep.size // MEASURED_VALUES))
    values = deep[::every, ::every].astype(np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 0.0
    low, high = np.percentile(values, [OUTLIERS_PERCENT, 100 - OUTLIERS_PERCENT])
    return float(low), float(high)
