from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hierarchy.backbone import build_backbone
from hierarchy.cut import split_backbone
from hierarchy.small_maps import multiply_small_maps
from hierarchy.strided import StridedViewConv2d, view_strided

# Of every family that the README names, one as it is most often used; cut in the middle.
CUTS = {
    "resnet18": "layer2",
    "resnet50": "layer2",
    "resnext50_32x4d": "layer2",
    "vgg16_bn": "features.13",
    "mobilenet_v2": "features.6",
    "mobilenet_v3_small": "features.3",
    "efficientnet_b0": "features.3",
    "convnext_tiny": "features.3",
    "regnet_y_400mf": "trunk_output.block2",
    "densenet121": "features.transition1",
    "vit_b_16": "encoder.layers.encoder_layer_5",
    "swin_t": "features.3",
}
STRIDED = {"resnet18": 3, "resnet50": 3, "resnext50_32x4d": 3, "regnet_y_400mf": 4}
SIZE = 64


class Convolutions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down the kernel, stride and padding of each convolution that the library is asked for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            _, weight, _, stride, padding, *_ = args
            self.seen.append((tuple(weight.shape[2:]), tuple(stride), tuple(padding)))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", CUTS)
def test_no_backbone_asks_the_library_for_a_1x1_convolution_of_a_larger_stride(name: str) -> None:
    with torch.device("cpu" if name.startswith("regnet") else "meta"):  # shapes without values, if its builder can
        backbone = build_backbone(name, image_size=SIZE, weights="none")
        divided = split_backbone(backbone, CUTS[name])
        images, activations = torch.zeros(2, 3, SIZE, SIZE), torch.zeros(2, *divided.shape)
        with Convolutions() as asked, torch.no_grad():
            backbone.module.eval()(images)
            divided.front.eval()(images)
            divided.rest.eval()(activations)
    assert asked.seen
    assert not [one for one in asked.seen if one[0] == (1, 1) and one[1] != (1, 1) and one[2] == (0, 0)]
    strided = [one for one in backbone.module.modules() if isinstance(one, StridedViewConv2d)]
    assert len(strided) == STRIDED.get(name, 0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "layer", [nn.Conv2d(5, 7, 1, stride=2), nn.Conv2d(16, 8, 1, stride=(3, 1), bias=False, groups=4)], ids=str
)
def test_values_and_gradients_are_a_convolutions(layer: nn.Conv2d, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    viewed = copy.deepcopy(layer)
    view_strided(viewed)
    assert type(viewed) is StridedViewConv2d
    images = torch.randn(3, layer.in_channels, 7, 6).to(memory_format=layout)
    found: list[list[Tensor | None]] = []
    for one in (viewed, copy.deepcopy(layer).double()):  # the library's own is safe in float64
        given = images.to(one.weight.dtype, copy=True).requires_grad_()
        output = one(given)
        output.square().sum().backward()
        found.append([output, given.grad, one.weight.grad, None if one.bias is None else one.bias.grad])
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, check_dtype=False, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1, stride=2, padding=1), nn.Conv2d(4, 4, 3, stride=2)], ids=str
)
def test_other_convolutions_are_left_alone(layer: nn.Conv2d) -> None:
    view_strided(layer)
    assert type(layer) is nn.Conv2d


def test_small_maps_come_and_go_and_leave_the_view() -> None:
    layer = nn.Conv2d(4, 4, 1, stride=2)
    view_strided(layer)
    multiply_small_maps(layer, yes=True)
    with Convolutions() as asked:
        layer(torch.zeros(1, 4, 64, 64))  # not small
    assert asked.seen == [((1, 1), (1, 1), (0, 0))]
    multiply_small_maps(layer, yes=False)
    assert type(layer) is StridedViewConv2d
