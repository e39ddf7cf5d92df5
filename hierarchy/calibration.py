"""How far a classifier's confidence can be trusted: temperature, calibration error, thresholds, the unknown. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]

# Temperatures that any network we have seen could need lie well within; beyond, a softmax is a step or a constant.
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0
# A few dozen frames that are all right would ask for a temperature of 0. A prior, log T normal around 0 with this
# deviation, weighs as little as one frame and so matters only then.
PRIOR_DEVIATION = 1.0
# Golden-section steps: each leaves 0.618 of the interval, so the logarithm of T is exact to 1e-4.
SECTIONS = 24
# As in Guo et al. (2017).
BINS = 15
# With fewer held-out frames nobody can say where the last few in a hundred begin.
MIN_FRAMES = 50
# The share of held-out frames of known classes that count as unknown, which is the price of finding any.
TAKEN_FOR_UNKNOWN = 0.05
# What "auto" gives up of the cascade's best accuracy to ask less often: half a percentage point.
WORTH_ASKING = 0.005


def softmax(logits: Floats, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return probabilities (N, C) for logits (N, C)."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True, initial=-np.inf)
    exponentials: NDArray[np.float64] = np.exp(scaled)
    exponentials /= exponentials.sum(axis=1, keepdims=True)
    return exponentials


def fit_temperature(logits: Floats, labels: NDArray[np.integer]) -> float:
    """Return the temperature that makes held-out frames most likely (Guo et al., "On Calibration...", 2017).

    logits: (N, C). labels: (N,), each frame's class. 1 where there are no frames, or no two classes.
    """
    if len(labels) == 0 or logits.shape[1] < 2:
        return 1.0
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        likelihood = softmax(logits, math.exp(log_temperature))[rows, labels]
        prior = (log_temperature / PRIOR_DEVIATION) ** 2 / 2
        return prior - float(np.log(np.maximum(likelihood, 1e-300)).sum())

    return math.exp(_minimum(loss, math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE)))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What makes an exit's logits a confidence, and tells when no class fits.

    temperature: divides the logits. least_confidence: a frame with less shows no class that was taught.
    """

    temperature: float = 1.0
    least_confidence: float = 0.0


def calibrate(logits: Floats, labels: NDArray[np.integer]) -> Calibration:
    """Return the calibration from held-out frames: logits (N, C), labels (N,).

    A frame is unknown where the exit is less sure than of nearly all of these. That a class's probability tells best,
    of eight scores, is measured in docs/results/unknown.md.
    """
    temperature = fit_temperature(logits, labels)
    if len(labels) < MIN_FRAMES or logits.shape[1] < 2:
        return Calibration(temperature=temperature)
    confidence = softmax(logits, temperature).max(axis=1)
    return Calibration(temperature=temperature, least_confidence=float(np.quantile(confidence, TAKEN_FOR_UNKNOWN)))


def expected_calibration_error(confidence: Floats, correct: Bools, bins: int = BINS) -> float:
    """Return the mean distance of confidence and accuracy over bins of confidence, weighted by frames (Guo et al.).

    confidence: (N,), 0 to 1. correct: (N,). 0 where there are no frames.
    """
    places = np.minimum((np.asarray(confidence) * bins).astype(int), bins - 1)
    gaps = [abs(float(confidence[places == one].sum() - correct[places == one].sum())) for one in range(bins)]
    return sum(gaps) / max(1, len(places))


@dataclass(frozen=True, kw_only=True)
class ThresholdPoint:
    """What a cascade does where the exit answers alone from this confidence on.

    edge_share: of the frames, answered by the exit alone. edge_accuracy: of those; None where there are none.
    accuracy: of all, the cloud naming the others.
    """

    threshold: float
    edge_share: float
    edge_accuracy: float | None
    accuracy: float


def threshold_curve(confidence: Floats, exit_correct: Bools, cloud_correct: Bools) -> list[ThresholdPoint]:
    """Return what each hundredth of a threshold from 0 to 1 would do, and one above all confidence.

    All (N,), N > 0: the exit's calibrated confidence, whether it was right, whether the one asked would have been.
    """
    points = []
    for threshold in [*np.linspace(0, 1, 101), math.nextafter(1.0, 2.0)]:
        alone = confidence >= threshold
        points.append(
            ThresholdPoint(
                threshold=float(threshold),
                edge_share=float(alone.mean()),
                edge_accuracy=float(exit_correct[alone].mean()) if alone.any() else None,
                accuracy=float(np.where(alone, exit_correct, cloud_correct).mean()),
            )
        )
    return points


def best_threshold(curve: Sequence[ThresholdPoint], *, tolerance: float = WORTH_ASKING) -> ThresholdPoint:
    """Return the point that asks least of those whose accuracy is within the tolerance of the best."""
    best = max(point.accuracy for point in curve)
    return min((point for point in curve if point.accuracy >= best - tolerance), key=lambda point: point.threshold)


def auroc(known: Floats, unknown: Floats) -> float:
    """Return how often something unknown has a higher score than something known; ties count half (Mann-Whitney).

    known: (N,) and unknown: (M,), both with at least one.
    """
    ordered = np.sort(np.asarray(known))
    below = np.searchsorted(ordered, unknown, side="left")
    up_to = np.searchsorted(ordered, unknown, side="right")
    return float((below + up_to).mean() / (2 * len(ordered)))


def _minimum(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function with one valley in the interval is least, by golden-section search."""
    ratio = (math.sqrt(5) - 1) / 2
    inner = [high - ratio * (high - low), low + ratio * (high - low)]
    values = [function(one) for one in inner]
    for _ in range(SECTIONS):
        if values[0] < values[1]:
            high = inner[1]
            inner = [high - ratio * (high - low), inner[0]]
            values = [function(inner[0]), values[0]]
        else:
            low = inner[0]
            inner = [inner[1], low + ratio * (high - low)]
            values = [values[1], function(inner[1])]
    return (low + high) / 2
