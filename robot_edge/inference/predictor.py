"""What the robot's exit makes of one frame, while another thread trains. Torch only, no I/O."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from broker.wire.quantize import Quantized, dequantize
from hierarchy.calibration import Calibration, calibrate, softmax
from hierarchy.device import Compute
from hierarchy.edge import EdgeSegment, head_logits, run_segment
from hierarchy.encoding import Encoding
from hierarchy.head import GrowingHead
from hierarchy.novelty import Novelty, fit_novelty
from hierarchy.shadow import Shadow
from robot_edge.fleet.second_exit import MIN_CLASSES, Says, SecondExit
from robot_edge.inference.exit_prediction import ExitPrediction, beside
from robot_edge.sources.frames import Pixels

# Processor time for copies: a copy takes a millisecond or so for each megabyte of weights.
REFRESH_SECONDS = 0.5
# Held-out frames in one forward pass.
CALIBRATED_AT_ONCE = 64


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
        encode: Callable[[Pixels], Encoding] | None = None,
    ) -> None:
        """encode: of a segment that stands still, of which then the head alone is copied."""
        # PyTorch gives a thread its number of cores when it first asks. The thread that trains does so now, before
        # claim_thread() changes what later ones get.
        torch.get_num_threads()
        self._copy = _HeadCopy(segment, bits, encode) if encode else _SegmentCopy(segment, bits, compute)
        self._bits = bits
        self._compute = compute
        self._clock = clock
        self._refreshed_at = clock()
        self.calibration = Calibration()
        self.second: SecondExit | None = None  # the fleet's exit, put in its place between two frames
        self.novelty: Novelty | None = None

    @staticmethod
    def claim_thread() -> None:
        """Let the calling thread compute on one core: for one frame more of them cost more than they save."""
        torch.set_num_threads(1)

    def refresh(self, segment: EdgeSegment, *, at_once: bool = False) -> None:
        """Take over what was learned, unless that was done a moment ago. Call it between steps."""
        now = self._clock()
        due = at_once or now >= self._refreshed_at + REFRESH_SECONDS
        if due and self._copy.refresh(segment):
            self._refreshed_at = now

    @torch.inference_mode()
    def calibrate(self, segment: EdgeSegment, images: Pixels, names: Sequence[str]) -> None:
        """Measure how far confidence can be trusted, on held-out frames uint8 (N, H, W, 3) and their class names.

        Call it between steps; it takes a forward pass. Frames of classes that were never taught are left out. Raises
        Diverged where training has.
        """
        places = {name: index for index, name in enumerate(segment.exit.head.classes)}
        kept = [index for index, name in enumerate(names) if name in places]
        logits: list[NDArray[np.float32]] = []
        segment.eval()  # the next step sets it back
        for start in range(0, len(kept), CALIBRATED_AT_ONCE):
            part = images[kept[start : start + CALIBRATED_AT_ONCE]]
            logits.append(run_segment(segment, part, bits=self._bits, compute=self._compute).logits.cpu().numpy())
        if kept:
            self._calibrate(np.concatenate(logits), [places[names[index]] for index in kept])

    @torch.inference_mode()
    def calibrate_encoded(self, head: GrowingHead, encoding: Encoding, names: Sequence[str]) -> None:
        """Measure the same on frames that are encoded; it takes no forward pass."""
        places = {name: index for index, name in enumerate(head.classes)}
        kept = [index for index, name in enumerate(names) if name in places]
        if kept:
            self._calibrate(head_logits(head, encoding).cpu().numpy()[kept], [places[names[index]] for index in kept])

    def remember(self, encoding: Encoding, names: Sequence[str]) -> None:
        """Judge from now on by these remembered frames and their class names, in order of time, what is unknown.

        Call it between steps; it takes some tenths of a second.
        """
        self.novelty = fit_novelty(encoding.features, names) if names else None

    def _calibrate(self, logits: NDArray[np.float32], labels: list[int]) -> None:
        self.calibration = calibrate(logits, np.array(labels))

    def predict(self, image: Pixels) -> ExitPrediction:
        """Return what the exit says of an image uint8 (H, W, 3) of the segment's size.

        Raises Diverged where training has.
        """
        begin = time.perf_counter()
        return self._judged(self._copy.look(image[None]), begin)

    @torch.inference_mode()
    def predict_between_steps(
        self, segment: EdgeSegment, image: Pixels, encoding: Encoding | None = None
    ) -> ExitPrediction:
        """Return the same on the thread that trains, by what it has learned. encoding: of a segment that stands still.

        Raises Diverged where training has.
        """
        begin, head = time.perf_counter(), segment.exit.head
        if encoding is not None:
            logits, quantized = head_logits(head, encoding), encoding.quantized(self._bits)
        else:
            segment.eval()  # the next step sets it back
            passed = run_segment(segment, image[None], bits=self._bits, compute=self._compute)
            logits, quantized = passed.logits, passed.quantized
        return self._judged(_Seen(quantized, logits.cpu().numpy(), head.classes, encoding), begin)

    def _judged(self, seen: _Seen, begin: float) -> ExitPrediction:
        classes, logits = seen.classes, seen.logits
        calibration = self.calibration  # another thread may put a new one in its place
        probabilities = softmax(logits, calibration.temperature)[0] if classes else np.zeros(0)
        best = int(probabilities.argmax()) if classes else -1
        name = classes[best] if classes else ""
        comparable = len(classes) >= MIN_CLASSES
        confidence = float(probabilities[best]) if comparable else 0.0
        unknown = not comparable or confidence < calibration.least_confidence
        novelty, score = self.novelty, None
        # A class whose lesson is not over has no remembered frames to be judged by yet.
        if novelty and seen.encoding and name in novelty.classes:
            score = float(novelty.score(seen.encoding.features)[0])
            unknown = score > novelty.limit
            familiarity = novelty.familiarity(score)
            if not comparable:
                confidence = familiarity
            elif unknown:  # the classes are compared with each other, and none may fit
                confidence = min(confidence, familiarity)
        says = ExitPrediction(
            name=name,
            confidence=confidence,
            unknown=unknown,
            classes=classes,
            probabilities=probabilities,
            logits=logits[0],
            quantized=seen.quantized,
            seconds=time.perf_counter() - begin,
            encoding=seen.encoding,
            novelty=score,
        )
        second = self.second
        if second is None:
            return says
        return beside(says, second.says(dequantize(seen.quantized)), seconds=time.perf_counter() - begin)

    def said_of(self, head: GrowingHead, encoding: Encoding) -> list[Says]:
        """Return what the own exit says of frames that are encoded. Which of them are unknown is left out."""
        logits, classes = head_logits(head, encoding).detach().cpu().numpy(), head.classes
        return [
            Says(
                name=classes[int(one.argmax())],
                confidence=float(one.max()),
                unknown=False,
                classes=classes,
                probabilities=one,
            )
            for one in softmax(logits, self.calibration.temperature)
        ]


class _Seen(NamedTuple):
    """logits: float32 (N, classes)."""

    quantized: Quantized
    logits: NDArray[np.float32]
    classes: tuple[str, ...]
    encoding: Encoding | None


class _SegmentCopy:
    """Of a segment that learns: all of it is copied."""

    def __init__(self, segment: EdgeSegment, bits: int, compute: Compute) -> None:
        self._shadow, self._bits, self._compute = Shadow(segment), bits, compute

    def refresh(self, segment: EdgeSegment) -> bool:
        return self._shadow.refresh(segment)

    def look(self, images: Pixels) -> _Seen:
        with self._shadow.network() as segment:
            seen = run_segment(segment, images, bits=self._bits, compute=self._compute)
            return _Seen(seen.quantized, seen.logits.cpu().numpy(), segment.exit.head.classes, None)


class _HeadCopy:
    """Of a segment that stands still: its head alone is copied, and whoever asks gets the frame's encoding, too."""

    def __init__(self, segment: EdgeSegment, bits: int, encode: Callable[[Pixels], Encoding]) -> None:
        self._shadow, self._bits, self._encode = Shadow(segment.exit.head), bits, encode

    def refresh(self, segment: EdgeSegment) -> bool:
        return self._shadow.refresh(segment.exit.head)

    def look(self, images: Pixels) -> _Seen:
        encoding = self._encode(images)
        with self._shadow.network() as head:
            logits = head_logits(head, encoding).cpu().numpy()
            return _Seen(encoding.quantized(self._bits), logits, head.classes, encoding)
