"""The part of a segment that stands still: what it makes of a frame never changes. Torch only, no I/O."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from broker.errors import Diverged
from hierarchy.device import Compute
from hierarchy.encoding import Encoding, half, joined
from hierarchy.exits import FeatureExit

# Frames in one forward pass. More take no less time each, and at 224 pixels 20 MB each.
ENCODED_AT_ONCE = 16


class StillEncoder:
    """Encodes frames with front, bottleneck and trunk; any thread may call it."""

    def __init__(self, front: nn.Module, bottleneck: nn.Module, exit_: FeatureExit, compute: Compute) -> None:
        self._compute = compute
        self._network = _Encoder(front, bottleneck, exit_).eval()

    @torch.inference_mode()
    def encode(self, inputs: NDArray[np.float32]) -> Encoding:
        """Return the encoding of normalised images, float32 (N, 3, H, W), N > 0.

        Raises Diverged where the network makes infinities of them.
        """
        parts = [inputs[start : start + ENCODED_AT_ONCE] for start in range(0, len(inputs), ENCODED_AT_ONCE)]
        return joined([self._encode(part) for part in parts])

    def _encode(self, inputs: NDArray[np.float32]) -> Encoding:
        with self._compute.autocast():
            features, crossing = self._network(self._compute.tensor(inputs))
        values = features.float().cpu().numpy(), crossing.float().cpu().contiguous().numpy()
        if not all(np.isfinite(one).all() for one in values):
            raise Diverged("the network makes infinities of a frame: begin with other --weights")
        return Encoding(features=half(values[0]), crossing=half(values[1]))


class _Encoder(nn.Module):
    """(N, 3, H, W) -> features (N, F) of the exit, and what crosses the cut (N, C, ...)."""

    def __init__(self, front: nn.Module, bottleneck: nn.Module, exit_: FeatureExit) -> None:
        super().__init__()
        self.front, self.bottleneck, self.exit = front, bottleneck, exit_

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        at_cut = self.front(images)
        return self.exit.features(at_cut), self.bottleneck(at_cut)
