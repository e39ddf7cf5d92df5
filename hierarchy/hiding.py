"""An attribute that the cloud must not learn: frames of which its value is known, and what the front has to lose.

Torch only, no I/O. Neither the frames nor their values leave the robot.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Frames in a step: they are encoded beside the others, and take a quarter more of its time where 64 are learned from
# (0.31 s in place of 0.25: ResNet-18 up to layer2 at 32 pixels).
IN_STEP = 16


class Hiding:
    """Frames of which an attribute is known, uint8 (N, H, W, 3), and its value of each, int64 (N,).

    strength: of what the front has to lose beside the exit's loss.
    """

    def __init__(self, images: NDArray[np.uint8], values: NDArray[np.int64], strength: float) -> None:
        self._images, self._values = images, values
        self._by_value = [np.flatnonzero(values == one) for one in np.unique(values)]
        self._strength = strength

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return IN_STEP frames and their values, each value as often, whatever frames there are of it."""
        chosen = rng.permutation(np.resize(rng.permutation(len(self._by_value)), IN_STEP))
        rows = np.array([rng.choice(self._by_value[one]) for one in chosen])
        return self._images[rows], self._values[rows]

    def loss(self, crossing: Tensor, values: NDArray[np.int64]) -> Tensor:
        """Return how much activations (N, C, ...) depend on the values of their frames, times the strength."""
        return self._strength * dependence(crossing.flatten(1).float(), torch.from_numpy(values))


def dependence(samples: Tensor, values: Tensor) -> Tensor:
    """Return how much samples (N, D) depend on values (N,): 0 for not at all, 1 at most. It has a gradient.

    The Hilbert-Schmidt independence criterion, normalised: Gretton et al., "Measuring statistical dependence with
    Hilbert-Schmidt norms", 2005; Kornblith et al., "Similarity of neural network representations revisited", 2019. It
    sees whatever a kernel sees, so there is no network that the front could learn to fool.
    """
    distances = torch.cdist(samples, samples).square()
    near = torch.exp(-distances / distances.detach().mean().clamp_min(1e-12))
    alike = (values[:, None] == values[None]).to(near)
    one, other = _centred(near), _centred(alike)
    found: Tensor = (one * other).sum() / (one.norm() * other.norm()).clamp_min(1e-12)
    return found


def _centred(kernel: Tensor) -> Tensor:
    return kernel - kernel.mean(0, keepdim=True) - kernel.mean(1, keepdim=True) + kernel.mean()
