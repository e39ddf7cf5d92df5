"""What learns on a network that stands still: each frame is encoded once, and the head is fitted to all encodings."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from broker.wire.quantize import Quantized
from hierarchy.edge import EdgeStep
from hierarchy.encoding import Encoding, joined
from robot_edge.learning.batcher import Batch
from robot_edge.run.checkpoint import RunState
from robot_edge.run.sending import Sending

# Frames for a fit. A batch may be all that a phase has, and is named before it is learned: by what was known of its
# first frames, too.
HANDFUL = 8
# Fits behind a replay or a lesson, each from where the last one ended. A fit that has nothing left to do takes one
# evaluation.
SETTLING_FITS = 5


class StillLearning:
    """Remembers what the network makes of each frame, and fits the head's rows to all of it at once."""

    def __init__(self, state: RunState, sending: Sending) -> None:
        self._state = state
        self._sending = sending

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

    def practice_due(self) -> int:
        """Return how many more fits there are behind a replay."""
        return SETTLING_FITS

    def re_encode_memory(self, most: int) -> Iterator[None]:
        """Send nothing: as each frame went up it would be encoded now."""
        yield from ()

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
