"""What an attacker knows: activations as they cross, and the pictures that they were made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

Values = NDArray[np.float32]
Pictures = NDArray[np.uint8]
# What an attacker sees: float32 (N, h, w, 3), 0 to 1.
Reconstructions = NDArray[np.float32]

# Pixels a side at which larger pictures are reconstructed. A face or a room is known at that size, and an attack takes
# a twelfth of the time that it takes at 224.
LARGEST_SIDE = 64
# Pictures that are made smaller at once.
AT_ONCE = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Of N frames. values: float32 (N, C, ...), what crossed, dequantized. pictures: uint8 (N, h, w, 3).

    pictures are at the size at which they are to be reconstructed: see `shrunk`. Raises ValueError where their numbers
    differ.
    """

    values: Values
    pictures: Pictures

    def __post_init__(self) -> None:
        if len(self.values) != len(self.pictures):
            raise ValueError(f"{len(self.values):,} activations and {len(self.pictures):,} pictures")

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, samples: slice | NDArray[np.int64]) -> Pairs:
        return Pairs(values=self.values[samples], pictures=self.pictures[samples])


class Attacker(Protocol):
    """Has learned from pairs of its own."""

    def reconstruct(self, values: Values) -> Reconstructions:
        """Return pictures, float32 (N, h, w, 3), for activations float32 (N, C, ...)."""


def shrunk(images: Pictures, side: int = LARGEST_SIDE) -> Pictures:
    """Return pictures uint8 (N, side, side, 3), each pixel an average, of square ones that are larger; others as is."""
    if images.shape[1] <= side:
        return images
    parts = [images[start : start + AT_ONCE] for start in range(0, len(images), AT_ONCE)]
    return np.concatenate([_shrunk(part, side) for part in parts])


def _shrunk(images: Pictures, side: int) -> Pictures:
    small = F.adaptive_avg_pool2d(torch.from_numpy(images).permute(0, 3, 1, 2).float(), side)
    return small.round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def as_shares(pictures: Pictures) -> Reconstructions:
    """Return pictures uint8 (N, h, w, 3) as float32 from 0 to 1."""
    shares: Reconstructions = pictures.astype(np.float32) / np.float32(255)
    return shares


def mean_picture(pictures: Pictures) -> NDArray[np.float32]:
    """Return the mean of pictures uint8 (N, h, w, 3), as float32 (h, w, 3) from 0 to 1: a guess without payload."""
    mean: NDArray[np.float32] = (pictures.mean(0, dtype=np.float64) / 255).astype(np.float32)
    return mean


@dataclass(frozen=True, kw_only=True, eq=False)
class Scale:
    """Mean and deviation of each channel, float32 (1, C, 1, ...), as the attacker finds them in its own activations."""

    mean: Values
    deviation: Values

    @staticmethod
    def of(values: Values) -> Scale:
        """Return those of values float32 (N, C, ...). A channel that never changes has deviation 1."""
        but_channels = (0, *range(2, values.ndim))
        mean = values.mean(but_channels, keepdims=True, dtype=np.float64)
        deviation = values.std(but_channels, keepdims=True, dtype=np.float64)
        deviation[deviation < 1e-12] = 1
        return Scale(mean=mean.astype(np.float32), deviation=deviation.astype(np.float32))

    def applied(self, values: Values) -> Values:
        """Return values with mean 0 and deviation 1 in each channel."""
        scaled: Values = (values - self.mean) / self.deviation
        return scaled


def as_map(values: Values) -> Values:
    """Return values as maps (N, C, h, w), whatever way they crossed.

    (N, C, h, w) stays, or (N, h, w, C) where that is what it is. (N, tokens, C) and (N, C, tokens) become a map where
    the tokens fill a square, a class token in front of them left out. Everything else is a map of one place.
    """
    count, *shape = values.shape
    if len(shape) == 3:
        channels_last = shape[0] == shape[1] != shape[2]
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2)) if channels_last else values
    if len(shape) == 2:
        for axis in (1, 2):
            tokens = np.moveaxis(values, axis, 2)
            for extra in (0, 1):
                side = round((tokens.shape[2] - extra) ** 0.5)
                if side > 1 and side**2 + extra == tokens.shape[2]:
                    return np.ascontiguousarray(tokens[:, :, extra:]).reshape(count, -1, side, side)
    return values.reshape(count, -1, 1, 1)
