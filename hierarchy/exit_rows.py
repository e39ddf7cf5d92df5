"""An exit's rows as they are sent and read on another robot: half precision, read only. Torch only, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from broker.errors import MalformedMessage
from broker.wire.bounds import PIECE_BYTES
from broker.wire.messages import ExitPiece
from hierarchy.exits import MapStatistics, of_one_length
from hierarchy.head import GrowingHead

# On the wire: IEEE 754 binary16, little-endian.
HALF = np.dtype("<f2")


@dataclass(frozen=True, kw_only=True, eq=False)
class ExitRows:
    """A head that learns no more; threads may share it. weight: float32 (C, F), bias: (C,), by classes in that order.

    They are what half precision holds.
    """

    classes: tuple[str, ...]
    weight: Tensor
    bias: Tensor

    @torch.inference_mode()
    def logits(self, features: NDArray[np.float16]) -> NDArray[np.float32]:
        """Return logits (N, C) for features (N, F) of one length. On the cores that PyTorch has."""
        found: NDArray[np.float32] = F.linear(torch.from_numpy(features).float(), self.weight, self.bias).numpy()
        return found

    def named(self, features: NDArray[np.float16]) -> list[str]:
        """Return the most probable class for each of the features (N, F)."""
        return [self.classes[place] for place in self.logits(features).argmax(1)]

    def of(self, classes: Sequence[str]) -> ExitRows:
        """Return the rows of some of the classes, in that order."""
        places = [self.classes.index(name) for name in classes]
        return ExitRows(classes=tuple(classes), weight=self.weight[places], bias=self.bias[places])


def rows_of(head: GrowingHead) -> ExitRows:
    """Return a copy of a head's rows as they will be sent. Raises ValueError where half precision does not hold them.

    So what is measured of them is measured of what others get.
    """
    count = len(head.classes)
    weight, bias = (one.detach()[:count].cpu().half() for one in (head.weight, head.bias))
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise ValueError("a weight of the exit is not finite in half precision")
    return ExitRows(classes=head.classes, weight=weight.float(), bias=bias.float())


def pack_rows(rows: ExitRows) -> bytes:
    """Return the bytes of rows: all weights, one row behind the other, then all biases."""
    return b"".join(one.numpy().astype(HALF).tobytes() for one in (rows.weight, rows.bias))


def unpack_rows(data: bytes, *, classes: Sequence[str], features: int) -> ExitRows:
    """Return the rows of those classes in these bytes.

    Raises MalformedMessage for another number of bytes, and for numbers that are not finite.
    """
    count = len(classes)
    if len(data) != HALF.itemsize * count * (features + 1):
        raise MalformedMessage(f"{len(data):,} bytes are not {count} rows of {features:,} features")
    values = torch.from_numpy(np.frombuffer(data, HALF).astype(np.float32))
    if not values.isfinite().all():
        raise MalformedMessage("an exit has numbers that are not finite")
    weight, bias = values[: count * features].reshape(count, features), values[count * features :]
    return ExitRows(classes=tuple(classes), weight=weight, bias=bias)


def in_pieces(data: bytes) -> list[ExitPiece]:
    """Return packed rows as the pieces that they are published in."""
    return [ExitPiece(data=data[start : start + PIECE_BYTES]) for start in range(0, len(data), PIECE_BYTES)]


def crossing_features(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return what an exit on what crosses takes of the values (N, C, ...) that codes stand for.

    float16 (N, F), each sample of one length. Both ends compute it of the same codes, so it is the same at both.
    """
    statistics = MapStatistics()(torch.from_numpy(values))
    found: NDArray[np.float16] = of_one_length(statistics).numpy().astype(np.float16)
    return found


def crossing_width(shape: tuple[int, ...]) -> int:
    """Return how many numbers `crossing_features` returns for a sample that crosses in that shape."""
    return MapStatistics.count(shape)
