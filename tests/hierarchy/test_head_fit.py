from __future__ import annotations

import pytest
import torch
from torch import Tensor

import hierarchy.head_fit
from hierarchy.exits import LENGTH
from hierarchy.head import GrowingHead
from hierarchy.head_fit import LEAST_EVALUATIONS, fit_rows

FEATURES = 64


def around(centre: int, count: int, seed: int, noise: float = 0.6) -> Tensor:
    """Features of a class: a direction of its own, and noise."""
    centres = torch.randn(200, FEATURES, generator=torch.Generator().manual_seed(0))
    noisy = centres[centre] + noise * torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(noisy, dim=1) * LENGTH


def share_right(head: GrowingHead, classes: int) -> list[float]:
    with torch.no_grad():
        return [float((head(around(one, 50, seed=99)).argmax(1) == one).float().mean()) for one in range(classes)]


def grown(classes: int) -> GrowingHead:
    torch.manual_seed(0)
    head = GrowingHead(FEATURES)
    head.grow([str(one) for one in range(classes)], None)
    return head


def fit(head: GrowingHead, counts: list[int], noise: float = 0.6) -> float:
    features = torch.cat([around(one, count, seed=one, noise=noise) for one, count in enumerate(counts)])
    return fit_rows(head, features, torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)))


def test_one_frame_of_a_class_is_enough_to_know_it_beside_hundreds_of_another() -> None:
    head = grown(3)
    loss = fit(head, [300, 20, 1])
    assert loss < 0.1
    assert min(share_right(head, 3)) > 0.9


def test_a_few_evaluations_are_enough_from_where_the_last_fit_ended() -> None:
    head = grown(20)
    fit(head, [10] * 20)
    again = fit(head, [11] * 20)
    assert again < 0.2
    assert min(share_right(head, 20)) > 0.9


def test_rows_of_classes_that_nothing_is_remembered_of_stay_as_they_are() -> None:
    head = grown(3)
    before = head.weight.detach()[2].clone()
    fit(head, [5, 5])
    assert torch.equal(head.weight.detach()[2], before)
    assert not torch.equal(head.weight.detach()[1], before)


def test_the_same_features_give_the_same_bits() -> None:
    one, other = grown(5), grown(5)
    for head in (one, other):
        fit(head, [8] * 5)
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.bias, other.bias)


def test_many_classes_and_frames_get_fewer_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hierarchy.head_fit, "MULTIPLICATIONS", 1.0)
    calls = []
    monkeypatch.setattr(torch.autograd, "backward", lambda loss, real=torch.autograd.backward: calls.append(real(loss)))
    fit(grown(5), [20] * 5, noise=3.0)
    assert 1 < len(calls) <= LEAST_EVALUATIONS + 1


def test_a_class_of_few_frames_weighs_as_much_as_one_of_many() -> None:
    head, alike = grown(2), around(0, 1, seed=1)
    fit_rows(head, alike.repeat(44, 1), torch.tensor([0] * 40 + [1] * 4))
    with torch.no_grad():
        first, second = head(alike)[0]
    assert abs(float(first - second)) < 0.1, "what shows nothing of either is called by neither's name"
