"""A loss for learning new classes without unlearning old ones. Pure."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def logit_adjusted_cross_entropy(logits: Tensor, labels: Tensor, fresh: int) -> Tensor:
    """Return the mean loss of a step whose first ``fresh`` samples are new, the others rehearsed, each class as often.

    A stream that shows nothing but cats makes "cat" the best guess at anything. So each logit is raised by the
    logarithm of its class's share of the step, and what is left to learn is what a sample itself says (Menon et al.,
    "Long-tail learning via logit adjustment", 2021; Huang et al., "Online class incremental learning with logit
    adjusted softmax", 2023). With nothing rehearsed, or nothing new, it is the plain loss.

    The share is of the other samples: counted in, a new sample would raise its own class's logit, by much where there
    are hundreds of classes and one sample of each.

    logits: float32 (N, classes). labels: int64 (N,).
    """
    rehearsed, classes = len(labels) - fresh, logits.shape[1]
    if not rehearsed:
        return F.cross_entropy(logits, labels)
    others = torch.bincount(labels[:fresh], minlength=classes).repeat(len(labels), 1)
    others[:fresh] -= F.one_hot(labels[:fresh], classes)
    return F.cross_entropy(logits + (others + rehearsed / classes).log(), labels)
