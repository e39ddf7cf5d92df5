from __future__ import annotations

import pytest
import torch

from broker.errors import ConfigError
from hierarchy.backbone import build_backbone, input_spec
from hierarchy.cut import find_cut_points, split_backbone
from hierarchy.edge import ALL, EdgeSegment
from hierarchy.timm_networks import packaged_weights
from hierarchy.weights_file import weights_digest

pytestmark = pytest.mark.slow

SIZE = 80  # divisible by the patches of a transformer, and more than small pictures that change the stem
# One of each family, where it is cut, and the channels there.
FAMILIES = {
    "resnet18": ("layer2", 128),
    "tf_efficientnet_lite0": ("blocks.3", 80),
    "efficientnet_b0": ("blocks.3", 80),
    "mobilenetv3_small_100": ("blocks.2", 40),
    "mobilenetv4_conv_small": ("blocks.2", 96),
    "convnext_atto": ("stages.1", 80),
    "vit_tiny_patch16_224": ("blocks.5", 192),
    "regnety_004": ("s2", 104),
    "fastvit_t8": ("stages.2", 192),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_halves_equal_the_whole(name: str) -> None:
    cut, channels = FAMILIES[name]
    torch.manual_seed(0)
    backbone = build_backbone(f"timm:{name}", image_size=SIZE, weights="none")
    divided = split_backbone(backbone, cut)
    images = torch.randn(2, 3, SIZE, SIZE)
    for module in (backbone.module, divided.front, divided.rest):
        module.eval()
    with torch.no_grad():
        crossing = divided.front(images)
        assert crossing.shape[1:] == divided.shape
        assert divided.shape[0] == channels
        assert torch.equal(divided.rest(crossing), backbone.module(images))


def test_the_pooled_features_are_no_cut() -> None:
    """With no more than a dropout behind them they would leave nothing to the cloud."""
    backbone = build_backbone("timm:tf_efficientnet_lite0", image_size=SIZE, weights="none")
    assert "global_pool" not in {point.module for point in find_cut_points(backbone)}


def test_what_is_frozen_stands_still_norms_with_activations_inside_too() -> None:
    """timm's BatchNormAct2d has parameters and children: 72 buffers moved once, and 8,192 parameters learned."""
    backbone = build_backbone("timm:tf_efficientnet_lite0", image_size=80, weights="none")
    divided = split_backbone(backbone, "blocks.1")
    for freeze in (("stem", "conv_stem", "bn1", "blocks"), (ALL,)):
        segment = EdgeSegment(divided, 0, freeze).train()
        before = weights_digest(segment.front)
        segment.front(torch.randn(2, 3, SIZE, SIZE))
        assert weights_digest(segment.front) == before
        assert not any(one.requires_grad for one in segment.front.parameters())


def test_each_network_says_what_its_input_looks_like() -> None:
    lite = input_spec("timm:tf_efficientnet_lite0")
    assert (lite.size, lite.mean, lite.interpolation) == (224, (0.5, 0.5, 0.5), "bicubic")
    assert input_spec("resnet18", 224).crop == pytest.approx(0.875)
    assert input_spec("resnet18", 32).interpolation == "bilinear"


def test_weights_of_a_python_package_are_found() -> None:
    path = packaged_weights("timm:tf_efficientnet_lite0")
    assert path is not None
    file = weights_digest(build_backbone("timm:tf_efficientnet_lite0", image_size=224, weights=path).module)
    default = weights_digest(build_backbone("timm:tf_efficientnet_lite0", image_size=224, weights="default").module)
    assert file == default


def test_an_unknown_name_gets_the_nearest_ones() -> None:
    with pytest.raises(ConfigError, match=r"did you mean .*timm:resnet18"):
        build_backbone("timm:resnet_18", image_size=80, weights="none")
    with pytest.raises(ConfigError, match="unknown backbone"):
        build_backbone("timm:hf-hub:someone/something", image_size=80, weights="none")


def test_a_size_that_a_transformer_cannot_take_is_refused() -> None:
    with pytest.raises(ConfigError, match="images of 50 pixels"):
        build_backbone("timm:vit_tiny_patch16_224", image_size=50, weights="none")
