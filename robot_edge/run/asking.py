"""What a robot asks people: the thread that sees offers frames, and what is learned answers some of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from robot_edge.inference.cascade import Decision
from robot_edge.inference.predictor import Predictor
from robot_edge.learning.framed import Viewfinder
from robot_edge.run.checkpoint import RunState
from robot_edge.sources.frames import Frame, Pixels
from robot_edge.teaching.lessons import Teaching
from robot_edge.teaching.questions import Questions

# Of a picture that people name, a side: enough to know a thing by, and four in a row fit on a phone.
PICTURE_PIXELS = 160
# Frames that were seen and are not decided yet; the cloud is asked about fewer at the same time.
MAX_UNDECIDED = 16


@dataclass(kw_only=True, eq=False)
class Asking:
    """Offers frames that neither end is sure of. threshold: the calibrated confidence from which one is."""

    questions: Questions
    teaching: Teaching
    viewfinder: Viewfinder
    threshold: float
    _undecided: OrderedDict[int, Frame] = field(default_factory=OrderedDict)  # as the network saw them, by id
    _reviewed_at: int = 0

    def saw(self, frame: Frame, seen: Frame) -> None:
        """Take in a camera's frame, and the same as the network saw it. Call it on the thread that sees."""
        self._undecided[id(frame)] = seen
        if len(self._undecided) > MAX_UNDECIDED:
            self._undecided.popitem(last=False)

    def decided(self, decision: Decision, frame: Frame) -> None:
        """Take in what a frame is taken for: by the cloud, where it was asked and has answered. Same thread."""
        seen = self._undecided.pop(id(frame), None)  # none where the camera is gone, and where a program asked
        sure = bool(decision.name) and decision.confidence >= self.threshold
        if seen is not None and not sure and self.teaching.open is None:
            self.questions.offer(
                seen, lambda: self._picture(frame), guess=decision.name, confidence=decision.confidence
            )

    def review(self, state: RunState, predictor: Predictor) -> Iterator[None]:
        """Let go of the questions that the exit can answer by now, if it has learned anything since the last time.

        Yields before each; call it between steps.
        """
        if self._reviewed_at == state.trainer.steps:
            return
        self._reviewed_at = state.trainer.steps
        for one in self.questions.open:
            yield
            says = predictor.predict_between_steps(state.trainer.segment, one.frame.image, one.frame.encoding)
            if says.confidence >= self.threshold and not says.unknown:
                self.questions.drop({one.number})

    def _picture(self, frame: Frame) -> Pixels:
        return replace(self.viewfinder.framing, size=PICTURE_PIXELS).input(frame.image)
