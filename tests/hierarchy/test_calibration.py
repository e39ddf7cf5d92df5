"""Confidence on made-up frames whose right temperature and threshold are known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hierarchy.calibration import (
    MIN_FRAMES,
    TAKEN_FOR_UNKNOWN,
    Calibration,
    auroc,
    best_threshold,
    calibrate,
    expected_calibration_error,
    fit_temperature,
    softmax,
    threshold_curve,
)


def frames(temperature: float, count: int = 4000, classes: int = 6) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return logits whose calibrated probabilities are the truth once they are divided by the temperature."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(count, classes)) * 2
    chances = softmax(logits).cumsum(axis=1)
    labels = (rng.random((count, 1)) > chances).sum(axis=1)
    return logits * temperature, np.minimum(labels, classes - 1)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_is_found_and_makes_confidence_right(temperature: float) -> None:
    logits, labels = frames(temperature)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.08)
    probabilities = softmax(logits, found)
    error = expected_calibration_error(probabilities.max(1), probabilities.argmax(1) == labels)
    assert error < 0.03
    if temperature != 1:
        raw = softmax(logits)
        assert expected_calibration_error(raw.max(1), raw.argmax(1) == labels) > 2 * error


def test_a_few_frames_that_are_all_right_prove_little() -> None:
    logits = 4 * np.eye(5)
    assert 0.2 < fit_temperature(logits, np.arange(5)) < 1
    assert fit_temperature(logits[:0], np.arange(0)) == 1
    assert fit_temperature(np.ones((3, 1)), np.zeros(3, int)) == 1


def test_extreme_logits() -> None:
    for logits in (np.full((4, 3), 1e8), np.eye(3)[[0, 1, 2, 0]] * 1e8, -np.eye(3)[[0, 1, 2, 0]] * 1e8):
        assert np.isfinite(fit_temperature(logits, np.array([0, 1, 2, 1])))
    np.testing.assert_allclose(softmax(np.array([[0.0, 0.0], [1e30, 0.0]])), [[0.5, 0.5], [1.0, 0.0]])


def test_expected_calibration_error_by_hand() -> None:
    confidence = np.array([0.95, 0.95, 0.55, 0.55])
    assert expected_calibration_error(confidence, np.array([True, True, True, False])) == pytest.approx(0.05)
    assert expected_calibration_error(confidence, np.zeros(4, bool)) == pytest.approx(0.75)
    assert expected_calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == 0
    assert expected_calibration_error(np.zeros(0), np.zeros(0, bool)) == 0


def test_what_is_unknown_is_what_few_known_frames_look_like() -> None:
    logits, labels = frames(2.0)
    calibration = calibrate(logits, labels)
    confidence = softmax(logits, calibration.temperature).max(1)
    assert (confidence < calibration.least_confidence).mean() == pytest.approx(TAKEN_FOR_UNKNOWN, abs=0.01)
    few = slice(MIN_FRAMES - 1)
    assert calibrate(logits[few], labels[few]).least_confidence == 0
    assert calibrate(logits[:0], labels[:0]) == Calibration()


def test_the_threshold_curve_by_hand() -> None:
    confidence = np.array([0.9, 0.8, 0.4, 0.3])
    exit_correct = np.array([True, True, True, False])
    cloud_correct = np.array([True, False, True, True])
    curve = threshold_curve(confidence, exit_correct, cloud_correct)
    by_threshold = {round(point.threshold, 2): point for point in curve[:-1]}
    everything, half, nothing = by_threshold[0.0], by_threshold[0.5], curve[-1]
    assert (everything.edge_share, everything.edge_accuracy, everything.accuracy) == (1, 0.75, 0.75)
    assert (half.edge_share, half.edge_accuracy, half.accuracy) == (0.5, 1, 1)
    assert (nothing.edge_share, nothing.edge_accuracy, nothing.accuracy) == (0, None, 0.75)
    best = best_threshold(curve)
    assert (best.accuracy, best.edge_share) == (1, 0.75), "of those that are right, the one that asks least"
    assert best_threshold(curve, tolerance=0.25).threshold == 0


def test_auroc_by_hand() -> None:
    assert auroc(np.array([0.1, 0.2]), np.array([0.3, 0.4])) == 1
    assert auroc(np.array([0.3, 0.4]), np.array([0.1, 0.2])) == 0
    assert auroc(np.array([0.5]), np.array([0.5, 0.5])) == 0.5
    assert auroc(np.array([0.1, 0.3]), np.array([0.2])) == 0.5
