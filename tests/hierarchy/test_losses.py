from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from hierarchy.losses import logit_adjusted_cross_entropy

LOGITS = torch.tensor([[1.0, 0.0, 5.0], [0.0, 2.0, 5.0], [0.5, 0.5, 0.0], [1.0, 1.0, 1.0]])


def gradient(logits: torch.Tensor, labels: list[int], fresh: int) -> torch.Tensor:
    logits = logits.clone().requires_grad_()
    torch.autograd.backward(logit_adjusted_cross_entropy(logits, torch.tensor(labels), fresh))
    assert logits.grad is not None
    return logits.grad


def test_logits_are_raised_by_how_often_their_class_comes() -> None:
    labels = torch.tensor([0, 0, 1, 2])
    # Of the two rehearsed samples two thirds of one of each class; two new ones of the first, and each sees the other.
    seen = torch.tensor([1 + 2 / 3, 2 / 3, 2 / 3]), torch.tensor([2 + 2 / 3, 2 / 3, 2 / 3])
    raised = LOGITS + torch.stack([seen[0], seen[0], seen[1], seen[1]]).log()
    wanted = F.cross_entropy(raised, labels)
    assert logit_adjusted_cross_entropy(LOGITS, labels, 2).item() == pytest.approx(wanted.item())


def test_a_stream_of_one_class_has_nothing_to_teach_a_network_that_knows_no_more_than_how_often_it_comes() -> None:
    """Else its row would grow with each step, and all others' shrink."""
    knows_nothing = torch.zeros(64, 4)
    labels = [3] * 32 + [0, 1, 2, 3] * 8
    pushed = gradient(knows_nothing, labels, fresh=32)
    assert pushed.sum(0).abs().max() < 0.01
    plain = F.softmax(knows_nothing, dim=1).sum(0) / 64 - torch.bincount(torch.tensor(labels)) / 64
    assert plain[3] < -0.3, "the plain loss would"


def test_one_new_sample_of_a_class_is_no_sign_that_the_class_comes_often() -> None:
    labels = list(range(32)) + list(range(32))
    pushed = gradient(torch.zeros(64, 1000), labels, fresh=32)
    own = pushed[range(32), labels[:32]]
    others_among_the_new = pushed[0, 1:32]
    assert own.max() < -0.99 / 64, "it is learned as with the plain loss"
    assert (others_among_the_new > 0).all()


def test_what_is_shown_is_learned_all_the_same() -> None:
    pushed = gradient(torch.zeros(4, 2), [1, 1, 0, 1], fresh=2)
    assert (pushed[:2, 1] < 0).all()
    assert (pushed[:2, 0] > 0).all()


def test_a_class_that_nothing_in_the_step_shows_stays_finite() -> None:
    pushed = gradient(torch.zeros(3, 200), [7, 7, 8], fresh=2)
    assert torch.isfinite(pushed).all()
    loss = logit_adjusted_cross_entropy(torch.zeros(3, 200), torch.tensor([7, 7, 8]), 2)
    assert math.isfinite(loss.item())


@pytest.mark.parametrize(
    ("labels", "fresh"),
    [([0, 1, 2, 2], 4), ([1, 1, 1, 1], 4), ([0, 1, 2, 2], 0)],
    ids=["nothing rehearsed", "nothing rehearsed, one class", "nothing new"],
)
def test_else_it_is_the_plain_loss(labels: list[int], fresh: int) -> None:
    plain = F.cross_entropy(LOGITS, torch.tensor(labels))
    loss = logit_adjusted_cross_entropy(LOGITS, torch.tensor(labels), fresh)
    assert loss.item() == pytest.approx(plain.item())
