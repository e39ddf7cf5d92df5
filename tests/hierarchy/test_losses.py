from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from hierarchy.losses import asymmetric_cross_entropy

LOGITS = torch.tensor([[1.0, 0.0, 5.0], [0.0, 2.0, 5.0], [0.5, 0.5, 0.0], [1.0, 1.0, 1.0]])


def gradient(labels: list[int], fresh: int) -> torch.Tensor:
    logits = LOGITS.clone().requires_grad_()
    torch.autograd.backward(asymmetric_cross_entropy(logits, torch.tensor(labels), fresh))
    assert logits.grad is not None
    return logits.grad


def test_new_samples_do_not_push_absent_classes_down() -> None:
    pushed = gradient([0, 1, 2, 2], fresh=2)
    assert pushed[:2, 2].tolist() == [0, 0], "the third class is not among the new samples"
    assert (pushed[2:, 2] < 0).all(), "rehearsed samples pull theirs up"
    assert torch.isfinite(pushed).all()


def test_it_is_the_mean_over_all_samples() -> None:
    labels = torch.tensor([0, 1, 2, 2])
    alone = F.cross_entropy(LOGITS[:2, :2], labels[:2]), F.cross_entropy(LOGITS[2:], labels[2:])
    assert asymmetric_cross_entropy(LOGITS, labels, 2).item() == pytest.approx((alone[0] + alone[1]).item() / 2)


@pytest.mark.parametrize(
    ("labels", "fresh"), [([1, 1, 2, 0], 2), ([1, 2, 2, 0], 1)], ids=["new samples of one class", "one new sample"]
)
def test_one_class_alone_is_learned_as_it_is_rehearsed(labels: list[int], fresh: int) -> None:
    remembered = F.cross_entropy(LOGITS[fresh:], torch.tensor(labels[fresh:]))
    assert torch.equal(asymmetric_cross_entropy(LOGITS, torch.tensor(labels), fresh), remembered)
    assert not gradient(labels, fresh)[:fresh].any()


@pytest.mark.parametrize(
    ("labels", "fresh"),
    [([0, 1, 2, 2], 4), ([1, 1, 1, 1], 4), ([0, 1, 2, 2], 0)],
    ids=["nothing rehearsed", "nothing rehearsed, one class", "nothing new"],
)
def test_else_it_is_the_plain_loss(labels: list[int], fresh: int) -> None:
    plain = F.cross_entropy(LOGITS, torch.tensor(labels))
    assert torch.equal(asymmetric_cross_entropy(LOGITS, torch.tensor(labels), fresh), plain)
