from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from broker.errors import ConfigError, CrossingError, CutError
from broker.wire.messages import SplitSpec
from hierarchy.backbone import build_backbone
from hierarchy.device import Compute
from hierarchy.edge import EdgeSegment, EdgeTrainer
from hierarchy.exits import LENGTH, FeatureExit
from hierarchy.runtime.checkpoint import save_checkpoint
from robot_edge.learning.automatic import PRIVATE, from_scratch
from robot_edge.learning.former_versions import NETWORK, SavedNetwork
from robot_edge.learning.segment import build_edge
from robot_edge.learning.settings import NetworkSettings


def network(**settings: Any) -> NetworkSettings:
    return NetworkSettings(**{"cut": "layer2", "image_size": 16, **settings})


def moved(segment: EdgeSegment) -> set[str]:
    """Take a step of training; return the names of parameters and buffers that it changed."""
    before = {name: value.clone() for name, value in segment.state_dict().items()}
    segment.exit.head.grow(["cat", "dog"], None)
    before |= {name: value.clone() for name, value in segment.exit.head.state_dict(prefix="exit.head.").items()}
    learning = [parameter for parameter in segment.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.1)
    segment.train()
    logits = segment(torch.randn(4, 3, 16, 16))
    torch.autograd.backward(nn.functional.cross_entropy(logits, torch.tensor([0, 1, 0, 1])))
    optimizer.step()
    return {name for name, value in segment.state_dict().items() if not torch.equal(value, before[name])}


def test_what_crosses_is_what_the_split_says() -> None:
    segment, split, start = build_edge(network(bits=3, bottleneck=8))
    assert (split.backbone, split.image_size, split.bits, split.bottleneck) == ("resnet18", 16, 3, 8)
    assert split.cut == "layer2.1.relu_1"
    assert split.shape == (8, 4, 4)
    assert segment.encode(torch.randn(2, 3, 16, 16)).shape == (2, *split.shape)
    assert start == "none"


def test_of_a_pooled_map_the_averages_cross() -> None:
    whole, *_ = build_edge(network())
    segment, split, _ = build_edge(network(pool=2))
    assert split.shape == (128, 2, 2)
    segment.front.load_state_dict(whole.front.state_dict())
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        averages = whole.eval().encode(images).reshape(2, 128, 2, 2, 2, 2).mean((3, 5))
        torch.testing.assert_close(segment.eval().encode(images), averages)


def test_without_a_bottleneck_all_channels_cross() -> None:
    segment, split, _ = build_edge(network())
    assert split.shape == segment.encode(torch.randn(2, 3, 16, 16)).shape[1:] == (128, 4, 4)


def test_frozen_layers_stay_bit_equal_with_their_statistics_while_the_others_learn() -> None:
    segment, *_ = build_edge(network(freeze="stem,layer1"))
    changed = moved(segment)
    frozen = {name for name in segment.state_dict() if name.startswith(("front.conv1", "front.bn1", "front.layer1"))}
    assert len(frozen) > 20
    assert not changed & frozen
    assert {"front.layer2.0.conv1.weight", "front.layer2.0.bn1.running_mean", "exit.head.weight"} <= changed
    segment.eval()
    segment.train()
    assert not moved(segment) & frozen, "going back to training thaws them"


@pytest.mark.parametrize("place", ["cut", "end"])
def test_all_stands_still_but_the_head(place: str) -> None:
    segment, *_ = build_edge(
        network(freeze="all", exit=place, bottleneck=8, backbone="mobilenet_v3_small", cut="features.3")
    )
    assert segment.stands_still
    assert moved(segment) <= {"exit.head.weight", "exit.head.bias"}


def test_an_exit_at_the_end_has_the_features_of_the_whole_network() -> None:
    torch.manual_seed(0)
    whole = build_backbone("resnet18", image_size=16, weights="none").module.eval()
    torch.manual_seed(0)
    segment, split, _ = build_edge(network(exit="end", bottleneck=8))
    images = torch.randn(3, 3, 16, 16)
    segment.eval()
    assert isinstance(segment.exit, FeatureExit)
    with torch.no_grad():
        seen = segment.exit.features(segment.front(images))
        assert torch.equal(seen, nn.functional.normalize(whole(images), dim=1) * LENGTH)
    assert split.shape == (8, 4, 4), "what crosses is as with an exit at the cut"


def test_nothing_is_frozen_unless_asked_for() -> None:
    segment, *_ = build_edge(network())
    changed = moved(segment)
    assert {name for name, _ in segment.named_parameters() if name.startswith("front.")} <= changed
    assert "front.bn1.running_mean" in changed


@pytest.mark.parametrize(
    ("backbone", "cut", "stem"),
    [
        ("mobilenet_v3_small", "features.2", {"features.0.0", "features.0.1"}),
        ("squeezenet1_1", "features.5", {"features.0"}),  # no normalisation behind its first convolution
    ],
)
def test_the_stem_is_the_first_convolution_and_its_normalisation(backbone: str, cut: str, stem: set[str]) -> None:
    segment, *_ = build_edge(network(backbone=backbone, cut=cut, freeze="stem", image_size=32))
    frozen = {name.rpartition(".")[0] for name, value in segment.front.named_parameters() if not value.requires_grad}
    assert frozen == stem


def test_a_layer_is_frozen_by_its_full_name_and_not_by_a_beginning() -> None:
    segment, *_ = build_edge(network(backbone="mobilenet_v3_small", cut="features.3", freeze="features.1"))
    frozen = {name.split(".")[1] for name, value in segment.front.named_parameters() if not value.requires_grad}
    assert frozen == {"1"}
    assert "1" in {name.split(".")[1] for name, _ in segment.front.named_parameters()}


@pytest.mark.parametrize("name", ["layer3", "layer", "fc", "Stem"])
def test_a_layer_that_the_robot_does_not_have_gets_those_it_has(name: str) -> None:
    with pytest.raises(ConfigError, match=f"--freeze {name}: .* it has all, stem, conv1, bn1, .*layer1.*layer2"):
        build_edge(network(freeze=name))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "resnet19"}, "unknown backbone 'resnet19'; did you mean .*resnet18"),
        ({"cut": "layer9"}, "cannot cut resnet18 at 'layer9'"),
        ({"cut": "layer1.0.bn2"}, "not exactly one tensor"),
        ({"bottleneck": 129}, "use 1 to 128, or 0 for none"),
    ],
)
def test_settings_that_cannot_work_say_what_would(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        build_edge(network(**settings))
    assert isinstance(error.value, CutError) == ("backbone" not in settings)


VIT = {"backbone": "vit_b_16", "cut": "encoder.layers.encoder_layer_0", "image_size": 32}
REGNET = {"backbone": "regnet_y_400mf", "image_size": 32}
SMALL = {"backbone": "mobilenet_v3_small", "cut": "features.3", "image_size": 32}


MEDIUM, HIGH = PRIVATE["medium"]["bottleneck"], PRIVATE["high"]["bottleneck"]
PLACES = (PRIVATE["medium"]["pool"],) * 2


@pytest.mark.parametrize(
    ("settings", "crosses"),
    [
        ({"privacy": "medium", **REGNET, "cut": "trunk_output.block2"}, (MEDIUM, *PLACES)),
        ({"privacy": "high", **REGNET, "cut": "trunk_output.block4", "bits": 2}, (HIGH, 1, 1)),
        ({"privacy": "medium", **REGNET, "cut": "trunk_output.block2", "pool": 3, "bottleneck": 8}, (8, 3, 3)),
        ({"privacy": "high", **REGNET, "cut": "avgpool"}, (HIGH, 1, 1)),
        ({"privacy": "medium", **VIT, "pool": 0}, (MEDIUM, 5)),
        ({"privacy": "high", **SMALL, "bottleneck": 0}, (24, 1, 1)),
        ({"privacy": "medium", "cut": "layer2", "pool": 9}, (MEDIUM, 8, 8)),
    ],
)
def test_what_is_named_beside_a_privacy_has_the_last_word(settings: dict[str, Any], crosses: tuple[int, ...]) -> None:
    asked = from_scratch(NetworkSettings(**settings))
    assert build_edge(asked)[0].shape == crosses


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"privacy": "medium", **VIT},
            rf"no map; use 0\. --privacy medium comes to --pool {PLACES[0]} and --bottleneck",
        ),
        ({"privacy": "high", **SMALL}, rf"the cut has 24; use 1 to 24, or 0 for none\. --privacy high .*neck {HIGH}"),
        ({"privacy": "off", **VIT, "pool": 2}, "no map; use 0$"),
    ],
)
def test_where_a_privacy_does_not_fit_a_cut_it_is_said_which_flag_would(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CrossingError, match=message):
        build_edge(from_scratch(NetworkSettings(**settings)))


def save(segment: EdgeSegment, run: Path, classes: list[str]) -> dict[str, Tensor]:
    segment.exit.head.grow(classes, None)
    trainer = EdgeTrainer(segment, bits=4, compute=Compute(device=torch.device("cpu")), peak_learning_rate=0.1)
    split = SplitSpec(backbone="resnet18", cut="layer2", image_size=16, bits=4, bottleneck=8, shape=(8, 2, 2))
    save_checkpoint(run / "checkpoint", NETWORK, SavedNetwork(trainer=trainer.state(), split=split))
    return segment.state_dict()


def test_a_former_run_is_gone_on_from(tmp_path: Path) -> None:
    segment, split, _ = build_edge(network(bottleneck=8))
    classes = [f"class {number}" for number in range(20)]  # more than the first block of rows
    saved = save(segment, tmp_path, classes)
    restored, same_split, start = build_edge(network(bottleneck=8, weights=str(tmp_path)))
    assert start == "checkpoint"
    assert same_split == split
    assert restored.exit.head.classes == tuple(classes)
    assert all(torch.equal(value, saved[name]) for name, value in restored.state_dict().items())


@pytest.mark.parametrize("settings", [{"bottleneck": 4}, {"cut": "layer1", "bottleneck": 8}, {"bottleneck": 0}])
def test_a_run_of_another_network_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    segment, *_ = build_edge(network(bottleneck=8))
    save(segment, tmp_path, ["cat"])
    with pytest.raises(ConfigError, match=f"--weights {tmp_path} is of another network, .*resnet18"):
        build_edge(network(**settings, weights=str(tmp_path)))


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        build_edge(network(weights=str(tmp_path)))
