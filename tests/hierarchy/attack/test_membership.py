"""Which frames a network learned from is told by its losses, where it learned them by heart."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hierarchy.attack.membership import losses, membership_leak


def test_what_a_network_learned_by_heart_is_told_from_what_it_never_saw() -> None:
    torch.manual_seed(0)
    frames, labels = torch.randn(120, 48), torch.randint(0, 4, (120,))  # labels by chance: nothing but to memorise
    network = nn.Sequential(nn.Linear(48, 128), nn.ReLU(), nn.Linear(128, 4))

    def leak() -> float:
        with torch.no_grad():
            found = losses(network(frames).numpy(), labels.numpy())
        return membership_leak(found[:60], found[60:]).auroc

    assert 0.35 < leak() < 0.65
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(network(frames[:60]), labels[:60]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert leak() > 0.95


def test_losses_stay_apart_where_a_network_is_sure() -> None:
    logits = np.array([[30, 0, 0], [40, 0, 0], [0, 0, 0], [2000, 0, 0]], np.float32)
    sure, surer, unsure, surest = losses(logits, np.zeros(4, np.int64))
    assert surest <= surer < sure < 1e-12 < unsure
    assert np.isclose(unsure, np.log(3))
    assert np.isclose(losses(logits[3:], np.array([1]))[0], 2000)
