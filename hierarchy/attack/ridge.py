"""Linear attackers: ridge regression from activations to pixels (Hoerl and Kennard, 1970). They take seconds.

One sees all of a sample at once. The other sees a place of the map and its neighbours, and paints what lies there, the
same way everywhere: it needs few pairs, and finds a channel that copies the frame among any number of others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hierarchy.attack.pairs import Pairs, Reconstructions, Scale, Values, as_map, as_shares, mean_picture

# With more values to a sample than this, the matrix of all pairs of samples is solved in place of that of all pairs of
# values. It costs the cube of either.
MOST_PRIMAL = 2048
# Samples that are learned from at most where that matrix is of samples: it has 67 MB then.
MOST_DUAL = 4096
# Places of maps that the local attacker learns from at most, and paints at once: many more than it has weights for each
# pixel, and a bound of its memory.
MOST_PLACES = 32_768
# Tried strengths, as shares of the values' mean square. Strong ones are for noise and few bits.
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
# One sample in so many is set apart to choose the strength by.
SET_APART = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Ridge:
    """Sees all of a sample at once. mean: the mean picture, (h, w, 3)."""

    scale: Scale
    mean: Reconstructions
    solution: _Solution

    def reconstruct(self, values: Values) -> Reconstructions:
        """Return pictures, float32 (N, h, w, 3), for activations float32 (N, C, ...)."""
        found = self.solution.applied(_rows(self.scale, values)).numpy()
        seen: Reconstructions = found.reshape(len(values), *self.mean.shape) + self.mean
        return np.clip(seen, 0, 1, out=seen)


@torch.inference_mode()
def fit_ridge(own: Pairs) -> Ridge:
    """Return the linear attacker that sees all of a sample, from pairs of its own: two at least."""
    scale, mean = Scale.of(own.values), mean_picture(own.pictures)
    if own.values[0].size > MOST_PRIMAL:
        own = own[:MOST_DUAL]
    pixels = torch.from_numpy((as_shares(own.pictures) - mean).reshape(len(own), -1))
    return Ridge(scale=scale, mean=mean, solution=_solve(_rows(scale, own.values), pixels))


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalRidge:
    """Sees a place of the map and its neighbours. block: pixels a side that lie under a place."""

    scale: Scale
    mean: Reconstructions
    block: int
    solution: _Solution

    @torch.inference_mode()
    def reconstruct(self, values: Values) -> Reconstructions:
        """Return pictures, float32 (N, h, w, 3), for activations float32 (N, C, ...)."""
        places = min(self.mean.shape[0] ** 2, math.prod(as_map(values[:1]).shape[2:]))
        at_once = max(1, MOST_PLACES // places)
        parts = [self._painted(values[start : start + at_once]) for start in range(0, len(values), at_once)]
        return np.concatenate(parts) if parts else np.zeros((0, *self.mean.shape), np.float32)

    def _painted(self, values: Values) -> Reconstructions:
        neighbours = _neighbours(self.scale, values, self.mean.shape[0])
        count, height, width, _ = neighbours.shape
        blocks = self.solution.applied(neighbours.flatten(0, 2)).reshape(count, height, width, -1)
        found = F.pixel_shuffle(blocks.permute(0, 3, 1, 2), self.block)
        if found.shape[2:] != self.mean.shape[:2]:
            found = F.interpolate(found, self.mean.shape[:2], mode="bilinear")
        seen: Reconstructions = found.permute(0, 2, 3, 1).contiguous().numpy() + self.mean
        return np.clip(seen, 0, 1, out=seen)


@torch.inference_mode()
def fit_local_ridge(own: Pairs) -> LocalRidge:
    """Return the linear attacker that sees a place and its neighbours, from pairs of its own: two at least."""
    scale, mean = Scale.of(own.values), mean_picture(own.pictures)
    height, width = _neighbours(scale, own.values[:1], mean.shape[0]).shape[1:3]
    block = max(1, math.ceil(mean.shape[0] / height))
    own = own[: max(2, MOST_PLACES // (height * width))]
    pixels = torch.from_numpy(as_shares(own.pictures) - mean).permute(0, 3, 1, 2)
    if pixels.shape[2:] != (height * block, width * block):
        pixels = F.interpolate(pixels, (height * block, width * block), mode="bilinear")
    blocks = F.pixel_unshuffle(pixels, block).permute(0, 2, 3, 1).flatten(0, 2)
    places = _neighbours(scale, own.values, mean.shape[0]).flatten(0, 2)
    return LocalRidge(scale=scale, mean=mean, block=block, solution=_solve(places, blocks))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Solution:
    """Of a ridge regression. samples: (M, D) that the weights (M, P) are of; None where these are (D, P)."""

    weights: Tensor
    samples: Tensor | None

    def applied(self, rows: Tensor) -> Tensor:
        """Return (N, P) for rows (N, D)."""
        return (rows if self.samples is None else rows @ self.samples.T) @ self.weights


def _solve(rows: Tensor, targets: Tensor) -> _Solution:
    """Return the regression of targets (N, P) on rows (N, D), as strong as serves samples best that are set apart."""
    is_dual = rows.shape[1] > min(MOST_PRIMAL, len(rows))  # the smaller matrix: the solution is the same
    if is_dual:
        rows, targets = rows[:MOST_DUAL], targets[:MOST_DUAL]
    rest = len(rows) - len(rows) // SET_APART
    strength = STRENGTHS[0]
    if rest < len(rows):
        known = _Regression.of(rows[:rest], targets[:rest], is_dual=is_dual)
        apart = {one: known.solved(one).applied(rows[rest:]) for one in STRENGTHS}
        strength = min(apart, key=lambda one: float((apart[one] - targets[rest:]).square().mean()))
    return _Regression.of(rows, targets, is_dual=is_dual).solved(strength)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Regression:
    """The normal equations. weight: of a strength of 1, which is that of as many samples as there are."""

    gram: Tensor
    right: Tensor
    samples: Tensor | None
    weight: float

    @staticmethod
    def of(rows: Tensor, targets: Tensor, *, is_dual: bool) -> _Regression:
        if is_dual:
            return _Regression(gram=rows @ rows.T, right=targets, samples=rows, weight=float(len(rows)))
        return _Regression(gram=rows.T @ rows, right=rows.T @ targets, samples=None, weight=float(len(rows)))

    def solved(self, strength: float) -> _Solution:
        ridged = self.gram + strength * self.weight * torch.eye(len(self.gram))
        return _Solution(weights=torch.cholesky_solve(self.right, torch.linalg.cholesky(ridged)), samples=self.samples)


def _rows(scale: Scale, values: Values) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(scale.applied(values).reshape(len(values), -1)))


def _neighbours(scale: Scale, values: Values, most_places: int) -> Tensor:
    """Return (N, h, w, D): each place with the eight around it, as far as MOST_PRIMAL numbers hold them; a 1 at last.

    A map with more places a side than most_places is averaged down to that.
    """
    maps = torch.from_numpy(as_map(scale.applied(values)))
    if max(maps.shape[2:]) > most_places:
        maps = F.adaptive_avg_pool2d(maps, most_places)
    count, channels, height, width = maps.shape
    window = 3 if 9 * channels < MOST_PRIMAL else 1
    found = F.unfold(maps, window, padding=window // 2).reshape(count, -1, height, width)
    return torch.cat([found, torch.ones(count, 1, height, width)], dim=1).permute(0, 2, 3, 1)


def linear_attackers(own: Pairs) -> dict[str, Ridge | LocalRidge]:
    """Return both linear attackers by what they are called; the local one where there is more than one place."""
    found: dict[str, Ridge | LocalRidge] = {"linear": fit_ridge(own)}
    if max(as_map(own.values[:1]).shape[2:]) > 1:
        found["linear, local"] = fit_local_ridge(own)
    return found
