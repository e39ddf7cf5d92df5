"""The optimizer that both ends use."""

from __future__ import annotations

from torch import nn, optim

from hierarchy.device import Compute
from hierarchy.schedule import learning_rate

# The usual values for image classifiers since He et al. (2015).
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4

# A step smaller than this share of the usual ones says too little of mean and variance. The last step of a run may hold
# three samples, often of one class, and would bend BatchNorm's running statistics just before they count.
SHARE_FOR_STATISTICS = 0.25


def has_statistics(samples: int, usual: int) -> bool:
    """Whether a step should use, and update, batch statistics; else the running ones serve it.

    samples: in this step, of which one alone has no statistics. usual: in the largest step so far.
    """
    return samples > 1 and samples >= SHARE_FOR_STATISTICS * usual


def sgd(module: nn.Module, compute: Compute) -> optim.SGD:
    """Return SGD with Nesterov momentum over the parameters that learn."""
    return optim.SGD(
        [parameter for parameter in module.parameters() if parameter.requires_grad],
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        nesterov=True,
        # One pass over memory instead of four: on a CPU a tenth of a cloud step.
        fused=compute.device.type in {"cpu", "cuda"},
    )


def set_learning_rate(optimizer: optim.Optimizer, peak: float, *, steps: int, progress: float | None) -> None:
    """Set the rate of the next step; steps were taken so far, progress is the run's or None."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(peak, steps=steps, progress=progress)
