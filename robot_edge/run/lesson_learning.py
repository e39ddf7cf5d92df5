"""What a live robot learns, and when: what lessons taught first, then practice on what it remembers."""

from __future__ import annotations

from typing import Protocol

from robot_edge.run.checkpoint import RunState
from robot_edge.run.config import RobotConfig
from robot_edge.run.edge_learning import EdgeLearning
from robot_edge.run.saving import Saving

# Frames of a lesson that are held back are nowhere else, so each batch of them is saved at once: as long as no more
# than this is held, a second's writing on a slow card. A robot whose line never holds would write 64 MB for each.
SAVED_AT_ONCE_BYTES = 8_000_000


class Lessons(Protocol):
    """What a live robot learns, bit by bit. Between two bits it listens.

    saved_lesson: the last one of which a checkpoint has frames.
    """

    saved_lesson: int

    @property
    def busy(self) -> bool:
        """Whether there is anything to learn or practise yet, or soon."""

    def learn(self) -> bool:
        """Learn frames that were taught, and save those that begin or end a lesson; False where none wait."""

    def practise(self) -> bool:
        """Learn from remembered frames alone; False where that is not due."""


class LessonLearning:
    """Takes one step at a time. saved_lesson: the last one of which a checkpoint has frames."""

    def __init__(self, config: RobotConfig, state: RunState, learning: EdgeLearning, saving: Saving) -> None:
        assert state.teaching is not None
        assert state.practice is not None
        self.saved_lesson = 0
        self._config = config
        self._teaching, self._practice, self._batcher = state.teaching, state.practice, state.batcher
        self._held = state.held
        self._learning = learning
        self._saving = saving

    @property
    def busy(self) -> bool:
        """Whether there is anything to learn or practise yet, or soon."""
        return bool(self._teaching.more_to_come or self._batcher.filled or self._practice.due >= 1)

    def learn(self) -> bool:
        """Take a step on frames that were taught, and save those that begin or end a lesson; False where none wait."""
        batch = self._batcher.next(0.0)
        if batch is None and not self._teaching.more_to_come:
            batch = self._batcher.finish()
        if batch is None:
            return False
        fresh = len(batch.names)
        # A lesson's last frames are few, and of one class. A step on them alone, or nearly, undid all other classes.
        rehearsed = self._config.learning.batch - fresh if self._config.rehearsed_per_fresh else 0
        self._learning.learn(batch, rehearsed=rehearsed)
        self._practice.learned(fresh)
        # A lesson's frames cannot be shown again.
        is_over = not self._teaching.more_to_come and not self._batcher.filled
        is_only_here = self._held is not None and 0 < self._held.bytes_held <= SAVED_AT_ONCE_BYTES
        if batch.session > 0 and (is_over or is_only_here or batch.session != self.saved_lesson):
            self._saving.save()
            self.saved_lesson = batch.session
        return True

    def practise(self) -> bool:
        """Take a step on remembered frames alone; False where none is due."""
        if self._practice.due < 1:
            return False
        progress = self._practice.take(lesson_open=self._teaching.open is not None)
        if self._learning.practise(progress) is None:
            self._practice.due = 0.0
            return False
        return True
