"""What a session learns with where its network stands still but for the head. No I/O.

The network makes the same of a sample whenever it is asked. So features are computed once for each, and again behind a
restart, and the head is fitted to those of all samples at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from broker.wire.quantize import Quantized, dequantize
from cloud_trainer.session.batches import StoredSamples
from cloud_trainer.session.evaluation_rounds import MAX_TESTED_AGAIN
from cloud_trainer.session.sample_memory import SampleMemory, SampleRef
from hierarchy.cloud import CloudTrainer

# Bytes of the features of all samples that are rehearsed: 25,000 with 1,280 features in two bytes each.
MAX_FEATURE_BYTES = 64_000_000
# Samples in one forward pass. The rows of an event are always passed in the same parts, so a restart computes the same
# bits: how many there are decides how a library sums them up.
AT_ONCE = 64
# Samples beside those that are needed that are kept before they are looked for.
SLACK = 1024
# Fits behind the last sample, each from where the one before ended.
SETTLING_FITS = 5
# Samples that are known already, for each new one, before there is another fit: a fit takes as long as there are many.
# Where nothing more comes there is one at once.
FITTED_ONCE_IN = 16


def most_kept(features: int) -> int:
    """Return of how many samples features are kept, float16 (features,)."""
    return MAX_FEATURE_BYTES // (2 * features)


class StillLearning:
    """Features of stored samples, by the event that a sample is in and its row there, and the fit to them.

    unfitted: samples that came since the last fit; a checkpoint holds them.
    """

    def __init__(self, trainer: CloudTrainer, memory: SampleMemory, stored: StoredSamples) -> None:
        self.unfitted = 0
        self._trainer = trainer
        self._memory = memory
        self._stored = stored
        self._kept: dict[tuple[int, int], NDArray[np.float16]] = {}

    def take_in(self, event: int, quantized: Quantized) -> None:
        """Compute the features of all samples of an event. Raises MalformedMessage where they are infinite."""
        for start in range(0, len(quantized.codes), AT_ONCE):
            found = self._trainer.features(dequantize(quantized[start : start + AT_ONCE]))
            self._kept |= {(event, start + row): one for row, one in enumerate(found)}

    def learn(self, names: Sequence[str], refs: Sequence[SampleRef]) -> list[bool]:
        """Take in new samples; return which of them were named right before."""
        named = self._trainer.named(self.of(refs))
        for name, ref in zip(names, refs, strict=True):
            self._memory.add(name, ref)
        self.unfitted += len(refs)
        return [guess == name for guess, name in zip(named, names, strict=True)]

    @property
    def is_due(self) -> bool:
        """Whether so much came that it is worth a fit, though more may come at once."""
        return self.unfitted * FITTED_ONCE_IN >= len(self._memory)

    def fit(self) -> float | None:
        """Fit the head's rows to all samples, from where they are on; return the loss, None where there are none."""
        self.unfitted = 0
        known = self._memory.all()
        if not known:
            return None
        return self._trainer.learner.fit(self.of([ref for _, ref in known]), [name for name, _ in known])

    def fits_due(self, taken: int) -> int:
        """Return the fits that are left behind the last sample, of which so many were taken."""
        return max(0, SETTLING_FITS - taken) if len(self._memory) else 0

    def predict(self, event: int, quantized: Quantized) -> list[str]:
        """Return what the samples of an event are taken for. Raises MalformedMessage where features are infinite."""
        return self._trainer.named(self.features(event, quantized)) if len(quantized.codes) else []

    def features(self, event: int, quantized: Quantized) -> NDArray[np.float16]:
        """Return the features (N, F) of the samples of an event, N > 0.

        They are kept until `tidy` finds that nobody tests them again. Raises MalformedMessage where they are infinite.
        """
        places = [(event, row) for row in range(len(quantized.codes))]
        if not all(place in self._kept for place in places):
            self.take_in(event, quantized)
        return np.stack([self._kept[place] for place in places])

    def tidy(self, waiting: Sequence[SampleRef], tests: Sequence[int], tested: int) -> None:
        """Let go of features that are of no sample that is stored, waits or is tested, where there are many."""
        most_needed = len(self._memory) + len(waiting) + min(tested, MAX_TESTED_AGAIN)
        if len(self._kept) <= 2 * most_needed + SLACK:
            return
        needed = {(ref.event, ref.row) for ref in [*(ref for _, ref in self._memory.all()), *waiting]}
        whole = self._tested_again(tests)
        self._kept = {place: one for place, one in self._kept.items() if place in needed or place[0] in whole}

    def _tested_again(self, tests: Sequence[int]) -> set[int]:
        """Return the events of tests whose features are kept: of one robot all, of many as many samples at most."""
        rows, whole, left = Counter(event for event, _ in self._kept), set[int](), MAX_TESTED_AGAIN
        for event in tests:
            if left <= 0:
                break
            whole.add(event)
            left -= rows[event]
        return whole

    def of(self, refs: Sequence[SampleRef]) -> NDArray[np.float16]:
        """Return the features (N, F) of stored samples, N > 0. Raises ConfigError and MalformedMessage."""
        # Behind a restart they are computed once more: here, as a large network takes minutes for all of them.
        for event in sorted({ref.event for ref in refs if (ref.event, ref.row) not in self._kept}):
            self.take_in(event, self._stored.batch(event).quantized)
        return np.stack([self._kept[ref.event, ref.row] for ref in refs])
