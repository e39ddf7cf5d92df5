"""The layers around a cut, for any number of spatial dimensions: bottleneck, its inverse, and the early exit."""

from __future__ import annotations

from torch import Tensor, nn

from broker.errors import CutError
from hierarchy.head import GrowingHead

# Channels inside an early exit: wide enough for a hundred classes, small beside the edge segment.
EXIT_CHANNELS = 128

# By the number of dimensions behind (samples, channels): none after pooling, one for tokens, two for images. Without
# any, a 1x1 convolution is a linear layer.
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def bottleneck(shape: tuple[int, ...], channels: int) -> nn.Module:
    """Return a 1x1 convolution from shape[0] to fewer channels, normalised so that every quantization level is used.

    shape: one sample (C, ...). channels: 0 for none. Raises CutError where it would not be fewer.
    """
    if channels == 0:
        return nn.Identity()
    _check_narrower(shape, channels)
    spatial = len(shape) - 1
    return nn.Sequential(_convolution(shape[0], channels, spatial, kernel=1), NORMS[spatial](channels))


def expansion(shape: tuple[int, ...], channels: int) -> nn.Module:
    """Return the 1x1 convolution that takes a bottleneck's output back to shape[0] channels.

    Raises CutError where that is no bottleneck.
    """
    if channels == 0:
        return nn.Identity()
    _check_narrower(shape, channels)
    spatial = len(shape) - 1
    return nn.Sequential(
        _convolution(channels, shape[0], spatial, kernel=1), NORMS[spatial](shape[0]), nn.ReLU(inplace=True)
    )


class EarlyExit(nn.Module):
    """A small convolution, average pooling and a head that grows with the classes."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        spatial = len(shape) - 1
        self.mix = nn.Sequential(
            _convolution(shape[0], EXIT_CHANNELS, spatial, kernel=3),
            NORMS[spatial](EXIT_CHANNELS),
            nn.ReLU(inplace=True),
        )
        self.head = GrowingHead(EXIT_CHANNELS)

    def forward(self, activations: Tensor) -> Tensor:
        """Return logits (N, classes) for activations (N, C, ...)."""
        mixed: Tensor = self.mix(activations)
        pooled = mixed.flatten(2).mean(2) if mixed.ndim > 2 else mixed
        logits: Tensor = self.head(pooled)
        return logits


def _check_narrower(shape: tuple[int, ...], channels: int) -> None:
    if not 0 < channels < shape[0]:
        raise CutError(
            f"a bottleneck of {channels} channels: the cut has {shape[0]}; use 1 to {shape[0] - 1}, or 0 for none"
        )


def _convolution(channels_in: int, channels_out: int, spatial: int, kernel: int) -> nn.Module:
    """Return a convolution that keeps the spatial size, without bias: a normalisation follows."""
    if spatial == 0:
        return nn.Linear(channels_in, channels_out, bias=False)
    return CONVOLUTIONS[spatial - 1](channels_in, channels_out, kernel, padding=kernel // 2, bias=False)
