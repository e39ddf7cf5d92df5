"""Learning rates: one-cycle where the length of the run is known, warm-up and then constant where it is not. Pure."""

from __future__ import annotations

import math

# One-cycle (Smith, "Super-convergence", 2018) with the shape PyTorch's OneCycleLR has by default.
RISE = 0.3
START_DIVISOR = 25.0
END_DIVISOR = 1e5
# Steps until the statistics of a fresh network have settled.
WARM_UP_STEPS = 100
# And of a pretrained one, whose statistics have.
NO_WARM_UP = 1


def learning_rate(peak: float, *, steps: int, progress: float | None, warm_up: int = WARM_UP_STEPS) -> float:
    """Return the learning rate of the next step.

    steps: how many were taken so far. progress: share of the run that is over, 0 to 1, or None where it has no end.
    warm_up: steps in which the rate rises to its peak where the run has no end.
    """
    if progress is None:
        return peak * min(1.0, (steps + 1) / warm_up)
    if progress < RISE:
        return _cosine(peak / START_DIVISOR, peak, progress / RISE)
    return _cosine(peak, peak / END_DIVISOR, (progress - RISE) / (1 - RISE))


def settling(done: float, due: float) -> float:
    """Return the progress of practice with which the rate falls from its peak to nothing as what is due gets done.

    done: steps of practice since the last lesson. due: steps still to be taken, of which the next is one.
    """
    return RISE + (1 - RISE) * done / (done + due)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
