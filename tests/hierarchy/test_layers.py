from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from broker.errors import CutError
from hierarchy.layers import EXIT_CHANNELS, EarlyExit, bottleneck, crossing_shape, expansion, pool_of, pretrained_axes

# Pooled features, a transformer's tokens, an image, a video.
SHAPES = [(6,), (6, 5), (6, 4, 3), (6, 2, 4, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_bottleneck_takes_channels_away_and_its_inverse_brings_them_back(shape: tuple[int, ...]) -> None:
    x = torch.randn(4, *shape)
    narrow = bottleneck(shape, 2)(x)
    assert narrow.shape == (4, 2, *shape[1:])
    assert expansion(shape, 2)(narrow).shape == x.shape


def test_a_bottleneck_uses_every_quantization_level_alike() -> None:
    narrow = bottleneck((6, 4, 3), 2)(100 + 50 * torch.randn(64, 6, 4, 3))
    torch.testing.assert_close(narrow.mean((0, 2, 3)), torch.zeros(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(narrow.std((0, 2, 3)), torch.ones(2), atol=1e-2, rtol=0)


def test_a_bottleneck_may_be_as_wide_as_the_cut() -> None:
    narrow = bottleneck((6, 4, 3), 6)(torch.randn(4, 6, 4, 3))
    assert expansion((6, 4, 3), 6)(narrow).shape == narrow.shape == (4, 6, 4, 3)


def test_no_bottleneck_changes_nothing() -> None:
    x = torch.randn(2, 6, 4, 3)
    assert torch.equal(expansion((6, 4, 3), 0)(bottleneck((6, 4, 3), 0)(x)), x)


@pytest.mark.parametrize("channels", [-1, 7, 8])
def test_a_bottleneck_that_is_none_is_refused(channels: int) -> None:
    for layer in (bottleneck, expansion):
        with pytest.raises(CutError, match=f"bottleneck of {channels} channels: the cut has 6; use 1 to 6, or 0"):
            layer((6, 4, 3), channels)


def test_a_pooled_map_holds_averages_and_comes_back_in_its_old_size() -> None:
    x = torch.arange(36.0).reshape(1, 1, 6, 6)
    pooled = bottleneck((1, 6, 6), 0, pool=2)(x)
    assert pooled.tolist() == [[[[7, 10], [25, 28]]]]
    back = expansion((1, 6, 6), 0, pool=2, rest=nn.Conv2d(1, 1, 3))(pooled)
    assert back.shape == x.shape
    torch.testing.assert_close(back.mean(), x.mean())


def test_channels_and_places_can_both_be_fewer() -> None:
    x = torch.randn(4, 6, 5, 5)
    narrow = bottleneck((6, 5, 5), 2, pool=3)(x)
    assert narrow.shape == (4, *crossing_shape((6, 5, 5), 2, 3)) == (4, 2, 3, 3)
    assert expansion((6, 5, 5), 2, pool=3, rest=nn.Conv2d(6, 6, 3))(narrow).shape == x.shape


@pytest.mark.parametrize(
    ("layer", "takes_places"),
    [(nn.Conv2d(1, 1, 1), True), (nn.Conv2d(1, 1, 3), False), (nn.AvgPool2d(2), False), (nn.Linear(6, 6), False)],
)
def test_a_rest_that_looks_at_each_place_by_itself_gets_those_that_crossed(
    layer: nn.Module, takes_places: bool
) -> None:
    rest = nn.Sequential(nn.BatchNorm2d(1), nn.ReLU(), layer, nn.AdaptiveAvgPool2d(1))
    places = expansion((1, 6, 6), 0, pool=2, rest=rest)(torch.ones(1, 1, 2, 2)).shape[2:]
    assert places == ((2, 2) if takes_places else (6, 6))


@pytest.mark.parametrize("pool", [6, 7])
def test_a_map_that_has_no_more_places_is_not_pooled(pool: int) -> None:
    assert isinstance(bottleneck((1, 6, 6), 0, pool), nn.Identity)
    assert isinstance(expansion((1, 6, 6), 0, pool), nn.Identity)
    assert crossing_shape((1, 6, 6), 0, pool) == (1, 6, 6)


@pytest.mark.parametrize("shape", [(6,), (6, 5), (6, 2, 4, 3)])
def test_what_is_no_map_is_not_pooled(shape: tuple[int, ...]) -> None:
    with pytest.raises(CutError, match=r"pool 2: what crosses at this cut is \(6,.*no map; use 0"):
        bottleneck(shape, 0, pool=2)


def test_the_pool_of_a_crossing_shape_gives_it_again() -> None:
    for pool in (0, 1, 3, 6):
        crossing = crossing_shape((4, 6, 6), 0, pool)
        assert crossing_shape((4, 6, 6), 0, pool_of(crossing)) == crossing
    assert pool_of((4, 6, 5)) == pool_of((4, 6)) == 0


def axes(rest: nn.Module, channels: int = 2, **changes: Any) -> Tensor | None:
    settings: dict[str, Any] = {"image_size": 224, "weights": "default", **changes}
    return pretrained_axes(rest, (6, 4, 3), channels, **settings)


def test_a_pretrained_bottleneck_begins_as_what_the_rest_sees_most_of() -> None:
    next_layer = nn.Conv2d(6, 2, 1)
    with torch.no_grad():
        next_layer.weight.copy_(torch.tensor([[0, 0, -5, 0, 0, 0], [0, 2.0, 0, 0, 0, 0]]).reshape(2, 6, 1, 1))
    found = axes(nn.Sequential(nn.BatchNorm2d(6), next_layer, nn.Conv2d(2, 6, 1)))
    assert found is not None
    torch.testing.assert_close(found, torch.eye(6)[:, [2, 1]])


@pytest.mark.parametrize("change", [{"weights": "none"}, {"image_size": 64}, {"channels": 0}])
def test_other_bottlenecks_begin_at_random(change: dict[str, Any]) -> None:
    assert axes(nn.Conv2d(6, 2, 1), **change) is None


@pytest.mark.parametrize("shape", SHAPES)
def test_a_pretrained_rest_gets_negative_values_back(shape: tuple[int, ...]) -> None:
    begin = torch.linalg.qr(torch.randn(6, 2)).Q
    x = torch.einsum("nk...,ck->nc...", torch.randn(4, 2, *shape[1:]), begin)
    back = expansion(shape, 2, axes=begin)(bottleneck(shape, 2, axes=begin)(x))
    assert (back < 0).any()
    torch.testing.assert_close(back, x)


@pytest.mark.parametrize("pool", [0, 2])
def test_a_bottleneck_from_scratch_takes_the_weights_of_a_pretrained_one(pool: int) -> None:
    shape, begin, x = (6, 4, 4), torch.linalg.qr(torch.randn(6, 2)).Q, torch.randn(4, 6, 4, 4)
    for make in (bottleneck, expansion):
        saved, other = make(shape, 2, pool, axes=begin), make(shape, 2, pool)
        other.load_state_dict(saved.state_dict())
        sample = x if make is bottleneck else torch.randn(4, 2, pool or 4, pool or 4)
        assert torch.equal(other(sample), saved(sample))
    fresh = bottleneck(shape, 2, pool)
    with pytest.raises(RuntimeError, match="running_mean"):
        fresh.load_state_dict({name: one for name, one in fresh.state_dict().items() if "running" not in name})


@pytest.mark.parametrize("shape", SHAPES)
def test_an_exit_predicts_the_classes_that_it_knows(shape: tuple[int, ...]) -> None:
    exit_ = EarlyExit(shape)
    assert exit_(torch.randn(4, *shape)).shape == (4, 0)
    exit_.head.grow(["cat", "dog", "ant"], None)
    activations = torch.randn(4, *shape, requires_grad=True)
    logits = exit_(activations)
    assert logits.shape == (4, 3)
    torch.autograd.backward(logits.square().sum())
    assert activations.grad is not None
    assert activations.grad.abs().sum() > 0
    assert exit_.get_parameter("mix.0.weight").shape[:2] == (EXIT_CHANNELS, 6)
