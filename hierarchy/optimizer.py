"""The optimizer that both ends use."""

from __future__ import annotations

from torch import nn, optim

from hierarchy.device import Compute
from hierarchy.schedule import WARM_UP_STEPS, learning_rate

# The usual values for image classifiers since He et al. (2015).
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
# Of the rate, for a pretrained front beside layers that begin at random: at the whole rate the first steps undo it.
PRETRAINED_SHARE = 0.1

# A step smaller than this share of the usual ones says too little of mean and variance. The last step of a run may hold
# three samples, often of one class, and would bend BatchNorm's running statistics just before they count.
SHARE_FOR_STATISTICS = 0.25


def has_statistics(samples: int, usual: int) -> bool:
    """Whether a step should use, and update, batch statistics; else the running ones serve it.

    samples: in this step, of which one alone has no statistics. usual: in the largest step so far.
    """
    return samples > 1 and samples >= SHARE_FOR_STATISTICS * usual


def sgd(module: nn.Module, compute: Compute, slow: nn.Module | None = None) -> optim.SGD:
    """Return SGD with Nesterov momentum over the parameters that learn.

    slow: the part of the module that learns at PRETRAINED_SHARE of the rate.
    """
    apart = {id(parameter) for parameter in slow.parameters()} if slow else set()
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [one for one in learning if id(one) not in apart], "share": 1.0},
        {"params": [one for one in learning if id(one) in apart], "share": PRETRAINED_SHARE},
    ]
    return optim.SGD(
        [group for group in groups if group["params"]],
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        nesterov=True,
        # One pass over memory instead of four: on a CPU a tenth of a cloud step.
        fused=compute.device.type in {"cpu", "cuda"},
    )


def set_learning_rate(
    optimizer: optim.Optimizer, peak: float, *, steps: int, progress: float | None, warm_up: int = WARM_UP_STEPS
) -> None:
    """Set the rate of the next step; steps were taken so far, progress is the run's or None."""
    for group in optimizer.param_groups:
        group["lr"] = group["share"] * learning_rate(peak, steps=steps, progress=progress, warm_up=warm_up)
