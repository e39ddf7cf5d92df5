"""A copy to predict with: what it takes over, that it stays apart, and that threads do not wait for each other."""

from __future__ import annotations

import copy
import threading

import torch
from torch import Tensor, nn

from hierarchy.head import ROWS, GrowingHead
from hierarchy.shadow import Shadow

INPUT = torch.linspace(-1, 1, 24).reshape(8, 3)
TIMEOUT_S = 20


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.head = GrowingHead(4)
        self.head.grow(["cat", "dog"], None)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x))
        return logits


def learn(net: Net) -> None:
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    torch.autograd.backward(net(INPUT).pow(2).sum())
    optimizer.step()


def seen_by(shadow: Shadow[Net]) -> Tensor:
    with shadow.network() as net:
        logits: Tensor = net(INPUT)
    return logits


def evaluated(net: Net) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = copy.deepcopy(net).eval()(INPUT)
    return logits


def test_it_is_what_was_refreshed_last_to_the_bit() -> None:
    net = Net()
    shadow = Shadow(net)
    for _ in range(3):
        before = seen_by(shadow)
        learn(net)
        assert torch.equal(seen_by(shadow), before), "a step is not seen before the refresh"
        assert shadow.refresh(net)
        assert torch.equal(seen_by(shadow), evaluated(net)), "statistics included"
        assert not torch.equal(seen_by(shadow), before)
    assert net.training


def test_new_classes_come_along() -> None:
    net = Net()
    shadow = Shadow(net)
    for names in (["ant"], [f"c{number}" for number in range(ROWS)]):
        net.head.grow(names, None)
        assert seen_by(shadow).shape[1] < len(net.head.classes)
        shadow.refresh(net)
        for _ in range(2):  # both copies
            with shadow.network() as twin:
                assert twin.head.classes == net.head.classes
            assert torch.equal(seen_by(shadow), evaluated(net))
            learn(net)
            shadow.refresh(net)


def test_no_random_number_is_drawn() -> None:
    net = Net()
    state = torch.get_rng_state()
    shadow = Shadow(net)
    net_with_more = copy.deepcopy(net)
    shadow.refresh(net)
    seen_by(shadow)
    assert torch.equal(torch.get_rng_state(), state)
    net_with_more.head.grow(["ant"], None)
    state = torch.get_rng_state()
    shadow.refresh(net_with_more)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_prediction_under_way_is_not_disturbed_and_holds_nobody_up() -> None:
    net = Net()
    shadow = Shadow(net)
    before = seen_by(shadow)
    began, go_on = threading.Event(), threading.Event()
    seen = []

    def look() -> None:
        with shadow.network() as twin:
            began.set()
            go_on.wait(TIMEOUT_S)
            seen.append(twin(INPUT))

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    assert began.wait(TIMEOUT_S)
    learn(net)
    assert shadow.refresh(net), "into the copy that is not in use"
    learn(net)
    assert not shadow.refresh(net), "the other one is still in use"
    go_on.set()
    looking.join(TIMEOUT_S)
    assert torch.equal(seen[0], before)
    assert shadow.refresh(net)
    assert torch.equal(seen_by(shadow), evaluated(net))
