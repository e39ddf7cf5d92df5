"""Losses for learning new classes without unlearning old ones. Pure."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Of the DER++ paper, for CIFAR-10 with 500 frames.
DISTILLATION_WEIGHT = 0.2


def asymmetric_cross_entropy(logits: Tensor, labels: Tensor, fresh: int) -> Tensor:
    """Return the mean loss of a step whose first ``fresh`` samples are new and whose others are rehearsed.

    New samples compete only with the classes among them, rehearsed ones with all: a stream that shows nothing but cats
    would otherwise push every other class down (ER-ACE; Caccia et al., "New insights on reducing abrupt representation
    change in online continual learning", 2022). With one class, or nothing rehearsed, it is the plain loss.

    logits: float32 (N, classes). labels: int64 (N,).
    """
    met = torch.unique(labels[:fresh])
    if fresh == len(labels) or len(met) < 2:
        return F.cross_entropy(logits, labels)
    absent = torch.full_like(logits[:fresh], -torch.inf)
    absent[:, met] = 0
    competing = torch.cat([logits[:fresh] + absent, logits[fresh:]])
    return F.cross_entropy(competing, labels)


def distillation(logits: Tensor, before: Tensor) -> Tensor:
    """Return how far samples have moved from the logits they once had: the mean over each one's squares, over them all.

    What a network thought of a sample when it came says more of it than its label (DER++; Buzzega et al., "Dark
    experience for general continual learning", 2020). Of a class that came later nothing was thought.

    logits: float32 (N, classes). before: float32 (N, any number of them), NaN where there is none.
    """
    columns = min(logits.shape[1], before.shape[1])
    moved = logits[:, :columns] - before[:, :columns]
    known = torch.isfinite(moved)
    squares = torch.where(known, moved, 0).square().sum(dim=1) / known.sum(dim=1).clamp(min=1)
    return squares.sum() / known.any(dim=1).sum().clamp(min=1)
