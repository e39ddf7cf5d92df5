"""The figures of an evaluation, from what exit and cloud said of each frame. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hierarchy.calibration import (
    Calibration,
    ThresholdPoint,
    auroc,
    best_threshold,
    expected_calibration_error,
    softmax,
    threshold_curve,
)


@dataclass(frozen=True, kw_only=True)
class FrameResult:
    """What was said of one labelled frame.

    taught: whether the exit knows the label. exit_logits: float32 (classes,). unknown: whether the exit found that no
    class fits. novelty: what that is judged by, None where it is the confidence. cloud_...: None where no answer came
    in time. Times are in seconds from the frame on.
    """

    label: str
    taught: bool
    exit_name: str
    exit_confidence: float
    exit_logits: NDArray[np.float32]
    unknown: bool
    exit_seconds: float
    cloud_name: str | None
    cloud_confidence: float | None
    cloud_seconds: float | None
    novelty: float | None = None


def threshold_points(tested: Sequence[FrameResult], threshold: float | None) -> tuple[list[ThresholdPoint], float]:
    """Return the curve over the frames of taught classes, and the threshold; None chooses the best.

    A frame that the cloud did not answer for counts with the exit's word.
    """
    taught = [one for one in tested if one.taught] or list(tested)
    exit_right = np.array([one.exit_name == one.label for one in taught])
    cloud_right = np.array([(one.cloud_name or one.exit_name) == one.label for one in taught])
    curve = threshold_curve(np.array([one.exit_confidence for one in taught]), exit_right, cloud_right)
    return curve, best_threshold(curve).threshold if threshold is None else threshold


def report(
    tested: Sequence[FrameResult],
    calibration: Calibration,
    curve: Sequence[ThresholdPoint],
    threshold: float,
    *,
    deadline: float,
    asked: bool,
) -> dict[str, Any]:
    """Return the figures, as JSON can hold them; None where there is nothing to tell.

    deadline: seconds that the cascade waits. asked: whether there was a cloud to ask.
    """
    taught = [one for one in tested if one.taught]
    strange = [one for one in tested if not one.taught]
    answered = [one for one in tested if one.cloud_seconds is not None]
    alone = [one.exit_confidence >= threshold and not one.unknown for one in tested]
    waited = [
        one.exit_seconds if sure or not asked else one.cloud_seconds or deadline
        for one, sure in zip(tested, alone, strict=True)
    ]
    exit_right = [one.exit_name == one.label for one in taught]
    cascade_right = [
        (one.exit_name if sure else one.cloud_name or one.exit_name) == one.label
        for one, sure in zip(tested, alone, strict=True)
        if one.taught
    ]
    raw = np.array([softmax(one.exit_logits[None]).max() for one in taught])  # of two exits, each has its own classes
    confidence = np.array([one.exit_confidence for one in taught])
    cloud = [one for one in taught if one.cloud_name is not None]
    cloud_right = np.array([one.cloud_name == one.label for one in cloud], bool)
    cloud_confidence = np.array([one.cloud_confidence for one in cloud], float)
    return {
        "frames": len(tested),
        "frames_of_other_classes": len(strange),
        "threshold": threshold,
        "temperature": calibration.temperature,
        "least_confidence": calibration.least_confidence,
        "exit_accuracy": _mean(exit_right),
        "cloud_accuracy": _mean(cloud_right.tolist()),
        "cascade_accuracy": _mean(cascade_right) if asked else None,
        "exit_calibration_error": expected_calibration_error(confidence, np.array(exit_right, bool)),
        "exit_calibration_error_before": expected_calibration_error(raw, np.array(exit_right, bool)),
        "cloud_calibration_error": expected_calibration_error(cloud_confidence, cloud_right) if cloud else None,
        "answered_at_the_edge": _mean(alone) if asked else 1.0,
        "answered_by_the_cloud_in_time": len(answered) / len(tested) if asked else None,
        "taught_taken_for_unknown": _mean([one.unknown for one in taught]),
        "others_taken_for_unknown": _mean([one.unknown for one in strange]),
        "unknown_auroc": auroc(_novelty(taught), _novelty(strange)) if taught and strange else None,
        "exit_latency": _latency([one.exit_seconds for one in tested]),
        "cloud_latency": _latency([one.cloud_seconds for one in answered if one.cloud_seconds is not None]),
        "cascade_latency": _latency(waited) if asked else None,
        "curve": [dataclasses.asdict(point) for point in curve],
    }


def _novelty(tested: Sequence[FrameResult]) -> NDArray[np.float64]:
    """Return what unknown frames are told by: higher for those that are less known."""
    return np.array([-one.exit_confidence if one.novelty is None else one.novelty for one in tested])


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _latency(seconds: Sequence[float]) -> dict[str, float] | None:
    """Return median and 99th percentile, in milliseconds."""
    if not seconds:
        return None
    return {f"p{share}_ms": 1e3 * float(np.percentile(seconds, share)) for share in (50, 99)}
