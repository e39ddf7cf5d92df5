"""What the cloud's tests share: batches as a robot sends them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.messages import ActivationBatch, SplitSpec
from broker.quantize import pack_activations, quantize


@pytest.fixture
def make_batch() -> Callable[..., ActivationBatch]:
    """Return a function that makes a batch of one sample for each class name."""

    def make(
        names: Sequence[str],
        split: SplitSpec,
        values: NDArray[np.float32] | None = None,
        *,
        boot: str = "b" * 16,
        sequence: int = 0,
        evaluation: int = 0,
        progress: float | None = None,
    ) -> ActivationBatch:
        if values is None:
            values = np.random.default_rng(sequence).standard_normal((len(names), *split.shape)).astype(np.float32)
        classes = tuple(dict.fromkeys(names))
        return ActivationBatch(
            boot=boot,
            sequence=sequence,
            split=split.fingerprint,
            evaluation=evaluation,
            progress=progress,
            edge_version=0,
            classes=classes,
            labels=np.array([classes.index(name) for name in names], np.uint16),
            activations=pack_activations(quantize(values, split.bits)),
        )

    return make
