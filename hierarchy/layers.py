"""The layers around a cut, for any number of spatial dimensions: bottleneck, its inverse, and the early exit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from broker.errors import CrossingError
from hierarchy.backbone import SMALL_IMAGE, Weights
from hierarchy.head import GrowingHead

# Channels inside an early exit: wide enough for a hundred classes, small beside the edge segment.
EXIT_CHANNELS = 128

# By the number of dimensions behind (samples, channels): none after pooling, one for tokens, two for images. Without
# any, a 1x1 convolution is a linear layer.
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# Of a sample that is a map: channels, rows, columns.
MAP_DIMENSIONS = 3
# Layers without parameters that bring neighbours of a map together.
WINDOWS = (nn.AvgPool2d, nn.MaxPool2d)


def crossing_shape(shape: tuple[int, ...], channels: int, pool: int) -> tuple[int, ...]:
    """Return how a sample (C, ...) crosses. channels: 0 for all. pool: places a side that a map has at most, 0 for all.

    Raises CrossingError where there is no map to pool.
    """
    return (channels or shape[0], *_places(shape, pool))


def pool_of(crossing: tuple[int, ...]) -> int:
    """Return a ``pool`` with which a sample crosses in that shape, whatever it was before: 0 where it is no square."""
    square = len(crossing) == MAP_DIMENSIONS and crossing[1] == crossing[2]
    return crossing[1] if square else 0


def pool_between(shape: tuple[int, ...], crossing: tuple[int, ...]) -> int:
    """Return the ``pool`` with which a sample (C, ...) crosses in another shape; 0 where its map stays as large."""
    return pool_of(crossing) if crossing[1:] != shape[1:] else 0


def bottleneck(shape: tuple[int, ...], channels: int, pool: int = 0, axes: Tensor | None = None) -> nn.Module:
    """Return what makes a sample smaller before it crosses: fewer places, fewer channels, or both.

    Places are averages of the map. Channels are made by a 1x1 convolution, normalised so that every quantization level
    is used.

    shape: one sample (C, ...). channels, pool: as in `crossing_shape`. axes: (C, channels), what the channels begin as,
    not normalised. Raises CrossingError where they fit no such sample.
    """
    layers: list[nn.Module] = []
    if _places(shape, pool) != shape[1:]:
        layers.append(nn.AdaptiveAvgPool2d(pool))
    if channels:
        _check_no_wider(shape, channels)
        spatial = len(shape) - 1
        convolution = _convolution(shape[0], channels, spatial, kernel=1)
        layers.append(Channels(convolution, NORMS[spatial](channels), begin=None if axes is None else axes.T))
    return _one_after_another(layers)


def expansion(
    shape: tuple[int, ...], channels: int, pool: int = 0, rest: nn.Module | None = None, axes: Tensor | None = None
) -> nn.Module:
    """Return what brings a sample back to a shape (C, ...) behind the `bottleneck`, for the rest of the backbone.

    A rest that looks at each place by itself gets the few places that crossed: it takes less time, and is as good.
    Others get a map of the old size, interpolated. axes: (C, channels), as the bottleneck's. A pretrained rest wants
    negative values, too: with axes nothing rectifies them. Raises CrossingError where that is no bottleneck.
    """
    layers: list[nn.Module] = []
    if channels:
        _check_no_wider(shape, channels)
        spatial = len(shape) - 1
        convolution = _convolution(channels, shape[0], spatial, kernel=1)
        layers.append(Channels(convolution, NORMS[spatial](shape[0]), nn.ReLU(inplace=True), begin=axes))
    if _places(shape, pool) != shape[1:] and (rest is None or not _is_by_place(rest)):
        layers.append(nn.Upsample(shape[1:], mode="bilinear"))
    return _one_after_another(layers)


def pretrained_axes(
    rest: nn.Module, shape: tuple[int, ...], channels: int, *, image_size: int, weights: Weights
) -> Tensor | None:
    """Return what a pretrained network's bottleneck begins as: (C, channels), at right angles; None for other networks.

    They are the directions in which the rest sees most of a sample (C, ...). Both ends find the same ones in the same
    weights: the right singular vectors of the first matrix behind the cut, the largest number of each positive.
    Networks for small images learn their bottleneck as networks from scratch do.
    """
    if weights == "none" or not channels or image_size <= SMALL_IMAGE:
        return None
    behind = (one for one in rest.parameters() if one.ndim > 1 and one.shape[1] == shape[0])
    matrix = next(behind, torch.eye(shape[0])).detach().double().movedim(1, -1).reshape(-1, shape[0])
    axes = torch.linalg.eigh(matrix.T @ matrix).eigenvectors.flip(1)[:, :channels]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    found: Tensor = (axes * largest.sign()).float()
    return found


class Channels(nn.Sequential):
    """A 1x1 convolution to other channels, and what follows it in a network from scratch.

    What follows is left out where the convolution begins as a matrix (channels out, channels in), and where it is given
    the weights of one that did.
    """

    def __init__(self, convolution: nn.Module, *following: nn.Module, begin: Tensor | None) -> None:
        super().__init__(convolution, *(following if begin is None else ()))
        if begin is not None:
            with torch.no_grad():
                weight = convolution.get_parameter("weight")
                weight.copy_(begin.reshape(weight.shape))

    @property
    def axes(self) -> Tensor | None:
        """What a `bottleneck` began as, (C, channels); None where it is normalised, and so learns."""
        weight = self[0].get_parameter("weight")
        return weight.detach().flatten(1).T if len(self) == 1 else None

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *others: Any) -> None:
        if f"{prefix}0.weight" in state and f"{prefix}1.weight" not in state:
            del self[1:]
        super()._load_from_state_dict(state, prefix, *others)


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

    def features(self, activations: Tensor) -> Tensor:
        """Return what the head takes, (N, EXIT_CHANNELS), for activations (N, C, ...)."""
        mixed: Tensor = self.mix(activations)
        return mixed.flatten(2).mean(2) if mixed.ndim > 2 else mixed

    def forward(self, activations: Tensor) -> Tensor:
        """Return logits (N, classes) for activations (N, C, ...)."""
        logits: Tensor = self.head(self.features(activations))
        return logits


def _places(shape: tuple[int, ...], pool: int) -> tuple[int, ...]:
    """Return what a sample (C, ...) has behind its channels once it is pooled."""
    if pool and len(shape) != MAP_DIMENSIONS:
        raise CrossingError(f"pool {pool}: what crosses at this cut is {shape}, no map; use 0")
    return (pool, pool) if 0 < pool < max(shape[1:], default=0) else shape[1:]


def _one_after_another(layers: list[nn.Module]) -> nn.Module:
    return nn.Sequential(*layers) if len(layers) > 1 else next(iter(layers), nn.Identity())


def _is_by_place(rest: nn.Module) -> bool:
    """Whether nothing but an average over a whole map brings its places together."""
    return all(_is_pointwise(one) for one in rest.modules() if isinstance(one, WINDOWS) or _has_parameters(one))


def _is_pointwise(layer: nn.Module) -> bool:
    by_place = isinstance(layer, nn.modules.batchnorm._NormBase)
    return by_place or (isinstance(layer, nn.Conv2d) and set(layer.kernel_size) == {1})


def _has_parameters(layer: nn.Module) -> bool:
    return any(True for _ in layer.parameters(recurse=False))


def _check_no_wider(shape: tuple[int, ...], channels: int) -> None:
    if not 0 < channels <= shape[0]:
        raise CrossingError(
            f"a bottleneck of {channels} channels: the cut has {shape[0]}; use 1 to {shape[0]}, or 0 for none"
        )


def _convolution(channels_in: int, channels_out: int, spatial: int, kernel: int) -> nn.Module:
    """Return a convolution that keeps the spatial size, without bias: a normalisation follows."""
    if spatial == 0:
        return nn.Linear(channels_in, channels_out, bias=False)
    return CONVOLUTIONS[spatial - 1](channels_in, channels_out, kernel, padding=kernel // 2, bias=False)
