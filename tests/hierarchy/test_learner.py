from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hierarchy.device import Compute
from hierarchy.head import ROWS, GrowingHead
from hierarchy.learner import Learner, LearnerState
from hierarchy.runtime.checkpoint import load_checkpoint, save_checkpoint
from hierarchy.runtime.state import Layout

CPU = torch.device("cpu")
LAYOUT = Layout(kind=LearnerState, migrations=(dict,))
CLASSES = [f"class {number}" for number in range(ROWS + 8)]


class Network(nn.Module):
    """Everything whose state must survive: statistics, dropout, a head that grows."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten())
        self.head = GrowingHead(8 * 4)
        self.register_buffer("table", torch.rand(1, 3, 4, 2))  # as some transformers have, of four dimensions

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits


def learner(seed: int = 3, *, channels_last: bool = False) -> Learner:
    torch.manual_seed(0)
    network = Network()
    compute = Compute(device=CPU, channels_last=channels_last)
    return Learner(network, network.head, compute=compute, peak_learning_rate=0.1, seed=seed)


def take_step(its: Learner, number: int, classes: int = 3) -> float:
    names = [CLASSES[index % classes] for index in range(2 * classes)]
    images = torch.from_numpy(torch.rand(len(names), 3, 4, 4, generator=torch.Generator().manual_seed(number)).numpy())
    with its.random:
        labels = its.begin_step(names, progress=None)
        loss = F.cross_entropy(its.module(images), labels)
        assert its.descend(loss)
    return loss.item()


def weights(its: Learner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in its.module.state_dict().items()}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("classes", [3, ROWS + 4])
def test_a_restored_one_goes_on_bit_for_bit(tmp_path: Path, classes: int, channels_last: bool) -> None:
    one = learner(channels_last=channels_last)
    for number in range(3):
        take_step(one, number, classes)
    save_checkpoint(tmp_path, LAYOUT, one.state())
    other = learner(seed=99, channels_last=channels_last)
    other.restore(load_checkpoint(tmp_path, LAYOUT))
    assert other.steps == 3
    for number in range(3, 6):
        torch.rand(number)  # somebody else draws
        assert take_step(one, number, classes + number - 3) == take_step(other, number, classes + number - 3)
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("part", ["momentum", "random"])
def test_without_a_part_it_would_not(tmp_path: Path, part: str) -> None:
    one = learner()
    for number in range(3):
        take_step(one, number)
    save_checkpoint(tmp_path, LAYOUT, one.state())
    state = load_checkpoint(tmp_path, LAYOUT)
    other = learner(seed=99)
    other.restore(replace(state, **{part: getattr(learner(seed=99).state(), part)}))
    for number in range(3, 6):
        take_step(one, number)
        take_step(other, number)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_training_depends_on_seed_and_data_alone() -> None:
    one, same, different = learner(), learner(), learner(seed=4)
    for number in range(2):
        for its in (one, same, different):
            take_step(its, number)
    assert torch.equal(one.head.weight, same.head.weight)
    assert not torch.equal(one.head.weight, different.head.weight)


def test_a_state_of_another_network_is_refused() -> None:
    state = learner().state()
    del state.weights["body.0.weight"]
    with pytest.raises(RuntimeError, match=r"body\.0\.weight"):
        learner().restore(state)


@pytest.mark.parametrize("channels_last", [False, True])
def test_an_infinite_gradient_takes_no_step(channels_last: bool) -> None:
    its = learner(channels_last=channels_last)
    take_step(its, 0)
    before = weights(its)
    moved = ("body.1.running_mean", "body.1.running_var", "body.1.num_batches_tracked", "table")
    with its.random:
        labels = its.begin_step(CLASSES[:2], progress=None)
        loss = F.cross_entropy(its.module(torch.rand(2, 3, 4, 4)), labels)
        # The square root has an infinite slope at nothing.
        its.module.get_buffer("table").add_(1)
        assert all(not torch.equal(weights(its)[name], before[name]) for name in moved)
        assert not its.descend(loss + torch.sqrt(its.head.bias[0] - its.head.bias[0].detach()))
    after = weights(its)
    assert before.keys() == after.keys()
    for name, values in after.items():
        assert torch.equal(values, before[name]), name
    assert its.steps == 1
