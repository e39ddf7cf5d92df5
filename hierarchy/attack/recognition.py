"""Whether a frame is recognised: the one among many that a reconstruction is nearest to is the right one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hierarchy.attack.pairs import Pictures, Reconstructions, as_shares

# Frames that the right one is looked for among.
GALLERY = 1000


def found(seen: Reconstructions, frames: Pictures, others: Pictures) -> float:
    """Return the share of reconstructions (N, h, w, 3) whose own frame is nearest of the frames and the others.

    Nearest by squared error, or by correlation, which does not mind how faint a reconstruction is: the better of both.
    frames: uint8 (N, h, w, 3). others: uint8 (M, h, w, 3), only to be mistaken for them. Chance: 1 / (N + M).
    """
    gallery = _flat(as_shares(np.concatenate([frames, others])))
    painted = _flat(seen)
    # The mean of all tells nothing about one, and would count in every correlation.
    middle = gallery.mean(0)
    gallery, painted = gallery - middle, painted - middle
    lengths = gallery.square().sum(1)
    products = painted @ gallery.T
    by_distance = lengths[None] - 2 * products
    by_angle = -products / lengths.sqrt().clamp_min(1e-12)[None]
    return max(_right(one) for one in (by_distance, by_angle))


def matched(crossed: Tensor, encoded: Tensor) -> float:
    """Return the share of activations (N, D) whose own frame, encoded by the attacker, is nearest of all (N + M, D).

    For whoever has the front, and frames of which one may be the robot's: no picture has to be painted.
    """
    distances = encoded.square().sum(1)[None] - 2 * crossed @ encoded.T
    return _right(distances)


def _right(distances: Tensor) -> float:
    """Return how often a row's number is that of its least distance; of several alike, as often as a guess is right."""
    if not len(distances):
        return 0.0
    own = distances.diagonal()
    # As near as the frame itself, but for rounding.
    as_near = (distances <= own[:, None] + 1e-6 * distances.abs().mean(1, keepdim=True)).sum(1)
    is_nearest = distances.min(1).values >= own - 1e-6 * distances.abs().mean(1)
    return float((is_nearest / as_near).double().mean())


def _flat(pictures: Reconstructions) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures.reshape(len(pictures), -1)))
