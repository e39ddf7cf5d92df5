from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from hierarchy.small_maps import MAX_PIXELS, MAX_PIXELS_HALF, SmallMapConv2d, multiply_small_maps

LAYERS = [
    nn.Conv2d(5, 7, 3, padding=1),
    nn.Conv2d(5, 7, 3, stride=2, padding=1, bias=False),
    nn.Conv2d(5, 7, 1, stride=2),
    nn.Conv2d(5, 7, (1, 3), padding=(0, 1)),
    nn.Conv2d(5, 7, (3, 2), stride=(1, 2), padding=(2, 0)),
]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("shape", [(3, 2, 2), (3, 4, 3), (3, 6, 6), (1, 9, 9), (3, 1, 2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("half", "tolerance"), [(False, 1e-4), (True, 0.05)])
def test_values_and_gradients_are_a_convolutions(
    layer: nn.Conv2d,
    shape: tuple[int, int, int],
    layout: torch.memory_format,
    half: bool,
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hierarchy.small_maps.MAX_PIXELS", 1000)
    monkeypatch.setattr("hierarchy.small_maps.MAX_PIXELS_HALF", 1000)
    product = copy.deepcopy(layer)
    multiply_small_maps(product, yes=True)
    count, *pixels = shape
    images = torch.randn(count, 5, *pixels).to(memory_format=layout)
    found = []
    # In float64, which no special kernel computes: oneDNN's for AMX gets the last of these layers wrong on (3, 4, 3) in
    # bfloat16, and its for AVX2 corrupts the heap in the third (docs/upstream.md).
    for one, in_half in ((copy.deepcopy(layer).double(), False), (product, half)):
        given = images.to(one.weight.dtype, copy=True).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=in_half):
            output = one(given)
        one.zero_grad()
        output.to(one.weight.dtype).square().mean().backward()
        gradients = [given.grad, one.weight.grad, *([] if one.bias is None else [one.bias.grad])]
        found.append([value.float() for value in (output, *gradients) if value is not None])
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("half", "most"), [(False, MAX_PIXELS), (True, MAX_PIXELS_HALF)])
def test_large_maps_stay_with_the_library(half: bool, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Conv2d(2, 2, 1)
    multiply_small_maps(layer, yes=True)
    products: list[Tensor] = []
    linear = nn.functional.linear

    def watched(*given: Tensor) -> Tensor:
        products.append(linear(*given))
        return products[-1]

    monkeypatch.setattr("torch.nn.functional.linear", watched)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        layer(torch.ones(1, 2, 1, most))
        assert len(products) == 1
        layer(torch.ones(1, 2, 1, most + 1))
    assert len(products) == 1


def test_it_can_be_taken_back_and_changes_no_parameter() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 1)))
    before = dict(network.state_dict())
    multiply_small_maps(network, yes=True)
    assert type(network[0]) is SmallMapConv2d
    assert {name: one.data_ptr() for name, one in network.state_dict().items()} == {
        name: one.data_ptr() for name, one in before.items()
    }
    multiply_small_maps(network, yes=False)
    assert [type(one) for one in network.modules() if isinstance(one, nn.Conv2d)] == [nn.Conv2d, nn.Conv2d]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, padding="same"),
    ],
    ids=["groups", "dilation", "reflect", "same"],
)
def test_other_convolutions_are_left_alone(layer: nn.Conv2d) -> None:
    multiply_small_maps(layer, yes=True)
    assert type(layer) is nn.Conv2d
