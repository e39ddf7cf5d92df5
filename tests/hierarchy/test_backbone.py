from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from broker.errors import ConfigError
from hierarchy.backbone import build_backbone

pytestmark = pytest.mark.slow


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torchvision's download folder, empty, and no network behind it."""

    def offline(url: str, *_: object, **__: object) -> None:
        raise OSError(f"no route to {url}")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def put_weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """Save weights as torchvision would have downloaded them."""
    torch.manual_seed(5)
    module: nn.Module = models.get_model(name, weights=None)
    state = module.state_dict()
    torch.save(state, folder / models.get_model_weights(name).DEFAULT.url.rsplit("/", 1)[1])
    return state


@pytest.mark.parametrize(
    ("name", "size", "features"),
    [
        ("resnet18", 32, 512),
        ("resnet18", 96, 512),
        ("squeezenet1_1", 64, 512),
        ("mobilenet_v3_small", 32, 1024),
        ("googlenet", 48, 1024),
        ("inception_v3", 75, 2048),
    ],
)
def test_features_come_out_flat_and_alike_in_both_modes(name: str, size: int, features: int) -> None:
    backbone = build_backbone(name, image_size=size, weights="none")
    assert (backbone.name, backbone.image_size, backbone.features) == (name, size, features)
    assert backbone.module.training
    for training in (True, False):
        out = backbone.module.train(training)(torch.zeros(2, 3, size, size))
        assert out.shape == (2, features)


def test_a_seed_repeats_the_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        module = build_backbone("resnet18", image_size=32, weights="none").module
        return torch.cat([parameter.flatten() for parameter in module.parameters()])

    first, again, other = weights(3), weights(3), weights(4)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def first_convolution(name: str, size: int) -> nn.Conv2d:
    module = build_backbone(name, image_size=size, weights="none").module
    return next(m for m in module.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(
    ("name", "kernel", "stride", "padding"),
    [
        ("resnet18", 3, 1, 1),
        ("convnext_tiny", 2, 2, 0),
        ("mobilenet_v3_small", 3, 1, 1),
        ("squeezenet1_1", 3, 1, 0),
    ],
)
def test_small_images_get_a_small_stem(name: str, kernel: int, stride: int, padding: int) -> None:
    stem = first_convolution(name, 64)
    assert (stem.kernel_size[0], stem.stride[0], stem.padding[0]) == (kernel, stride, padding)
    assert stem.weight.shape[2:] == (kernel, kernel)


def test_larger_images_keep_the_stem() -> None:
    stem = first_convolution("resnet18", 65)
    assert (stem.kernel_size[0], stem.stride[0]) == (7, 2)


def test_a_fresh_small_stem_has_the_spread_of_its_own_kernel() -> None:
    torch.manual_seed(0)
    # ResNet draws with variance 2 / (64 filters * 3 * 3).
    assert first_convolution("resnet18", 32).weight.std().item() == pytest.approx((2 / 576) ** 0.5, rel=0.05)


def test_default_weights_are_found_without_a_network(checkpoints: Path) -> None:
    saved = put_weights(checkpoints, "resnet18")
    large = build_backbone("resnet18", image_size=96, weights="default").module.state_dict()
    small = build_backbone("resnet18", image_size=32, weights="default").module.state_dict()
    assert torch.equal(large["conv1.weight"], saved["conv1.weight"])
    assert torch.equal(small["conv1.weight"], saved["conv1.weight"][:, :, 2:5, 2:5])
    for key in small.keys() - {"conv1.weight"}:
        assert torch.equal(small[key], saved[key]), key
    assert saved.keys() - small.keys() == {"fc.weight", "fc.bias"}


def test_default_weights_of_a_transformer_fit_any_image_size(checkpoints: Path) -> None:
    saved = put_weights(checkpoints, "vit_b_32")
    state = build_backbone("vit_b_32", image_size=64, weights="default").module.state_dict()
    assert state["encoder.pos_embedding"].shape == (1, 1 + 2 * 2, 768)
    assert torch.equal(state["encoder.pos_embedding"][:, 0], saved["encoder.pos_embedding"][:, 0])
    assert torch.equal(state["conv_proj.weight"], saved["conv_proj.weight"])


def test_missing_weights_say_which_file_goes_where(checkpoints: Path) -> None:
    with pytest.raises(ConfigError, match=r"no route to https.*resnet18-f37072fd\.pth") as caught:
        build_backbone("resnet18", image_size=32, weights="default")
    assert str(checkpoints / "resnet18-f37072fd.pth") in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"<html>sign in to this network</html>", b"PK\x03\x04 cut short"])
def test_damaged_weights_say_which_file_to_replace(checkpoints: Path, content: bytes) -> None:
    file = checkpoints / "resnet18-f37072fd.pth"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(str(file))):
        build_backbone("resnet18", image_size=32, weights="default")


def test_an_unknown_name_gets_the_nearest_ones() -> None:
    with pytest.raises(ConfigError, match=r"'resnet17'; did you mean resnet18 .*list_models"):
        build_backbone("resnet17", image_size=32, weights="none")


@pytest.mark.parametrize(
    ("name", "size", "instead"),
    [
        ("vit_b_16", 40, "32 and 48 would do"),
        ("vit_b_16", 8, "16 and 32"),
        ("inception_v3", 32, "75 would do"),
    ],
)
def test_a_size_it_cannot_take_names_one_it_can(name: str, size: int, instead: str) -> None:
    with pytest.raises(ConfigError, match=instead):
        build_backbone(name, image_size=size, weights="none")
