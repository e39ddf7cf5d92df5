"""Whether a network tells which frames it learned from: its loss on them is lower. numpy only.

Yeom, Giacomelli, Fredrikson and Jha, "Privacy risk in machine learning", 2018; the share at few false alarms as in
Carlini et al., "Membership inference attacks from first principles", 2022.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hierarchy.calibration import auroc

# Of frames that were never learned from, the share that may be taken for learned ones.
FALSE_ALARMS = 0.01


@dataclass(frozen=True, kw_only=True)
class MembershipLeak:
    """auroc: 0.5 where nothing tells, 1 where a loss tells all. sure: the share of learned frames that is told at
    FALSE_ALARMS; that much is chance. frames: of either kind, the lesser number.
    """

    auroc: float
    sure: float
    frames: int


def membership_leak(learned: NDArray[np.float64], others: NDArray[np.float64]) -> MembershipLeak:
    """Return how well losses (N,) of frames that were learned from are told from losses (M,) of others like them."""
    limit = np.quantile(others, FALSE_ALARMS)
    return MembershipLeak(
        auroc=auroc(learned, others),
        sure=float((learned < limit).mean()),
        frames=min(len(learned), len(others)),
    )


def losses(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the cross-entropy of logits (N, classes) at labels (N,), exact also where a network is sure."""
    exact = logits.astype(np.float64)
    exact -= exact.max(1, keepdims=True)
    own = np.take_along_axis(exact, labels[:, None], 1)[:, 0]
    others = exact.copy()
    np.put_along_axis(others, labels[:, None], -np.inf, 1)
    # log(1 + sum of others / own), which keeps losses apart that are all about 1e-12.
    with np.errstate(over="ignore"):
        ratio = np.exp(others - own[:, None]).sum(1)
    found: NDArray[np.float64] = np.where(np.isfinite(ratio), np.log1p(ratio), exact.max(1) - own)
    return found
