"""Exits behind layers that are not theirs: a growing head on features. Torch only, no I/O."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hierarchy.head import GrowingHead

# At the cut, or behind the whole backbone.
ExitAt = Literal["cut", "end"]

# Length of a frame's features. Directions tell classes apart, lengths tell light from dark. With unit length a head
# needs weights that large that weight decay would hold them back.
LENGTH = 20.0


def of_one_length(features: Tensor) -> Tensor:
    """Return features (N, F) as float32, each sample of LENGTH."""
    return F.normalize(features.float(), dim=1) * LENGTH


class FeatureExit(nn.Module):
    """A head that grows with the classes, on the features of a trunk that the backbone brought along.

    It sees the exact activations of the front, not what crosses: the trunk was trained on those.
    trunk: (N, *shape at the cut) -> (N, features).
    """

    def __init__(self, trunk: nn.Module, features: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = GrowingHead(features)

    def features(self, activations: Tensor) -> Tensor:
        """Return what the head takes, float32 (N, features), each sample of the same length."""
        return of_one_length(self.trunk(activations))

    def forward(self, activations: Tensor) -> Tensor:
        """Return logits (N, classes) for the exact activations at the cut, (N, C, ...)."""
        logits: Tensor = self.head(self.features(activations))
        return logits


class MapStatistics(nn.Module):
    """Each channel's mean and deviation over a map: (N, C, ...) -> (N, 2 C); what is no map passes as it is."""

    def forward(self, activations: Tensor) -> Tensor:
        if activations.ndim == 2:
            return activations
        flat = activations.float().flatten(2)
        return torch.cat([flat.mean(2), flat.std(2, correction=0)], dim=1)

    @staticmethod
    def count(shape: tuple[int, ...]) -> int:
        """Return how many there are for a sample of that shape."""
        return shape[0] * (1 if len(shape) == 1 else 2)
