"""What activations tell beside the class: a probe learns an attribute, such as who or where, and names it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from hierarchy.attack.pairs import Scale, Values, as_map

# Channels of the probe, its steps, pairs in each, and Adam's rate.
WIDTH, STEPS, BATCH, RATE = 32, 300, 64, 2e-3
AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class AttributeLeak:
    """How often an attribute is named right. found: from activations, by the better of two probes.

    guessed: by whoever always names the one that is most frequent. from_class: by whoever knows the frame's class only,
    which the robot sends as it is; None where frames have no class. values: how many the attribute has.
    """

    found: float
    guessed: float
    from_class: float | None
    values: int

    @property
    def known_anyway(self) -> float:
        """How often it is named right without activations."""
        return max(self.guessed, self.from_class or 0.0)


def attribute_leak(
    own: Values,
    own_says: Sequence[str],
    attacked: Values,
    attacked_says: Sequence[str],
    *,
    own_classes: Sequence[str] | None = None,
    attacked_classes: Sequence[str] | None = None,
    seed: int = 0,
) -> AttributeLeak:
    """Return how well probes name an attribute that learned it from the attacker's own activations.

    own, attacked: float32 (N, C, ...), (M, C, ...). own_says, attacked_says: the attribute of each.
    own_classes, attacked_classes: what each shows.
    """
    names = sorted({*own_says, *attacked_says})
    learned, truth = (np.array([names.index(one) for one in says]) for says in (own_says, attacked_says))
    scale = Scale.of(own)
    probes = (_linear, _convolutional)
    # An attacker would choose by pairs set apart. The better one on the attacked is at least as good.
    shares = [float((probe(scale, own, learned, attacked, len(names), seed) == truth).mean()) for probe in probes]
    most_frequent = np.bincount(learned, minlength=len(names)).argmax()
    return AttributeLeak(
        found=max(shares),
        guessed=float((truth == most_frequent).mean()),
        from_class=_from_class(own_says, own_classes, attacked_says, attacked_classes),
        values=len(names),
    )


def _from_class(
    own_says: Sequence[str],
    own_classes: Sequence[str] | None,
    attacked_says: Sequence[str],
    attacked_classes: Sequence[str] | None,
) -> float | None:
    """Return how often an attribute is right that is the most frequent one of the frame's class."""
    if own_classes is None or attacked_classes is None:
        return None
    counts: dict[str, Counter[str]] = {}
    for name, says in zip(own_classes, own_says, strict=True):
        counts.setdefault(name, Counter())[says] += 1
    anyway = Counter(own_says).most_common(1)[0][0]
    guess = {name: count.most_common(1)[0][0] for name, count in counts.items()}
    pairs = zip(attacked_classes, attacked_says, strict=True)
    return float(np.mean([guess.get(name, anyway) == says for name, says in pairs]))


Labels = NDArray[np.int64]


def _linear(scale: Scale, own: Values, labels: Labels, attacked: Values, count: int, _seed: int) -> Labels:
    """Return what a least-squares classifier says, whose strength was chosen on pairs set apart."""
    known, asked = (torch.from_numpy(scale.applied(one).reshape(len(one), -1)) for one in (own, attacked))
    targets = F.one_hot(torch.from_numpy(labels), count).float()
    targets -= targets.mean(0)
    apart = max(1, len(own) // 5)
    rest = len(own) - apart
    # The kernel of samples serves any number of values, and a probe needs no more samples than these.
    rights = {}
    for strength in (0.01, 0.1, 1.0, 10.0):
        says = _solved(known[:rest], targets[:rest], known[rest:], strength)
        rights[strength] = float((says == torch.from_numpy(labels[rest:])).double().mean())
    best = max(rights, key=rights.__getitem__)
    answer: Labels = _solved(known, targets, asked, best).numpy()
    return answer


def _solved(known: torch.Tensor, targets: torch.Tensor, asked: torch.Tensor, strength: float) -> torch.Tensor:
    width = known.shape[1]
    if width <= len(known):
        matrix = known.T @ known + strength * len(known) * torch.eye(width)
        weights = torch.cholesky_solve(known.T @ targets, torch.linalg.cholesky(matrix))
        return (asked @ weights).argmax(1)
    matrix = known @ known.T + strength * len(known) * torch.eye(len(known))
    weights = torch.cholesky_solve(targets, torch.linalg.cholesky(matrix))
    return ((asked @ known.T) @ weights).argmax(1)


def _convolutional(scale: Scale, own: Values, labels: Labels, attacked: Values, count: int, seed: int) -> Labels:
    """Return what a small convolutional network says."""
    inputs, asked = (torch.from_numpy(as_map(scale.applied(one))) for one in (own, attacked))
    targets, rng = torch.from_numpy(labels), np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(inputs.shape[1], WIDTH, 3, padding=1),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(inplace=True),
            nn.Conv2d(WIDTH, 2 * WIDTH, 3, padding=1),
            nn.BatchNorm2d(2 * WIDTH),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * WIDTH, count),
        )
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-2)
    network.train()
    for _ in range(STEPS):
        chosen = torch.from_numpy(rng.choice(len(own), min(BATCH, len(own)), replace=False))
        loss = F.cross_entropy(network(inputs[chosen]), targets[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    network.eval()
    with torch.inference_mode():
        answer: Labels = (
            torch.cat([network(asked[start : start + AT_ONCE]) for start in range(0, len(asked), AT_ONCE)])
            .argmax(1)
            .numpy()
        )
    return answer
