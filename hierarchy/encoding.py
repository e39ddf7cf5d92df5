"""What a network that stands still makes of frames, computed once for each and kept. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from broker.wire.quantize import Quantized, quantize

# The largest number of two bytes, and of one that is kept.
LARGEST_HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoding:
    """Of N frames. features: float16 (N, F), what the exit's head takes.

    crossing: float16 (N, C, ...), what crosses the cut before it is quantized; None where that went up already.
    """

    features: NDArray[np.float16]
    crossing: NDArray[np.float16] | None

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, samples: slice) -> Encoding:
        crossing = None if self.crossing is None else self.crossing[samples]
        return Encoding(features=self.features[samples], crossing=crossing)

    def quantized(self, bits: int) -> Quantized:
        """Return what crosses the cut, with one range for each channel. Raises ValueError where it is not kept."""
        if self.crossing is None:
            raise ValueError("what crossed of these frames is not kept")
        return quantize(self.crossing.astype(np.float32), bits)


def half(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return values in two bytes each, the largest ones as the largest there is."""
    return np.clip(values, -LARGEST_HALF, LARGEST_HALF).astype(np.float16)


def joined(parts: Sequence[Encoding]) -> Encoding:
    """Return the encoding of all frames, one after the other. parts: at least one."""
    crossing = [part.crossing for part in parts if part.crossing is not None]
    return Encoding(
        features=np.concatenate([part.features for part in parts]),
        crossing=np.concatenate(crossing) if len(crossing) == len(parts) else None,
    )


@dataclass(frozen=True, kw_only=True)
class EncodingLayout:
    """How an encoding lies in a row of numbers. features: how many; crossing: shape (C, ...), empty where not kept."""

    features: int
    crossing: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return self.features + (int(np.prod(self.crossing)) if self.crossing else 0)

    def row(self, encoding: Encoding) -> NDArray[np.float16]:
        """Return one frame's encoding as float16 (width,)."""
        if not self.crossing:
            features: NDArray[np.float16] = encoding.features[0]
            return features
        assert encoding.crossing is not None
        row: NDArray[np.float16] = np.concatenate([encoding.features[0], encoding.crossing[0].reshape(-1)])
        return row

    def encoding(self, rows: NDArray[np.float16]) -> Encoding:
        """Return the encoding in rows, float16 (N, width)."""
        crossing = rows[:, self.features :].reshape(len(rows), *self.crossing) if self.crossing else None
        return Encoding(features=rows[:, : self.features], crossing=crossing)
