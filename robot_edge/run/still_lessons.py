"""What a live robot learns whose network stands still: each handful of a lesson's frames is known behind its fit."""

from __future__ import annotations

import time
from collections.abc import Callable

from robot_edge.run.checkpoint import RunState
from robot_edge.run.saving import Saving
from robot_edge.run.still_learning import HANDFUL, SETTLING_FITS, StillLearning

# A smaller handful is learned behind so many seconds: each is also a message, which costs a header.
HANDFUL_SECONDS = 0.5


class StillLessons:
    """Takes one fit at a time. saved_lesson: the last one of which a checkpoint has frames."""

    def __init__(
        self, state: RunState, learning: StillLearning, saving: Saving, clock: Callable[[], float] = time.monotonic
    ) -> None:
        assert state.teaching is not None
        assert state.practice is not None
        self.saved_lesson = 0
        self._teaching, self._practice, self._batcher = state.teaching, state.practice, state.batcher
        self._learning = learning
        self._saving = saving
        self._clock = clock
        self._fitted_at = clock()

    @property
    def busy(self) -> bool:
        """Whether there is anything to learn yet, or soon."""
        return bool(self._teaching.more_to_come or self._batcher.filled or self._practice.due >= 1)

    def learn(self) -> bool:
        """Fit the head to a handful of frames that were taught, and save those that begin or end a lesson.

        False where no handful waits.
        """
        batch = self._batcher.next(0.0)
        if batch is None and self._is_due():
            batch = self._batcher.finish()
        if batch is None:
            return False
        self._learning.learn(batch, rehearsed=0)
        self._fitted_at = self._clock()
        is_over = not self._teaching.more_to_come and not self._batcher.filled
        # A lesson's frames cannot be shown again.
        if batch.session > 0 and (is_over or batch.session != self.saved_lesson):
            self._saving.save()
            self.saved_lesson = batch.session
        return True

    def practise(self) -> bool:
        """Fit the head once more, as behind a lesson or a class edit; False where that is not due."""
        if self._practice.due < 1:
            return False
        self._practice.due = min(self._practice.due, SETTLING_FITS) - 1
        if self._learning.practise(None) is None:
            self._practice.due = 0.0
            return False
        return True

    def _is_due(self) -> bool:
        waited = self._clock() >= self._fitted_at + HANDFUL_SECONDS
        return not self._teaching.more_to_come or self._batcher.filled >= HANDFUL or waited
