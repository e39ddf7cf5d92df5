"""What is said of a frame where the fleet's exit says something of it, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from broker.wire.quantize import quantize
from robot_edge.fleet.second_exit import Says
from robot_edge.inference.exit_prediction import ExitPrediction, beside


def own(name: str, confidence: float, **fields: Any) -> ExitPrediction:
    usual: dict[str, Any] = {"unknown": False, "classes": ("cup", "mug"), "seconds": 0.1}
    usual |= {"probabilities": np.array([0.5, 0.5]), "logits": np.zeros(2, np.float32)}
    usual |= {"quantized": quantize(np.zeros((1, 2), np.float32), 4)}
    return ExitPrediction(**{**usual, "name": name, "confidence": confidence, **fields})


def fleet(name: str, confidence: float, *, unknown: bool = False) -> Says:
    probabilities = np.array([confidence, 1 - confidence, 0.0])
    classes = ("mug", "dog", "cat")
    return Says(name=name, confidence=confidence, unknown=unknown, classes=classes, probabilities=probabilities)


def test_the_own_exit_names_what_only_it_knows() -> None:
    says = own("cup", 0.9)
    assert beside(says, fleet("dog", 0.6), seconds=0.1) == says


@pytest.mark.parametrize("unknown", [False, True])
def test_what_was_taught_elsewhere_is_judged_by_the_fleets_confidence(unknown: bool) -> None:
    strange = own("mug", 0.1, unknown=True, novelty=9.0)
    found = beside(strange, fleet("dog", 0.6, unknown=unknown), seconds=0.2)
    assert (found.name, found.confidence, found.unknown, found.novelty) == ("dog", 0.6, unknown, None)
    assert (found.classes, found.seconds) == (("mug", "dog", "cat"), 0.2)
    assert found.elsewhere
    assert found.probabilities.tolist() == [0.6, 0.4, 0.0]
    assert np.isfinite(found.logits).all()


@pytest.mark.parametrize(("unknown", "confidence"), [(False, 0.8), (True, 0.1)])
def test_what_was_taught_here_is_judged_by_what_is_remembered_of_it(unknown: bool, confidence: float) -> None:
    found = beside(own("mug", 0.1, unknown=unknown, novelty=3.0), fleet("mug", 0.8), seconds=0.1)
    assert (found.name, found.confidence, found.unknown, found.novelty) == ("mug", confidence, unknown, 3.0)
    assert not found.elsewhere
