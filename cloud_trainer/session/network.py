"""A cloud segment in training: samples that wait, steps on them, rehearsal and predictions. Knows no events."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from broker.errors import MalformedMessage
from broker.wire.quantize import Quantized, dequantize
from cloud_trainer.session.batches import Reader, StoredSamples
from cloud_trainer.session.sample_memory import SampleMemory, SampleRef
from cloud_trainer.session.session_state import SessionState
from cloud_trainer.session.still_learning import StillLearning
from cloud_trainer.session.waiting_samples import Waiting, WaitingSamples, take
from hierarchy.cloud import CloudStep, CloudTrainer
from hierarchy.exit_rows import crossing_features

# Samples that idle rehearsal may be owed for at most: it lets the network settle, and is no second training. With
# --practice 0.5 that is 100 steps. With 300 more of a robot's samples were known by heart, and fewer others recognised:
# from some frames the robot's half has learned more than it knows of others, and the cloud learns to rely on that.
MAX_UNREHEARSED = 200
# Samples predicted at a time in an evaluation, and no more than a step has; a message may hold thousands of small ones.
PREDICT_AT_ONCE = 256

# What was learned from: places of fresh samples, and whether each was named right before.
Learned = list[tuple[SampleRef, bool]]


class Network:
    """Learns in steps of its own size.

    batch: samples in a step, fresh and rehearsed together. How many a message holds follows the link; how many a
    step takes follows the optimizer. loss: of the last step. problem: why samples could not be learned from; blamed:
    the number of the robot whose they are. idle_steps: taken since the last fresh sample.
    """

    def __init__(
        self,
        trainer: CloudTrainer,
        *,
        batch: int,
        memory: int,
        seed: int,
        read: Reader,
        still: bool = False,
    ) -> None:
        """memory: samples to rehearse from; they stay in the store. read: from the store.

        still: whether the network stands still but for its head, which is then fitted to all samples at once.
        """
        self.trainer = trainer
        self.batch = batch
        self.loss: float | None = None
        self.problem = ""
        self.blamed = 0
        self.idle_steps = 0
        self.waiting = WaitingSamples()
        self.memory = SampleMemory(memory, seed)
        self.stored = StoredSamples(read)
        self.still = StillLearning(trainer, self.memory, self.stored) if still else None
        self._unrehearsed = 0.0  # samples that idle rehearsal is owed for

    def idle_steps_due(self, per_sample: float) -> int:
        """Return the steps of rehearsal alone that are due, where each fresh sample is worth so many."""
        if self.still:
            return self.still.fits_due(self.idle_steps) if per_sample else 0
        return int(self._unrehearsed * per_sample) if len(self.memory) else 0

    def rehearsed(self, share_left: float) -> None:
        """Note that of what idle rehearsal is owed for this share is left."""
        self._unrehearsed *= share_left

    @property
    def is_behind(self) -> bool:
        """Whether samples wait to be learned from."""
        return bool(self.waiting) or (self.still is not None and self.still.unfitted > 0)

    @property
    def rehearses(self) -> bool:
        """Whether idle rehearsal was the last that it learned from."""
        return self.idle_steps > 0

    # Samples

    def encode(self, event: int, quantized: Quantized) -> bool:
        """Compute a batch's features, where they are kept; False, and ``problem`` says why, where they are infinite."""
        try:
            if self.still:
                self.still.take_in(event, quantized)
        except MalformedMessage as error:
            self.problem = str(error)
        return not self.problem

    def features_of(self, refs: Sequence[SampleRef]) -> NDArray[np.float16]:
        """Return what stored samples look like, N > 0: float16 (N, F) that mean the same for as long as the front does.

        Raises ConfigError where the store lacks one, and MalformedMessage where they are infinite.
        """
        if self.still:
            return self.still.of(refs)
        return np.concatenate([crossing_features(dequantize(one)) for one in self.stored.at(refs)])

    def tidy(self, tests: Sequence[int], tested: int) -> None:
        """Let go of features that nobody needs. tests: events of samples that are tested again; tested: how many."""
        if self.still:
            self.still.tidy([one.ref for one in self.waiting.fresh + self.waiting.re_encoded], tests, tested)

    def store_re_encoded(self, count: int) -> None:
        """Leave re-encoded samples, the first so many, to idle rehearsal: no step is waiting for them."""
        for one in take(self.waiting.re_encoded, count):
            self.memory.add(one.name, one.ref)
            self.owe(1)
            if self.still:
                self.still.unfitted += 1

    def give_up(self, gone: Callable[[str, SampleRef], bool]) -> None:
        """Neither train on nor rehearse samples that are gone."""
        self.memory.forget(gone)
        self.waiting.give_up(gone)

    def owe(self, samples: int) -> None:
        """Note that idle rehearsal is owed for so many samples more."""
        self._unrehearsed = min(self._unrehearsed + samples, MAX_UNREHEARSED)

    # Steps

    def fresh_per_step(self, rehearse: float) -> int:
        """Return how many fresh samples a step takes. rehearse: rehearsed ones for each of them."""
        return max(1, round(self.batch / (1 + rehearse)))

    def step(self, rehearse: float, progress: float | None) -> Learned:
        """Learn from fresh samples that wait. progress: of the stream, None where it has no end."""
        fresh = take(self.waiting.fresh, self.fresh_per_step(rehearse))
        if self.still:
            return self._learn_still(self.still, fresh)
        count = round(len(fresh) * rehearse)
        # First what the robot rehearses itself: it is as its segment encodes now.
        re_encoded = take(self.waiting.re_encoded, count)
        stored = self.memory.draw(count - len(re_encoded))
        names = [one.name for one in fresh + re_encoded] + [name for name, _ in stored]
        samples = [one.activation for one in fresh + re_encoded] + self.stored.at([ref for _, ref in stored])
        step = self._learn(samples, names, fresh=len(fresh), progress=progress)
        if step is None:
            self._put_back(fresh, re_encoded)
            return []
        self.loss = step.loss
        self.idle_steps = 0
        self.owe(len(fresh))
        for one in fresh + re_encoded:
            self.memory.add(one.name, one.ref)
        return _learned(fresh, step.correct.tolist())

    def _put_back(self, fresh: list[Waiting], re_encoded: list[Waiting]) -> None:
        """Let samples that no step could learn from wait again, but for those of the robot whose values are largest."""
        largest = max((*fresh, *re_encoded), key=lambda one: float(np.abs(dequantize(one.activation)).max()))
        self.blamed = largest.ref.member
        for queue, taken in ((self.waiting.fresh, fresh), (self.waiting.re_encoded, re_encoded)):
            queue[:0] = [one for one in taken if one.ref.member != self.blamed]

    def rehearse(self, progress: float) -> bool:
        """Take one step on stored samples alone; False where there are none, or they would make weights infinite."""
        if self.still:
            return self.fit()
        drawn = self.memory.draw(self.batch)
        samples, names = self.stored.at([ref for _, ref in drawn]), [name for name, _ in drawn]
        # As on the robot: a constant rate would leave the network wherever the last steps took it.
        return bool(drawn) and self._learn(samples, names, fresh=0, progress=progress) is not None

    def fit(self) -> bool:
        """Fit the head to all samples, where nothing else learns; whether there were any."""
        loss = self.still.fit() if self.still else None
        self.loss = self.loss if loss is None else loss
        return loss is not None

    def _learn_still(self, still: StillLearning, fresh: list[Waiting]) -> Learned:
        correct = still.learn([one.name for one in fresh], [one.ref for one in fresh])
        self.idle_steps = 0
        if still.is_due:
            self.fit()
        return _learned(fresh, correct)

    def _learn(
        self, samples: list[Quantized], names: list[str], *, fresh: int, progress: float | None
    ) -> CloudStep | None:
        """Take a step; None, and ``problem`` says why, where these samples would make the weights infinite."""
        activations = np.concatenate([dequantize(sample) for sample in samples])
        try:
            return self.trainer.step(activations, names, fresh=fresh, progress=progress)
        except MalformedMessage as error:
            self.problem = str(error)
            return None

    # Predictions

    def predict(self, event: int, quantized: Quantized) -> Generator[None, None, list[str]]:
        """Return what the samples of an event are taken for; may be interrupted between parts of them."""
        predicted = self._named(self.still, event, quantized) if self.still else []
        at_once = min(PREDICT_AT_ONCE, self.batch)
        for start in range(len(predicted), len(quantized), at_once):
            predicted += self.trainer.predict(dequantize(quantized[start : start + at_once]))
            yield
        return predicted

    def _named(self, still: StillLearning, event: int, quantized: Quantized) -> list[str]:
        """Return what samples are taken for; for nothing, and ``problem`` says why, where features are infinite."""
        try:
            return still.predict(event, quantized)
        except MalformedMessage as error:
            self.problem = str(error)
            return [""] * len(quantized)

    # Checkpoints

    @property
    def owed(self) -> float:
        """What a checkpoint must hold of what idle rehearsal, or a fit, is owed for, in samples."""
        return self.still.unfitted if self.still else self._unrehearsed

    def restore(self, saved: SessionState) -> None:
        """Go on from a checkpoint.

        Raises RuntimeError where it is another network's, and ConfigError where the store lacks what it refers to.
        """
        self.trainer.learner.restore(saved.learner)
        self.memory.restore(saved.memory)
        if (oldest := self.memory.oldest_event()) is not None:
            self.stored.check(oldest)  # the oldest go first: where it is there, all are
        self.waiting.restore(saved.waiting, self.stored.at)
        self.loss, self.idle_steps, self._unrehearsed = saved.loss, saved.idle_steps, saved.unrehearsed
        if self.still:
            self.still.unfitted = int(saved.unrehearsed)


def _learned(fresh: Sequence[Waiting], correct: Sequence[bool]) -> Learned:
    return [(one.ref, right) for one, right in zip(fresh, correct, strict=True)]
