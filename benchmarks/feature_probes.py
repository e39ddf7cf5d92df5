"""What features of photos are worth: nearest class means, and a linear probe. Features are unit vectors (N, F)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

Features = NDArray[np.float32]
# Steps of L-BFGS, and weight decay, of a probe on unit vectors of this length.
PROBE_STEPS, DECAY, LENGTH = 200, 1e-3, 20.0


def fitted(taught: Features, labels: NDArray[np.integer[Any]]) -> nn.Linear:
    """Return a layer on features of LENGTH that tells labels (N,), counted from 0, apart."""
    inputs, targets = LENGTH * torch.from_numpy(taught), torch.from_numpy(labels)
    layer = nn.Linear(inputs.shape[1], int(labels.max()) + 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=PROBE_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(layer(inputs), targets) + DECAY * layer.weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return layer


def probe(taught: Features, labels: NDArray[np.int64], tested: Features) -> NDArray[np.int64]:
    """Return the labels that a linear probe gives."""
    layer = fitted(taught, labels)
    with torch.inference_mode():
        return np.asarray(layer(LENGTH * torch.from_numpy(tested)).argmax(1))


def nearest_mean(taught: Features, labels: NDArray[np.int64], tested: Features) -> NDArray[np.int64]:
    """Return the labels of the nearest class means."""
    means = np.stack([taught[labels == one].mean(0) for one in np.unique(labels)])
    return np.asarray((tested @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T).argmax(1))
