"""Losses for learning new classes without unlearning old ones. Pure."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def asymmetric_cross_entropy(logits: Tensor, labels: Tensor, fresh: int) -> Tensor:
    """Return the mean loss of a step whose first ``fresh`` samples are new and whose others are rehearsed.

    New samples compete only with the classes among them, rehearsed ones with all: a stream that shows nothing but cats
    would otherwise push every other class down (ER-ACE; Caccia et al., "New insights on reducing abrupt representation
    change in online continual learning", 2022). Of one class there is nothing to compete with: it is learned as it is
    rehearsed. With nothing rehearsed it is the plain loss.

    logits: float32 (N, classes). labels: int64 (N,).
    """
    if fresh == len(labels):
        return F.cross_entropy(logits, labels)
    met = torch.unique(labels[:fresh])
    if len(met) < 2:
        return F.cross_entropy(logits[fresh:], labels[fresh:])
    absent = torch.full_like(logits[:fresh], -torch.inf)
    absent[:, met] = 0
    competing = torch.cat([logits[:fresh] + absent, logits[fresh:]])
    return F.cross_entropy(competing, labels)
