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
class Look:
    """What was said of one labelled frame.

    taught: whether the exit knows the label. exit_logits: float32 (classes,). unknown: whether the exit found that no
    class fits. cloud_...: None where no answer came in time. Times are in seconds from the frame on.
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


def threshold_points(looks: Sequence[Look], threshold: float | None) -> tuple[list[ThresholdPoint], float]:
    """Return the curve over the frames of taught classes, and the threshold; None chooses the best.

    A frame that the cloud did not answer for counts with the exit's word.
    """
    taught = [look for look in looks if look.taught] or list(looks)
    exit_right = np.array([look.exit_name == look.label for look in taught])
    cloud_right = np.array([(look.cloud_name or look.exit_name) == look.label for look in taught])
    curve = threshold_curve(np.array([look.exit_confidence for look in taught]), exit_right, cloud_right)
    return curve, best_threshold(curve).threshold if threshold is None else threshold


def report(
    looks: Sequence[Look],
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
    taught = [look for look in looks if look.taught]
    strange = [look for look in looks if not look.taught]
    answered = [look for look in looks if look.cloud_seconds is not None]
    alone = [look.exit_confidence >= threshold and not look.unknown for look in looks]
    waited = [
        look.exit_seconds if sure or not asked else look.cloud_seconds or deadline
        for look, sure in zip(looks, alone, strict=True)
    ]
    exit_right = [look.exit_name == look.label for look in taught]
    cascade_right = [
        (look.exit_name if sure else look.cloud_name or look.exit_name) == look.label
        for look, sure in zip(looks, alone, strict=True)
        if look.taught
    ]
    logits = np.array([look.exit_logits for look in taught])
    raw = softmax(logits).max(axis=1) if taught else np.zeros(0)
    confidence = np.array([look.exit_confidence for look in taught])
    cloud = [look for look in taught if look.cloud_name is not None]
    cloud_right = np.array([look.cloud_name == look.label for look in cloud], bool)
    cloud_confidence = np.array([look.cloud_confidence for look in cloud], float)
    return {
        "frames": len(looks),
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
        "answered_by_the_cloud_in_time": len(answered) / len(looks) if asked else None,
        "taught_taken_for_unknown": _mean([look.unknown for look in taught]),
        "others_taken_for_unknown": _mean([look.unknown for look in strange]),
        "unknown_auroc": auroc(-confidence, -np.array([look.exit_confidence for look in strange]))
        if taught and strange
        else None,
        "exit_latency": _latency([look.exit_seconds for look in looks]),
        "cloud_latency": _latency([look.cloud_seconds for look in answered if look.cloud_seconds is not None]),
        "cascade_latency": _latency(waited) if asked else None,
        "curve": [dataclasses.asdict(point) for point in curve],
    }


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _latency(seconds: Sequence[float]) -> dict[str, float] | None:
    """Return median and 99th percentile, in milliseconds."""
    if not seconds:
        return None
    return {f"p{share}_ms": 1e3 * float(np.percentile(seconds, share)) for share in (50, 99)}
