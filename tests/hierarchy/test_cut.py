from __future__ import annotations

import copy
import functools
import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from broker.errors import CutError
from hierarchy.backbone import Backbone, build_backbone
from hierarchy.cut import CutPoint, Divided, find_cut_points, split_backbone
from hierarchy.head import GrowingHead

pytestmark = pytest.mark.slow

SIZE = 32
CUTS = {  # backbone -> cut, and the shape there for 32 x 32 images
    "resnet18": ("layer2", (128, 8, 8)),
    "vgg16": ("features.16", (256, 4, 4)),
    "vgg16_bn": ("features.13", (128, 8, 8)),
    "mobilenet_v3_small": ("features.3", (24, 8, 8)),
    "efficientnet_b0": ("features.3", (40, 8, 8)),
    "convnext_tiny": ("features.3", (192, 8, 8)),
    "regnet_y_400mf": ("trunk_output.block2", (104, 8, 8)),
    "densenet121": ("features.transition1", (128, 8, 8)),
    "vit_b_16": ("encoder.layers.encoder_layer_5", (768, 5)),
    "swin_t": ("features.3", (192, 8, 8)),
    "squeezenet1_1": ("features.5", (128, 7, 7)),
    "shufflenet_v2_x0_5": ("stage2", (48, 8, 8)),
}


@functools.cache  # building them is what takes the time
def built(name: str) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(name, image_size=SIZE, weights="none")


@pytest.fixture
def resnet() -> Backbone:
    return built("resnet18")


@pytest.fixture
def points(resnet: Backbone) -> list[CutPoint]:
    return find_cut_points(resnet)


def set_mode(training: bool, *modules: nn.Module) -> None:
    for module in modules:
        module.train(training)


def over_the_wire(activation: Tensor) -> Tensor:
    """What arrives has no history and lies channels first."""
    return activation.detach().clone(memory_format=torch.contiguous_format)


def seeded(module: nn.Module, x: Tensor) -> Tensor:
    torch.manual_seed(7)
    out = module(x)
    assert isinstance(out, Tensor)
    return out


@pytest.mark.parametrize("name", CUTS)
def test_halves_compose_to_the_whole_bit_for_bit(name: str) -> None:
    cut, shape = CUTS[name]
    backbone = built(name)
    whole, divided = backbone.module, split_backbone(backbone, cut)
    linear, head = nn.Linear(backbone.features, 5), GrowingHead(backbone.features)
    head.grow("abcde", None)
    with torch.no_grad():
        head.weight[:5], head.bias[:5] = linear.weight, linear.bias
    x = torch.randn(3, 3, SIZE, SIZE)

    set_mode(False, whole, divided.front, divided.rest)
    with torch.no_grad():
        activation = over_the_wire(divided.front(x))
        features, expected = divided.rest(activation), whole(x)
        assert torch.equal(features, expected)
        # Not to the bit: on some processors a BLAS rounds by how many rows there are, and the head has 16.
        torch.testing.assert_close(head(features), linear(expected))
    assert divided.shape == activation.shape[1:] == shape

    # Training mode draws dropout and stochastic depth from one random state, running over both halves, and
    # moves BatchNorm's statistics: the halves share them with the whole, so put them back in between.
    set_mode(True, whole, divided.front, divided.rest)
    before = {key: value.clone() for key, value in whole.state_dict().items()}
    with torch.no_grad():
        expected = seeded(whole, x)
        moved = {key: value.clone() for key, value in whole.state_dict().items()}
        whole.load_state_dict(before)
        composed = seeded(nn.Sequential(divided.front, divided.rest), x)
    assert torch.equal(composed, expected)
    assert all(torch.equal(value, moved[key]) for key, value in whole.state_dict().items())


def test_both_halves_have_the_names_of_the_whole_and_share_none(resnet: Backbone) -> None:
    divided = split_backbone(resnet, "layer2")
    whole, front, rest = resnet.module.state_dict(), divided.front.state_dict(), divided.rest.state_dict()
    assert front.keys() | rest.keys() == whole.keys()
    assert not front.keys() & rest.keys()
    assert all(torch.equal(value, whole[key]) for half in (front, rest) for key, value in half.items())
    assert {key.split(".")[0] for key in front} == {"conv1", "bn1", "layer1", "layer2"}


def test_an_end_holds_only_its_half_in_memory() -> None:
    backbone = copy.deepcopy(built("vit_b_16"))
    divided = split_backbone(backbone, "encoder.layers.encoder_layer_2")
    behind = [weakref.ref(parameter) for parameter in divided.rest.parameters()]
    front = divided.front
    del backbone, divided
    gc.collect()
    assert len(behind) > 100
    assert all(parameter() is None for parameter in behind)
    assert front(torch.zeros(1, 3, SIZE, SIZE)).shape == (1, 768, 5)


def test_the_rest_leaves_what_it_is_given_alone(resnet: Backbone) -> None:
    rest = split_backbone(resnet, "layer2.1.add").rest.eval()  # a ReLU comes next, and works in place
    activation = torch.randn(2, 128, 8, 8)
    before = activation.clone()
    with torch.no_grad():
        rest(activation)
    assert torch.equal(activation, before)


def test_a_copy_trains_alone_and_keeps_its_mode(resnet: Backbone) -> None:
    divided = split_backbone(resnet, "layer2")
    front = divided.front.train()
    front.get_submodule("layer1").eval()
    other = copy.deepcopy(front)
    assert other.training
    assert not other.get_submodule("layer1").training
    with torch.no_grad():
        next(other.parameters()).zero_()
    assert next(front.parameters()).any()
    x = torch.randn(2, 3, SIZE, SIZE)
    assert not torch.equal(other(x), front(x))
    other.load_state_dict(front.state_dict())
    set_mode(False, front, other)
    assert torch.equal(other(x), front(x))


def test_two_backward_passes_do_what_one_would(resnet: Backbone) -> None:
    whole = copy.deepcopy(resnet.module).train()
    divided = copy.deepcopy(split_backbone(resnet, "layer2"))
    set_mode(True, divided.front, divided.rest)
    x = torch.randn(4, 3, SIZE, SIZE)
    whole(x).square().sum().backward()
    sent = divided.front(x)
    received = sent.detach().requires_grad_()
    divided.rest(received).square().sum().backward()
    sent.backward(received.grad)
    gradients = {key: p.grad for key, p in whole.named_parameters()}
    for half in (divided.front, divided.rest):
        for key, parameter in half.named_parameters():
            torch.testing.assert_close(parameter.grad, gradients[key], rtol=1e-4, atol=1e-4)


class Awkward(nn.Module):
    """Does what no torchvision model does today, and the next may: its graph depends on the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.scale = nn.Parameter(torch.full((4,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale  # read before the cut, used behind it
        x = self.conv(x).mean((2, 3))
        return functional.dropout(x, 0.5, self.training) * scale


def test_functional_dropout_follows_the_mode_and_parameters_their_use() -> None:
    backbone = Backbone(name="awkward", image_size=8, module=Awkward(), features=4)
    divided, x = split_backbone(backbone, "conv"), torch.randn(5, 3, 8, 8)
    assert divided.front.state_dict().keys() == {"conv.weight", "conv.bias"}
    assert divided.rest.state_dict().keys() == {"scale"}
    composed, outputs = nn.Sequential(divided.front, divided.rest), []
    for training in (True, False):
        set_mode(training, backbone.module, composed)
        outputs.append(seeded(composed, x))
        assert torch.equal(outputs[-1], seeded(backbone.module, x))
    assert not torch.equal(*outputs)


def test_dividing_leaves_the_mode_of_the_backbone() -> None:
    backbone = built("squeezenet1_1")
    for training in (True, False):
        backbone.module.train(training)
        split_backbone(backbone, "features.5")
        assert all(module.training == training for module in backbone.module.modules())


def test_cut_points_are_where_one_tensor_crosses(points: list[CutPoint]) -> None:
    by_name = {point.name: point for point in points}
    stage = by_name["layer2.1.relu_1"]
    assert (stage.module, stage.shape, stage.values) == ("layer2", (128, 8, 8), 8192)
    assert [stage.bytes_at(bits) for bits in (1, 3, 4, 8)] == [1024, 3072, 4096, 8192]
    assert by_name["layer2.1.add"].module is None
    # Inside a block the shortcut crosses too; the frame itself and the final features are no cuts.
    assert not by_name.keys() & {"x", "layer2.1.conv1", "layer2.0.conv2", "fc"}


def test_bytes_are_rounded_up() -> None:
    assert CutPoint(name="n", module=None, shape=(3, 1), channel_axis=1).bytes_at(3) == 2


def test_channels_come_first_wherever_the_network_has_them() -> None:
    swin = {point.name: point for point in find_cut_points(built("swin_t"))}
    assert (swin["features.0.0"].shape, swin["features.0.0"].channel_axis) == ((96, 16, 16), 1)
    assert (swin["features.0.2"].shape, swin["features.0.2"].channel_axis) == ((96, 16, 16), 3)
    assert (swin["permute"].shape, swin["permute"].channel_axis) == ((768, 2, 2), 1)


def test_a_layout_permuted_inside_a_block_survives_the_wire() -> None:
    # ConvNeXt's LayerNorm2d hands its convolution NCHW in NHWC memory, which rounds otherwise.
    backbone = built("convnext_tiny")
    divided = split_backbone(backbone, "features.4.0")
    set_mode(False, backbone.module, divided.front, divided.rest)
    x = torch.randn(3, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.equal(divided.rest(over_the_wire(divided.front(x))), backbone.module(x))


@pytest.mark.parametrize(
    ("cut", "reason"),
    [
        ("layer9", "no such node or module"),
        ("", "no such node or module"),
        ("layer2.1.conv1", "not exactly one tensor"),
        ("x", "not exactly one tensor"),
        ("fc", "not exactly one tensor"),
    ],
)
def test_an_impossible_cut_gets_the_possible_ones(resnet: Backbone, cut: str, reason: str) -> None:
    with pytest.raises(CutError, match=reason) as caught:
        split_backbone(resnet, cut)
    lines = str(caught.value).splitlines()
    assert "  layer2: 128 x 8 x 8, 8,192 bytes at 8 bits" in lines
    assert "--cut list prints all" in lines[-1]


def test_a_list_of_all_cuts_can_be_had(resnet: Backbone) -> None:
    with pytest.raises(CutError, match="resnet18 can be cut behind") as caught:
        split_backbone(resnet, "list")
    _, *lines = str(caught.value).splitlines()
    assert "  layer2.1.relu_1: 128 x 8 x 8, 8,192 bytes at 8 bits" in lines
    assert len(lines) == len(find_cut_points(resnet))


def test_a_long_list_keeps_the_stages() -> None:
    backbone = built("mobilenet_v3_small")
    with pytest.raises(CutError) as caught:
        split_backbone(backbone, "nowhere")
    listed = [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:-1]]
    assert {f"features.{stage}" for stage in range(12)} <= set(listed)
    assert len(listed) <= 16


def test_a_module_name_is_its_last_node(resnet: Backbone) -> None:
    def divided(cut: str) -> Divided:
        return split_backbone(resnet, cut)

    assert divided("layer2").cut == divided("layer2.1.relu_1").cut == divided("layer2.1").cut == "layer2.1.relu_1"
