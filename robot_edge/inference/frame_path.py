"""What a robot sees: predictor and cascade for one frame after the other, on the thread that looks."""

from __future__ import annotations

import time
from collections.abc import Callable

from broker.wire.messages import Ask
from hierarchy.encoding import Encoding
from robot_edge.inference.cascade import Cascade, CloudLine, Decision
from robot_edge.inference.predictor import Predictor
from robot_edge.sources.frames import Pixels


class FramePath:
    """Decides frame by frame. ``reachable`` is set by the thread that knows whether a trainer is there.

    encoding: of the frame looked at last, by a network that stands still.
    line: to the cloud; without one the exit decides alone.
    """

    def __init__(
        self,
        predictor: Predictor,
        cascade: Cascade,
        line: CloudLine | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reachable = False
        self.encoding: Encoding | None = None
        self.cascade = cascade
        self._predictor = predictor
        self._line = line
        self._clock = clock

    def look(self, image: Pixels, *, taken_at: float) -> list[Decision]:
        """Return what has been decided: of this frame uint8 (H, W, 3), where the exit is sure, and of former ones.

        taken_at: when the frame came, on this clock. Raises Diverged where training has.
        """
        says = self._predictor.predict(image)
        self.encoding = says.encoding
        reachable = self._line is not None and self.reachable
        decided = self.cascade.decide(says, taken_at=taken_at, now=self._clock(), reachable=reachable)
        if isinstance(decided, Ask):
            assert self._line is not None
            if self._line.ask(decided):
                return self.wait(0.0)
            decided = self.cascade.give_up(decided, now=self._clock())
        return [*self.wait(0.0), decided]

    def wait(self, timeout: float) -> list[Decision]:
        """Return what the cloud, or a deadline, has decided; wait up to timeout seconds where frames wait for it."""
        line, due = self._line, self.cascade.next_deadline
        if line is None or due is None:
            return []
        answers = line.answers(max(0.0, min(timeout, due - self._clock())))
        decided = [self.cascade.answer(answer, now=self._clock()) for answer in answers]
        return [one for one in decided if one] + self.cascade.expire(now=self._clock())
