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
    # Two new samples of the first class, and of the two rehearsed ones two thirds of one each.
    shares = torch.tensor([(2 + 2 / 3) / 4, (2 / 3) / 4, (2 / 3) / 4])
    wanted = F.cross_entropy(LOGITS + shares.log(), labels)
    assert logit_adjusted_cross_entropy(LOGITS, labels, 2).item() == pytest.approx(wanted.item())


def test_a_stream_of_one_class_has_nothing_to_teach_a_network_that_knows_no_more_than_how_often_it_comes() -> None:
    """Else its row would grow with each step, and all others' shrink."""
    knows_nothing = torch.zeros(8, 4)
    pushed = gradient(knows_nothing, [3, 3, 3, 3, 0, 1, 2, 3], fresh=4)
    assert torch.allclose(pushed.sum(0), torch.zeros(4), atol=1e-7)
    plain = F.softmax(knows_nothing, dim=1).sum(0) / 8 - torch.tensor([1, 1, 1, 5]) / 8
    assert plain[3] < -0.3, "the plain loss would"


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
