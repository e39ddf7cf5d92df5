"""The convolutional attacker: a small network that learns to paint the picture from activations.

It is what an honest but curious operator of the cloud would train: a quarter of a million parameters for pictures of
32 pixels, minutes of one core. Dosovitskiy and Brox, "Inverting visual representations with convolutional networks",
2016, is the first of its kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hierarchy.attack.pairs import (
    Pairs,
    Reconstructions,
    Scale,
    Values,
    as_map,
    as_shares,
    mean_picture,
)
from hierarchy.attack.similarity import ssim_of

# Channels of all layers, and places a side at which the first ones work at least.
WIDTH, LEAST_PLACES = 64, 8
# With so many places a side half of the channels do, in a quarter of the time.
NARROW_FROM = 32
# Pairs in a step, and the highest learning rate of its one cycle (Adam).
BATCH, PEAK_RATE = 64, 4e-3
# The share of the structural similarity in what is minimised beside the squared error: a picture that a person knows is
# worth more to an attacker than one that has the right mean.
SIMILARITY_SHARE = 0.1
AT_ONCE = 256

# Is told how many steps were taken; true ends the training there.
OnStep = Callable[[int], bool]


@dataclass(frozen=True, eq=False)
class Decoder:
    """A trained decoder."""

    scale: Scale
    network: nn.Module

    @torch.inference_mode()
    def reconstruct(self, values: Values) -> Reconstructions:
        """Return pictures, float32 (N, h, w, 3), for activations float32 (N, C, ...)."""
        self.network.eval()
        parts = []
        for start in range(0, len(values), AT_ONCE):
            inputs = _inputs(self.scale, values[start : start + AT_ONCE])
            parts.append(self.network(inputs).clamp_(0, 1).permute(0, 2, 3, 1).numpy())
        return np.concatenate(parts)

    @property
    def parameters(self) -> int:
        """How many numbers it learned."""
        return sum(one.numel() for one in self.network.parameters())


def train_decoder(own: Pairs, *, steps: int, seed: int = 0, on_step: OnStep = lambda _: False) -> Decoder:
    """Return a decoder that learned from pairs in so many steps; the same one for the same seed and threads.

    PyTorch's own random state stays as it was.
    """
    rng = np.random.default_rng(seed)
    scale = Scale.of(own.values)
    maps = as_map(own.values[:1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_decoder(maps.shape[1:], mean_picture(own.pictures))
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE, weight_decay=1e-2)
    order: list[NDArray[np.int64]] = []
    network.train()
    for step in range(steps):
        if not order:
            mixed = rng.permutation(len(own))
            order = [mixed[start : start + BATCH] for start in range(0, max(1, len(own) - BATCH + 1), BATCH)]
        chosen = np.sort(order.pop())
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * _one_cycle((step + 0.5) / steps)
        seen = network(_inputs(scale, own.values[chosen]))
        truth = torch.from_numpy(as_shares(own.pictures[chosen])).permute(0, 3, 1, 2)
        loss = (seen - truth).square().mean() + SIMILARITY_SHARE * (1 - ssim_of(seen, truth).mean())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if on_step(step + 1):
            break
    return Decoder(scale, network)


def build_decoder(shape: tuple[int, ...], mean: Reconstructions) -> nn.Sequential:
    """Return a new decoder from a map (C, h, w) to pictures (3, *mean's sides); it begins near the mean picture.

    A map of few places is spread to LEAST_PLACES a side. Each stage doubles the sides, the last one without work at
    full size: half of the time would go there.
    """
    channels, *sides = shape
    half = mean.shape[0] // 2, mean.shape[1] // 2
    spread = max(1, math.ceil(LEAST_PLACES / max(sides)))
    layers: list[nn.Module] = [
        nn.Conv2d(channels, WIDTH * spread**2, 1 if spread > 1 else 3, padding=0 if spread > 1 else 1),
        nn.PixelShuffle(spread) if spread > 1 else nn.Identity(),
    ]
    side, width = max(sides) * spread, WIDTH
    if side > half[0] or sides[0] != sides[1]:
        layers.append(nn.AdaptiveAvgPool2d(half))
        side = half[0]
    layers += [_Residual(width), _Residual(width)]
    while side < half[0]:
        side = min(2 * side, half[0])
        if side >= NARROW_FROM and width == WIDTH:
            width = WIDTH // 2
            layers.append(nn.Conv2d(WIDTH, width, 1))
        size = half if side == half[0] else None
        layers += [nn.Upsample(size) if size else nn.Upsample(scale_factor=2), _Residual(width)]
    layers += [_Residual(width), nn.ReLU(), nn.Conv2d(width, 12, 3, padding=1), nn.PixelShuffle(2), _Around(mean)]
    return nn.Sequential(*layers)


class _Residual(nn.Module):
    """Normalise, rectify, convolve, added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Conv2d(width, width, 3, padding=1, bias=False)
        )

    def forward(self, values: Tensor) -> Tensor:
        changed: Tensor = values + self.layers(values)
        return changed


class _Around(nn.Module):
    """Adds the mean picture; brings what has an odd side to its size."""

    def __init__(self, mean: Reconstructions) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean).permute(2, 0, 1)[None].contiguous())

    def forward(self, values: Tensor) -> Tensor:
        mean = self.get_buffer("mean")
        if values.shape[2:] != mean.shape[2:]:
            values = nn.functional.interpolate(values, mean.shape[2:], mode="bilinear")
        return values + mean


def _one_cycle(progress: float) -> float:
    """Return the share of the peak rate: up to 1 within a fifth of the training, then along a cosine to 0."""
    return progress / 0.2 if progress < 0.2 else 0.5 + 0.5 * math.cos(math.pi * (progress - 0.2) / 0.8)


def _inputs(scale: Scale, values: Values) -> Tensor:
    return torch.from_numpy(as_map(scale.applied(values))).contiguous(memory_format=torch.channels_last)
