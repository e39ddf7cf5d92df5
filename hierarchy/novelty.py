"""How new a frame is beside all that was taught, from features of a network that stands still. Pure.

Two things tell: no class claims the frame, and no remembered frame is like it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Singles = NDArray[np.float32]

# Share of the identity in the covariance within classes, for there are fewer frames than features.
SHRINKAGE = 0.7
# A covariance of frames that are all the same.
LEAST_VARIANCE = 1e-6
# Parts of each class, each left out in turn. A part lies together in time, and holds whole views: a lesson shows most
# looks of a thing several times, and a frame beside its twin says nothing about new ones.
FOLDS = 5
# Frames of a class are one view up to this share of the usual distance between its frames.
VIEW = 0.3
# Of so many of a class the usual distance is measured.
MEASURED = 200
# A class of more views has hardly any twins: time parts it as well, and each view is compared with all frames.
MOST_VIEWS = 400
# Remembered frames that one frame is compared with: 2,000 of 1,280 features take half a millisecond.
MAX_REFERENCES = 2000
# So many of the frames left out are like another one.
ALIKE = 0.95
# A frame is new so many deviations beyond the mean score of those left out. Another day, room or camera makes frames
# of a taught class stranger than those left out (docs/results/unknown.md).
DEVIATIONS = 2.5
# Frames of a lesson that hardly move have next to no deviation. These are the least: a share of the mean claim, a
# cosine distance, a score.
LEAST_CLAIM, LEAST_DISTANCE, LEAST_SCORE = 0.05, 0.02, 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Novelty:
    """Scores frames. It never changes, so threads may share it.

    classes: that it was fitted to. limit: a frame with a higher score shows none of them. deviation: of scores.
    measures, scale: what a score is made of.
    """

    classes: tuple[str, ...]
    limit: float
    deviation: float
    measures: Measures
    scale: Scale

    def score(self, features: Floats) -> NDArray[np.float64]:
        """Return float64 (M,), higher for what is less like all that was taught, for features (M, F)."""
        return self.scale.scores(*self.measures.of(_units(features)))

    def familiarity(self, score: float) -> float:
        """Return 0 to 1, a half at the limit: how sure a robot that knows one class may be of it."""
        return float(1 / (1 + np.exp(min((score - self.limit) / self.deviation, 500.0))))


def fit_novelty(features: Floats, names: Sequence[str]) -> Novelty | None:
    """Return what tells the unknown from features (N, F) of remembered frames and their classes, in order of time.

    A fifth of each class is left out in turn, which says how strange a new frame of a taught class is. None where no
    class has two frames.
    """
    classes = tuple(dict.fromkeys(names))
    labels = np.array([classes.index(name) for name in names], np.int64)
    units = _units(features)
    folds = _folds(units, labels)
    left_out = np.bincount(labels, minlength=len(classes))[labels] > 1
    if not left_out.any():
        return None
    sums = [_Sums.of(units[folds == fold], labels[folds == fold], len(classes)) for fold in range(FOLDS)]
    claims, distances = np.zeros(len(units), np.float32), np.zeros(len(units), np.float32)
    for fold in np.unique(folds[left_out]).tolist():
        rows = left_out & (folds == fold)
        without = Measures.fitted([one for part, one in enumerate(sums) if part != fold], units[folds != fold])
        claims[rows], distances[rows] = without.of(units[rows])
    claims, distances = claims[left_out], distances[left_out]
    scale = Scale.of(claims, distances, several=len(classes) > 1)
    scores = scale.scores(claims, distances)
    deviation = max(float(scores.std()), LEAST_SCORE)
    return Novelty(
        classes=classes,
        limit=float(scores.mean()) + DEVIATIONS * deviation,
        deviation=deviation,
        measures=Measures.fitted(sums, units),
        scale=scale,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sums:
    """Over unit vectors: counts (C,) and sums (C, F) of each class, and the sum of all outer products (F, F)."""

    counts: Singles
    sums: Singles
    products: Singles

    @staticmethod
    def of(units: Singles, labels: NDArray[np.int64], classes: int) -> _Sums:
        belongs = np.eye(classes, dtype=np.float32)[labels]
        return _Sums(counts=belongs.sum(0), sums=belongs.T @ units, products=_product(units))


@dataclass(frozen=True, kw_only=True, eq=False)
class Measures:
    """A linear discriminant of the classes, weight float32 (C, F) and bias (C,), and references: float32 (N, F)."""

    weight: Singles
    bias: Singles
    references: Singles

    @staticmethod
    def fitted(parts: Sequence[_Sums], references: Singles) -> Measures:
        """Return the measures of the frames in these parts. references: the same frames, unit vectors."""
        counts: Singles = np.sum([part.counts for part in parts], axis=0)
        present = counts > 0
        counts = counts[present]
        means = np.sum([part.sums for part in parts], axis=0)[present] / counts[:, None]
        within = np.sum([part.products for part in parts], axis=0) - (means * counts[:, None]).T @ means
        within /= max(1.0, float(counts.sum()) - len(counts))
        variance = max(float(np.trace(within)) / len(within), LEAST_VARIANCE)
        within *= 1 - SHRINKAGE
        within[np.diag_indices_from(within)] += SHRINKAGE * variance
        centre = counts @ means / counts.sum()
        weight = torch.linalg.solve(torch.from_numpy(within), torch.from_numpy((means - centre).T)).T.numpy()
        bias = -((means + centre) * weight).sum(1) / 2
        step = -(-len(references) // MAX_REFERENCES)
        return Measures(weight=weight, bias=bias, references=references[::step])

    def of(self, units: Singles) -> tuple[Singles, Singles]:
        """Return, for unit vectors (M, F), the highest claim of a class (M,), and the nearest cosine distance (M,)."""
        return (units @ self.weight.T + self.bias).max(1), 1 - (units @ self.references.T).max(1)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What is usual. several: whether there is more than one class; one alone claims every frame alike.

    claim: the mean, and alike: the distance that most stay below; each with its deviation.
    """

    several: bool
    claim: float
    claim_deviation: float
    alike: float
    distance_deviation: float

    @staticmethod
    def of(claims: Singles, distances: Singles, *, several: bool) -> Scale:
        claim = float(claims.mean())
        return Scale(
            several=several,
            claim=claim,
            claim_deviation=max(float(claims.std()), LEAST_CLAIM * abs(claim), 1e-9),
            alike=float(np.quantile(distances, ALIKE)),
            distance_deviation=max(float(distances.std()), LEAST_DISTANCE),
        )

    def scores(self, claims: Singles, distances: Singles) -> NDArray[np.float64]:
        """Return (M,): how much less than usual is claimed, and how much further than usual all frames are."""
        unlike: NDArray[np.float64] = (distances.astype(np.float64) - self.alike) / self.distance_deviation
        if not self.several:
            return unlike
        unclaimed: NDArray[np.float64] = (self.claim - claims.astype(np.float64)) / self.claim_deviation
        return unclaimed + np.maximum(0, unlike)


def _product(units: Singles) -> Singles:
    """Return the sum of outer products (F, F). PyTorch takes no more cores than the robot was given; numpy does."""
    rows = torch.from_numpy(units)
    product: Singles = (rows.T @ rows).numpy()
    return product


def _units(features: Floats) -> Singles:
    """Return unit vectors."""
    singles = np.asarray(features, np.float32)
    units: Singles = singles / np.maximum(np.linalg.norm(singles, axis=1, keepdims=True), np.float32(1e-12))
    return units


def _folds(units: Singles, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (N,): which fifth of its class each frame is in."""
    folds = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        views = _views(units[rows])
        if views.max() + 1 < FOLDS:  # without one of so few, nothing tells what is usual; so frames are parted by time
            views = np.arange(len(rows))
        folds[rows] = views * FOLDS // (views.max() + 1)
    return folds


def _views(units: Singles) -> NDArray[np.int64]:
    """Return (N,): which view of a thing each frame shows, numbered in order of time."""
    rows, views = torch.from_numpy(units), np.full(len(units), -1, np.int64)
    some = rows[:: -(-len(rows) // MEASURED)]
    distances = 1 - (some @ some.T).numpy()[np.triu_indices(len(some), 1)]
    usual = float(np.median(distances)) if len(distances) else 0.0
    number = 0
    for row in range(len(units)):
        if views[row] < 0:
            if number == MOST_VIEWS:
                return np.arange(len(units))
            alike = (1 - rows[row:] @ rows[row]).numpy() <= VIEW * usual
            alike[0] = True
            views[row:][alike & (views[row:] < 0)] = number
            number += 1
    return views
