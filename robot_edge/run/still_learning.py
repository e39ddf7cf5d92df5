"""What learns on a network that stands still: each frame is encoded once, and the head is fitted to all encodings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from broker.wire.quantize import Quantized
from hierarchy.edge import EdgeStep
from hierarchy.encoding import Encoding, joined
from robot_edge.learning.batcher import Batch
from robot_edge.learning.held_out import PREDICT_AT_ONCE
from robot_edge.run.checkpoint import RunState
from robot_edge.run.release import Release
from robot_edge.run.sending import Sending

# Frames for a fit. A batch may be all that a phase has, and is named before it is learned: by what was known of its
# first frames, too.
HANDFUL = 8
# Fits behind a replay or a lesson, each from where the last one ended. A fit that has nothing left to do takes one
# evaluation.
SETTLING_FITS = 5
# Frames that the front is attacked with, once: each takes as long as it takes to see it.
FRAMES_ATTACKED = 400
# How long a cloud has to know fewer classes than the robot: what it says of itself is some seconds old.
LACKING_SECONDS = 15.0


class StillLearning:
    """Remembers what the network makes of each frame, and fits the head's rows to all of it at once."""

    def __init__(self, state: RunState, sending: Sending, clock: Callable[[], float] = time.monotonic) -> None:
        self._state = state
        self._sending = sending
        self._clock = clock
        self._release = Release(state, FRAMES_ATTACKED)
        self._lacks_since: float | None = None
        self._sent_at = 0  # images that the cloud had learned when it was last sent all

    def learn(self, batch: Batch, *, rehearsed: int) -> EdgeStep:
        """Send what is new of a batch, then learn it by the handful. Raises Diverged.

        A handful is named, remembered, and the head is fitted to all that is remembered.
        """
        self._sending.spare_the_link()
        state, encoding = self._state, self._encoding(batch)
        quantized = encoding.quantized(state.trainer.bits)
        if self._sending.is_new(batch):
            self._sending.send(batch, quantized, state.trainer.version)
        handfuls = [slice(start, start + HANDFUL) for start in range(0, len(batch.names), HANDFUL)]
        losses, named = zip(*(self._learn(batch, encoding, rows) for rows in handfuls), strict=True)
        correct = np.array([name for names in named for name in names]) == np.array(batch.names)
        step = EdgeStep(loss=losses[-1], correct=correct, quantized=quantized)
        state.metrics.add(step)
        state.batcher.learned()
        self._release.review()
        return step

    def _learn(self, batch: Batch, encoding: Encoding, rows: slice) -> tuple[float, list[str]]:
        """Learn a handful of a batch; return the loss, and what the frames were taken for before."""
        state, numbers, names = self._state, self._sending.numbers(batch)[rows], batch.names[rows]
        named = state.trainer.evaluate_encoded(encoding[rows])[0] if state.trainer.classes else [""] * len(names)
        for row, (name, number) in enumerate(zip(names, numbers, strict=True), rows.start):
            state.memory.rehearsal.add(name, batch.images[row], batch.session, number, encoding[row : row + 1])
        return self._fit(), named

    def practise(self, progress: float | None) -> float | None:
        """Fit the head once more, from where it is on, and return the loss; None where no frames are kept."""
        return self._fit() if len(self._state.memory.rehearsal) else None

    def release(self) -> Iterator[None]:
        """Attack the front if it was not yet. What stands still holds nothing back."""
        self._release.review(at_an_end=True)
        yield from ()

    def practice_due(self) -> int:
        """Return how many more fits there are behind a replay."""
        return SETTLING_FITS

    def re_encode_memory(self, most: int) -> Iterator[None]:
        """Send frames of a former run, which the cloud may never have got. All others went up as they are encoded now.

        Yields before each part of them.
        """
        if self._state.memory.inherited and self._sending.cloud_classes < len(self._state.trainer.classes):
            yield from self._send_memory(most)

    def teach_a_new_cloud(self) -> Iterator[None]:
        """Send what is remembered to a cloud that has learned all that came, and for a while has known fewer classes.

        Its network is a new one: another trainer's, or the store was lost. It is sent once. Yields before each part.
        """
        if not self._cloud_lacks():
            self._lacks_since = None
        elif self._lacks_since is None:
            self._lacks_since = self._clock()
        elif self._clock() >= self._lacks_since + LACKING_SECONDS:
            self._lacks_since, self._sent_at = None, self._sending.cloud_images
            yield from self._send_memory(len(self._state.memory.rehearsal))

    def _cloud_lacks(self) -> bool:
        """Whether the cloud knows fewer classes, and nothing is on its way that it could learn them from."""
        cloud, known = self._sending.cloud_classes, len(self._state.trainer.classes)
        was_sent = self._sent_at and self._sending.cloud_images >= self._sent_at
        return self._sending.cloud_has_all and cloud < known and not was_sent

    def _send_memory(self, most: int) -> Iterator[None]:
        frames = self._state.memory.rehearsal.draw_one_by_one(most)
        while part := list(islice(frames, PREDICT_AT_ONCE)):
            yield
            encoding = self._state.trainer.encode(np.stack([one.image for one in part]))
            quantized = encoding.quantized(self._state.trainer.bits)
            names, samples = [one.name for one in part], [one.sample for one in part]
            self._sending.send_again(quantized, names, samples, self._state.trainer.version)

    def test(self, batch: Batch) -> tuple[list[str], Quantized]:
        """Return what the exit names held-out frames, and what crosses of them. Raises Diverged."""
        return self._state.trainer.evaluate_encoded(self._encoding(batch))

    def _fit(self) -> float:
        names, encoding = self._state.memory.rehearsal.encodings()
        return self._state.trainer.learner.fit(encoding.features, names)

    def _encoding(self, batch: Batch) -> Encoding:
        """Return the encoding of a batch: as it was seen, and computed now where nobody has seen it."""
        known = batch.encodings or [None] * len(batch.names)
        missing = [row for row, one in enumerate(known) if one is None]
        if missing:
            new = self._state.trainer.encode(batch.images[missing])
            places = {row: new[place : place + 1] for place, row in enumerate(missing)}
            known = [one or places[row] for row, one in enumerate(known)]
        return joined([one for one in known if one is not None])
