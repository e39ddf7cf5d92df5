"""What a network is cut to where nobody says where."""

import pytest

from hierarchy.backbone import build_backbone
from hierarchy.cut import CutPoint, deepest_cut, split_backbone
from hierarchy.default_cut import DefaultCut, cross_at


def point(*shape: int) -> CutPoint:
    return CutPoint(name="last.relu", module="last", shape=shape, channel_axis=1)


@pytest.mark.parametrize(
    ("backbone", "module"),
    [("resnet18", "layer4.0"), ("mobilenet_v3_small", "avgpool"), ("squeezenet1_1", "features.12.squeeze_activation")],
)
def test_deepest_cut_leaves_the_rest_one_layer_that_mixes(backbone: str, module: str) -> None:
    network = build_backbone(backbone, image_size=64, weights="none")
    deepest = deepest_cut(network)
    assert deepest.module == module
    rest = split_backbone(network, deepest.name).rest
    assert any(parameter.ndim > 1 for parameter in rest.parameters())


@pytest.mark.parametrize(
    ("shape", "pool", "bottleneck", "bits"),
    [
        ((320, 7, 7), 2, 0, 4),
        ((512, 7, 7), 2, 0, 3),
        ((2048, 7, 7), 1, 0, 3),
        ((16, 7, 7), 0, 0, 4),
        ((576,), 0, 0, 4),
        ((4096,), 0, 0, 1),
        ((192, 197), 0, 15, 2),
    ],
)
def test_what_crosses_keeps_to_an_eighth_of_a_bit_a_pixel(
    shape: tuple[int, ...], pool: int, bottleneck: int, bits: int
) -> None:
    assert cross_at(point(*shape), image_size=224) == DefaultCut(
        cut="last", pool=pool, bottleneck=bottleneck, bits=bits
    )
