from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, AdamW, Optimizer

from hierarchy.head import ROWS, GrowingHead

FEATURES = (1, 7, 64, 512, 1280)
OPTIMIZERS: dict[str, Callable[[GrowingHead], Optimizer]] = {
    "SGD": lambda head: SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01),
    "Adam": lambda head: Adam(head.parameters(), lr=0.01),
    "AdamW": lambda head: AdamW(head.parameters(), lr=0.01, amsgrad=True),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def names(count: int, start: int = 0) -> list[str]:
    return [f"class {i}" for i in range(start, start + count)]


def grown(features: int, count: int) -> GrowingHead:
    head = GrowingHead(features)
    head.grow(names(count), None)
    return head


def step(head: GrowingHead, optimizer: Optimizer, x: Tensor, labels: Tensor, classes: int) -> None:
    """Train on the first few classes alone."""
    optimizer.zero_grad()
    cross_entropy(head(x)[:, :classes], labels).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def test_it_starts_without_classes() -> None:
    head = GrowingHead(8)
    assert head.classes == ()
    assert head(torch.ones(3, 8)).shape == (3, 0)


def test_names_keep_the_order_in_which_they_came() -> None:
    head = GrowingHead(8)
    head.grow(["cat", "dog", "cat"], None)
    head.grow(["dog", "ant", "cat"], None)
    assert head.classes == ("cat", "dog", "ant")
    assert head.indices(["ant", "cat", "ant"]) == [2, 0, 2]
    assert head(torch.ones(3, 8)).shape == (3, 3)
    with pytest.raises(KeyError, match="bee"):
        head.indices(["cat", "bee"])


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("batch", [1, 2, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_old_logits_stay_bit_equal(features: int, batch: int, dtype: torch.dtype) -> None:
    head = grown(features, 1)
    x = torch.randn(batch, features, dtype=dtype)
    for count in (2, 5, ROWS, ROWS + 1, 3 * ROWS, 103):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            old = head(x)
            head.grow(names(count), None)
            new = head(x)
        assert new.dtype == torch.float32
        assert new.shape == (batch, count)
        assert torch.equal(new[:, : old.shape[1]], old), count


@pytest.mark.parametrize("features", FEATURES)
def test_logits_are_those_of_a_linear_layer(features: int) -> None:
    head, linear = grown(features, 10), nn.Linear(features, 10)
    with torch.no_grad():
        head.weight[:10], head.bias[:10] = linear.weight, linear.bias
    x = torch.randn(32, features)
    # Not to the bit: on some processors a BLAS rounds by how many rows there are, and the head has 16.
    torch.testing.assert_close(head(x), linear(x))


def test_new_rows_are_drawn_like_a_linear_layers() -> None:
    head = grown(100, 400)
    for rows in (head.weight[:400], head.bias[:400]):
        assert rows.abs().max() <= 0.1
        assert rows.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.1)  # a uniform's deviation
    head.grow(names(3, start=400), None)
    assert head.weight[:403].any(dim=1).all()
    assert not head.weight[403:].any()


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_an_optimizer_goes_on_as_if_nothing_had_grown(optimizer_name: str) -> None:
    """Old classes train alike beside new ones that the loss leaves out."""
    still = grown(12, ROWS)
    growing = copy.deepcopy(still)
    still_optimizer, optimizer = OPTIMIZERS[optimizer_name](still), OPTIMIZERS[optimizer_name](growing)
    for round_ in range(6):
        if round_ == 3:
            growing.grow(names(3, start=ROWS), optimizer)
            assert len(growing.weight) == 2 * ROWS
        x, labels = torch.randn(8, 12), torch.randint(ROWS, (8,))
        step(still, still_optimizer, x, labels, ROWS)
        step(growing, optimizer, x, labels, ROWS)
        # Not bit for bit: a gradient's sum over the batch is taken in another order beside more rows.
        torch.testing.assert_close(growing.weight[:ROWS], still.weight)
        torch.testing.assert_close(growing.bias[:ROWS], still.bias)


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_an_optimizer_holds_the_new_parameters_and_no_old_ones(optimizer_name: str) -> None:
    head = grown(12, ROWS)
    optimizer = OPTIMIZERS[optimizer_name](head)
    step(head, optimizer, torch.randn(8, 12), torch.randint(ROWS, (8,)), ROWS)
    before = copy.deepcopy(optimizer.state[head.weight])
    head.grow(["new"], optimizer)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in head.parameters()]
    assert {id(p) for p in optimizer.state} == {id(p) for p in head.parameters()}
    after = optimizer.state[head.weight]
    assert after.keys() == before.keys()
    for key, value in after.items():
        if value.shape == head.weight.shape:
            assert torch.equal(value[:ROWS], before[key])
            assert not value[ROWS:].any()
        else:
            assert torch.equal(value, before[key])
    new_row = head.weight[ROWS].detach().clone()
    step(head, optimizer, torch.randn(8, 12), torch.full((8,), ROWS), ROWS + 1)
    assert not torch.equal(head.weight[ROWS], new_row), "the new class does not learn"


def test_growing_before_the_first_step_is_fine() -> None:
    head = grown(4, ROWS)
    optimizer = SGD(head.parameters(), lr=0.1, momentum=0.9)
    head.grow(["new"], optimizer)
    step(head, optimizer, torch.randn(2, 4), torch.tensor([0, ROWS]), ROWS + 1)


def test_an_optimizer_of_something_else_is_refused() -> None:
    head = grown(4, ROWS)
    with pytest.raises(ValueError, match="does not train this head"):
        head.grow(["new"], SGD(nn.Linear(2, 2).parameters(), lr=0.1))


def test_a_frozen_head_stays_frozen() -> None:
    head = grown(4, ROWS).requires_grad_(False)
    head.grow(["new"], None)
    assert not any(parameter.requires_grad for parameter in head.parameters())


def test_it_is_restored_by_growing_and_loading() -> None:
    head = GrowingHead(6)
    for count in (1, 5, 2 * ROWS + 1):  # in several goes, restored in one
        head.grow(names(count), None)
    restored = GrowingHead(6)
    restored.grow(head.classes, None)
    restored.load_state_dict(head.state_dict())
    x = torch.randn(3, 6)
    assert restored.classes == head.classes
    assert torch.equal(restored(x), head(x))
