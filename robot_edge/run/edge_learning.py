"""What updates weights: a batch, and remembered frames, become a step; what a network that learns makes of frames."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from typing import Protocol

import numpy as np

from broker.wire.quantize import Quantized
from hierarchy.edge import EdgeStep
from robot_edge.learning.batcher import Batch
from robot_edge.learning.held_out import PREDICT_AT_ONCE
from robot_edge.learning.practice import practice_steps
from robot_edge.run.checkpoint import RunState
from robot_edge.run.config import RobotConfig
from robot_edge.run.release import Release
from robot_edge.run.sending import Sending

log = logging.getLogger("robot-edge")


class Learning(Protocol):
    """What the loops learn with: steps of a network that learns, or fits of a head on one that stands still."""

    def learn(self, batch: Batch, *, rehearsed: int) -> EdgeStep:
        """Learn a batch, and send what is new. rehearsed: remembered frames for a step. Raises Diverged."""

    def practise(self, progress: float | None) -> float | None:
        """Learn from remembered frames alone, and return the loss; None where none are kept."""

    def release(self) -> Iterator[None]:
        """Attack the front once a lesson or a source is over, and send what is held back if it may go up.

        Yields before each part of it; the rest stays where the outbox has no room then.
        """

    def practice_due(self) -> int:
        """Return how often a replay that ended on some of its classes practises."""

    def re_encode_memory(self, most: int) -> Iterator[None]:
        """Send remembered frames as they are encoded now, if that changes. Yields before each part of them."""

    def teach_a_new_cloud(self) -> Iterator[None]:
        """Send a live robot's frames where the cloud lacks what they show, and nothing else would send them.

        Yields before each part of them.
        """

    def test(self, batch: Batch) -> tuple[list[str], Quantized]:
        """Return what the exit names held-out frames, and what crosses of them. Raises Diverged."""


class EdgeLearning:
    """Learns batch by batch, and sends what the cloud learns from."""

    def __init__(self, config: RobotConfig, state: RunState, sending: Sending) -> None:
        self._config = config
        self._state = state
        self._sending = sending
        self._release = Release(state)

    def learn(self, batch: Batch, *, rehearsed: int) -> EdgeStep:
        """Take a step on a batch and so many remembered frames, and send what is new. Raises Diverged."""
        self._sending.spare_the_link()
        state, fresh = self._state, len(batch.names)
        frames = state.memory.rehearsal.draw(rehearsed)
        images = np.concatenate([batch.images, *(one.image[None] for one in frames)])
        names = batch.names + [one.name for one in frames]
        numbers = self._sending.numbers(batch)
        version = state.trainer.version  # of the segment that encodes them
        step = state.trainer.step(images, names, fresh=fresh, progress=self._sending.progress)
        state.metrics.add(step)
        waits = state.held is not None and state.held.waits
        if self._sending.is_new(batch) and not waits:
            self._sending.send_again(step.quantized[fresh:], names[fresh:], [one.sample for one in frames], version)
            self._sending.send(batch, step.quantized, version)
        if state.held is not None:
            state.held.show(batch, numbers)
            if waits:
                state.held.add(batch)
        if self._config.rehearsed_per_fresh:
            for name, image, number in zip(batch.names, batch.images, numbers, strict=True):
                state.memory.rehearsal.add(name, image, batch.session, number)
        state.batcher.learned()
        self._release.review()
        for _ in self._send_what_was_held():
            pass
        return step

    def release(self) -> Iterator[None]:
        """Attack the front as it is by now, if that is another one, and send what is held back if it may go up.

        Yields before each part of it; the rest stays where the outbox has no room then.
        """
        self._release.review(at_an_end=True)
        yield from self._send_what_was_held()

    def _send_what_was_held(self) -> Iterator[None]:
        """Send what the front held back, as it encodes it now, as long as the outbox has room."""
        held = self._state.held
        while held is not None and held.released and len(held):
            yield
            if not self._sending.has_room or (batch := held.take(self._config.learning.batch)) is None:
                return
            if self._sending.is_new(batch):  # a process that was killed here may have sent some
                _, quantized = self._state.trainer.evaluate(batch.images)
                # Behind these frames, and not where the source is: a process that is killed now has to send the rest.
                self._sending.send(batch, quantized, self._state.trainer.version, batch.positions[-1])

    def practise(self, progress: float | None) -> float | None:
        """Take a step on remembered frames alone, and return its loss; None where none are kept."""
        frames = self._state.memory.rehearsal.draw(self._config.learning.batch)
        if not frames:
            return None
        images = np.stack([one.image for one in frames])
        return self._state.trainer.step(images, [one.name for one in frames], fresh=0, progress=progress).loss

    def practice_due(self) -> int:
        """Return how many steps a replay practises that ended on some of its classes."""
        state, learning = self._state, self._config.learning
        kept = len(state.memory.rehearsal)
        if not kept:
            return 0
        # Frames of a former run took steps, too.
        learned = state.trainer.steps - state.practised + state.memory.inherited // self._config.fresh_per_batch
        return min(practice_steps(kept, learning.batch, learned), round(learning.practice * state.metrics.images))

    def re_encode_memory(self, most: int) -> Iterator[None]:
        """Send so many remembered frames as they are encoded now, class-balanced. Yields before each part of them.

        Nothing goes up while the link is behind.
        """
        waits = self._state.held is not None and self._state.held.waits
        sends = self._config.learning.encode_anew and not waits
        frames = self._state.memory.rehearsal.draw_one_by_one(most if sends else 0)
        while part := list(islice(frames, PREDICT_AT_ONCE)):
            yield
            _, quantized = self._state.trainer.evaluate(np.stack([one.image for one in part]))
            version = self._state.trainer.version
            self._sending.send_again(quantized, [one.name for one in part], [one.sample for one in part], version)

    def teach_a_new_cloud(self) -> Iterator[None]:
        """Send what is held back for want of room. Behind each lesson all that is remembered goes up."""
        yield from self._send_what_was_held()

    def test(self, batch: Batch) -> tuple[list[str], Quantized]:
        """Return what the exit names held-out frames, and what crosses of them. Raises Diverged."""
        return self._state.trainer.evaluate(batch.images)
