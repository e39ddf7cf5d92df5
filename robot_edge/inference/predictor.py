"""What the robot's exit makes of one frame, while another thread trains. Torch only, no I/O."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from broker.wire.quantize import Quantized
from hierarchy.calibration import Calibration, calibrate, softmax
from hierarchy.device import Compute
from hierarchy.edge import EdgeSegment, run_segment
from hierarchy.shadow import Shadow
from robot_edge.sources.frames import Pixels

# Processor time for copies: a copy takes a millisecond or so for each megabyte of weights.
REFRESH_SECONDS = 0.5
# A class's probability is how it compares with the others. With one class it is 1 for everything that there is.
MIN_CLASSES = 2
# Held-out frames in one forward pass.
CALIBRATED_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class ExitPrediction:
    """What the exit says of one frame.

    name: the most probable class, whether it fits or not; empty while there is none. confidence: its calibrated
    probability; 0 while there are fewer than two classes. unknown: none that was taught fits, or nobody can tell.
    probabilities: float64 (classes,), calibrated. logits: float32 (classes,). quantized: the activations, of one
    sample. seconds: that it took.
    """

    name: str
    confidence: float
    unknown: bool
    classes: tuple[str, ...]
    probabilities: NDArray[np.float64]
    logits: NDArray[np.float32]
    quantized: Quantized
    seconds: float


class Predictor:
    """Predicts frame by frame with a copy of the segment that is being trained.

    The thread that trains calls refresh() after a step, and calibrate() now and then. One other thread, which begins
    with claim_thread(), calls predict(). Neither waits for the other.
    """

    def __init__(
        self,
        segment: EdgeSegment,
        *,
        bits: int,
        compute: Compute,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # PyTorch gives a thread its number of cores when it first asks. The thread that trains does so now, before
        # claim_thread() changes what later ones get.
        torch.get_num_threads()
        self._shadow = Shadow(segment)
        self._bits = bits
        self._compute = compute
        self._clock = clock
        self._refreshed_at = clock()
        self.calibration = Calibration()

    @staticmethod
    def claim_thread() -> None:
        """Let the calling thread compute on one core: for one frame more of them cost more than they save."""
        torch.set_num_threads(1)

    def refresh(self, segment: EdgeSegment, *, at_once: bool = False) -> None:
        """Take over what was learned, unless that was done a moment ago. Call it between steps."""
        now = self._clock()
        due = at_once or now >= self._refreshed_at + REFRESH_SECONDS
        if due and self._shadow.refresh(segment):
            self._refreshed_at = now

    @torch.inference_mode()
    def calibrate(self, segment: EdgeSegment, images: Pixels, names: Sequence[str]) -> None:
        """Measure how far confidence can be trusted, on held-out frames uint8 (N, H, W, 3) and their class names.

        Call it between steps; it takes a forward pass. Frames of classes that were never taught are left out. Raises
        Diverged where training has.
        """
        places = {name: index for index, name in enumerate(segment.exit.head.classes)}
        kept = [index for index, name in enumerate(names) if name in places]
        logits = []
        segment.eval()  # the next step sets it back
        for start in range(0, len(kept), CALIBRATED_AT_ONCE):
            part = images[kept[start : start + CALIBRATED_AT_ONCE]]
            logits.append(run_segment(segment, part, bits=self._bits, compute=self._compute)[1].cpu().numpy())
        if kept:
            labels = np.array([places[names[index]] for index in kept])
            self.calibration = calibrate(np.concatenate(logits), labels)

    def predict(self, image: Pixels) -> ExitPrediction:
        """Return what the exit says of an image uint8 (H, W, 3) of the segment's size.

        Raises Diverged where training has.
        """
        begin = time.perf_counter()
        with self._shadow.network() as segment:
            quantized, found = run_segment(segment, image[None], bits=self._bits, compute=self._compute)
            logits = found.cpu().numpy()
            classes = segment.exit.head.classes
        calibration = self.calibration  # another thread may put a new one in its place
        probabilities = softmax(logits, calibration.temperature)[0] if classes else np.zeros(0)
        best = int(probabilities.argmax()) if classes else -1
        comparable = len(classes) >= MIN_CLASSES
        confidence = float(probabilities[best]) if comparable else 0.0
        return ExitPrediction(
            name=classes[best] if classes else "",
            confidence=confidence,
            unknown=not comparable or confidence < calibration.least_confidence,
            classes=classes,
            probabilities=probabilities,
            logits=logits[0],
            quantized=quantized,
            seconds=time.perf_counter() - begin,
        )
