"""What exits say of one frame: the robot's own, and its fleet's beside it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from broker.wire.quantize import Quantized
from hierarchy.encoding import Encoding
from robot_edge.fleet.second_exit import Says, second_is_believed


@dataclass(frozen=True, kw_only=True)
class ExitPrediction:
    """What the exit says of one frame.

    name: the most probable class, whether it fits or not; empty while there is none. confidence: its calibrated
    probability. With one class it is how familiar the frame is, or 0 where nobody can tell. unknown: none that was
    taught fits, or nobody can tell. probabilities: float64 (classes,), calibrated. logits: float32 (classes,).
    quantized: the activations, of one sample. seconds: that it took. encoding: of a network that stands still.
    novelty: how unlike all remembered frames it is, which ``unknown`` is then judged by; None where the confidence is
    all there is to judge by. elsewhere: the fleet's exit named it, and this robot was not taught that class.
    """

    name: str
    confidence: float
    unknown: bool
    classes: tuple[str, ...]
    probabilities: NDArray[np.float64]
    logits: NDArray[np.float32]
    quantized: Quantized
    seconds: float
    encoding: Encoding | None = None
    novelty: float | None = None
    elsewhere: bool = False


def beside(own: ExitPrediction, second: Says, *, seconds: float) -> ExitPrediction:
    """Return what is said of a frame where the fleet's exit says something of it, too. seconds: that both took.

    Whether a class fits that the robot was taught is judged by its remembered frames, as ever. Of a class that it was
    not taught it remembers none: there the fleet's confidence tells.
    """
    if not second_is_believed(said_by(own), second):
        return replace(own, seconds=seconds)
    confidence, unknown, novelty = second.confidence, second.unknown, None
    if own.novelty is not None and second.name in own.classes:
        unknown, novelty = own.unknown, own.novelty
        confidence = min(confidence, own.confidence) if unknown else confidence
    return replace(
        own,
        name=second.name,
        confidence=confidence,
        unknown=unknown,
        classes=second.classes,
        probabilities=second.probabilities,
        logits=np.log(np.maximum(second.probabilities, np.finfo(np.float32).tiny)).astype(np.float32),
        seconds=seconds,
        novelty=novelty,
        elsewhere=second.name not in own.classes,
    )


def said_by(own: ExitPrediction) -> Says:
    """Return what the own exit says, as the fleet's would say it."""
    return Says(
        name=own.name,
        confidence=own.confidence,
        unknown=own.unknown,
        classes=own.classes,
        probabilities=own.probabilities,
    )
