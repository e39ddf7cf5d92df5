from __future__ import annotations

import pytest
import torch
from torch import nn

from hierarchy.device import Compute
from hierarchy.optimizer import has_statistics, set_learning_rate, sgd
from hierarchy.schedule import NO_WARM_UP, learning_rate

CPU = Compute(device=torch.device("cpu"))


def test_only_what_learns_is_trained() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    network[0].requires_grad_(False)
    (group,) = sgd(network, CPU).param_groups
    assert [id(one) for one in group["params"]] == [id(one) for one in network[1].parameters()]


def test_a_step_follows_the_schedule() -> None:
    network = nn.Linear(2, 1, bias=False)
    optimizer = sgd(network, CPU)
    before = network.weight.detach().clone()
    for progress in (0.0, None):
        set_learning_rate(optimizer, 0.5, steps=7, progress=progress)
        rate = learning_rate(0.5, steps=7, progress=progress)
        assert [group["lr"] for group in optimizer.param_groups] == [rate]
    network.weight.grad = torch.ones_like(network.weight)
    optimizer.step()
    # The first step of Nesterov's momentum is 1 + 0.9 gradients long, with 5e-4 of the weights among each.
    moved = before - rate * 1.9 * (1 + 5e-4 * before)
    torch.testing.assert_close(network.weight.detach(), moved)


def test_a_pretrained_front_learns_at_a_tenth_of_the_rate_and_without_a_warm_up() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    optimizer = sgd(network, CPU, network[0])
    set_learning_rate(optimizer, 0.5, steps=0, progress=None, warm_up=NO_WARM_UP)
    rates = {id(one): group["lr"] for group in optimizer.param_groups for one in group["params"]}
    assert rates == {id(one): 0.5 for one in network[1].parameters()} | {
        id(one): 0.05 for one in network[0].parameters()
    }


@pytest.mark.parametrize(
    ("samples", "usual", "expected"), [(1, 1, False), (2, 2, True), (3, 64, False), (16, 64, True), (64, 64, True)]
)
def test_a_small_leftover_does_not_bend_the_statistics(samples: int, usual: int, expected: bool) -> None:
    assert has_statistics(samples, usual) is expected
