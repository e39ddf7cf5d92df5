from __future__ import annotations

from dataclasses import replace

import pytest

from robot_edge.learning.automatic import CAMERA_BACKBONE, FROM_SCRATCH, as_before, from_scratch, resolved
from robot_edge.learning.settings import AUTOMATIC, NetworkSettings
from robot_edge.run.config import RobotConfig
from robot_edge.run.same_run import taken_over

LITE = "timm:tf_efficientnet_lite0"


def values(network: NetworkSettings) -> dict[str, object]:
    return {name: getattr(network, name) for name in AUTOMATIC}


def test_a_network_from_scratch_is_what_it_was() -> None:
    assert values(RobotConfig.from_flags(source="folder:x").network) == FROM_SCRATCH
    assert values(RobotConfig.from_flags(source="sim:", live=True).network) == FROM_SCRATCH
    chosen = RobotConfig.from_flags(source="camera:0", image_size=64).network
    assert values(chosen) == {**FROM_SCRATCH, "image_size": 64}


def test_pretrained_weights_choose_size_cut_and_exit() -> None:
    config = RobotConfig.from_flags(source="folder:x", backbone=LITE, weights="default").resolved()
    network = config.network
    assert (network.image_size, network.freeze, network.exit) == (224, "all", "end")
    assert network.cut == "blocks"
    assert network.weights == "default"
    assert config.resolved() == config


def test_what_was_chosen_stays() -> None:
    asked = {"cut": "blocks.3", "bottleneck": 16, "image_size": 160, "exit": "end"}
    network = RobotConfig.from_flags(source="folder:x", backbone=LITE, weights="default", **asked).resolved().network
    assert {name: getattr(network, name) for name in asked} == asked
    assert network.freeze == "all"
    free = RobotConfig.from_flags(source="folder:x", weights="default", freeze="none").resolved().network
    assert (free.frozen_layers, free.exit, free.image_size) == ((), "cut", 224)
    learning = RobotConfig.from_flags(source="folder:x", weights="default", freeze="stem").resolved().network
    assert values(learning) == {**FROM_SCRATCH, "weights": "default", "freeze": "stem", "image_size": 224}


def test_small_pictures_of_a_pretrained_network_let_it_learn() -> None:
    network = RobotConfig.from_flags(source="folder:x", weights="default", image_size=32).resolved().network
    assert values(network) == {**FROM_SCRATCH, "weights": "default"}


def test_a_camera_of_whose_network_nothing_is_said_begins_pretrained() -> None:
    network = RobotConfig.from_flags(source="camera:0").resolved().network
    assert (network.backbone, network.weights, network.exit) == (CAMERA_BACKBONE, "default", "end")
    without = RobotConfig.from_flags(source="camera:0", weights="none").resolved().network
    assert values(without) == FROM_SCRATCH


@pytest.mark.parametrize("flags", [{}, {"weights": "auto"}])
def test_a_run_that_goes_on_needs_no_flags(flags: dict[str, str]) -> None:
    config = RobotConfig.from_flags(source="camera:0", **flags)
    former = {"backbone": "resnet18", "image_size": 32, "weights": "none"}  # as an older program wrote it
    assert values(config.resolved(former).network) == FROM_SCRATCH
    began = config.resolved()
    assert config.resolved(began.as_toml()) == replace(began, run_dir=config.run_dir)


def test_settings_of_a_former_run_fill_what_is_open() -> None:
    former = {
        "backbone": LITE,
        "cut": "blocks.4",
        "exit": "end",
        "freeze": "all",
        "image_size": 96,
        "weights": "default",
    }
    network = as_before(NetworkSettings(weights="runs/r1"), former)
    assert (network.backbone, network.cut, network.image_size, network.weights) == (LITE, "blocks.4", 96, "runs/r1")
    assert resolved(network) == from_scratch(network)


def test_privacy_says_what_crosses_where_nobody_chose() -> None:
    assert (
        vars(from_scratch(NetworkSettings(privacy="medium"))).items()
        >= {"pool": 1, "bottleneck": 64, "bits": 2}.items()
    )
    chosen = from_scratch(NetworkSettings(privacy="high", pool=3, bottleneck=8))
    assert (chosen.pool, chosen.bottleneck, chosen.bits) == (3, 8, 1)
    assert from_scratch(NetworkSettings(privacy="off")) == from_scratch(NetworkSettings())


def test_of_a_network_that_stands_still_fewer_bits_cross() -> None:
    photos = {"backbone": "resnet18", "weights": "photos.pth"}
    found = {level: resolved(NetworkSettings(privacy=level, **photos)) for level in ("off", "medium", "high")}  # type: ignore[arg-type]
    assert found["off"].bits > found["medium"].bits > found["high"].bits
    assert len({(one.pool, one.bottleneck, one.cut) for one in found.values()}) == 1


def begun_with(former: dict[str, object], **asked: object) -> NetworkSettings:
    """Settings of a run that begins with the weights of one that had those."""
    return resolved(as_before(NetworkSettings(weights="runs/r1", **asked), former))  # type: ignore[arg-type]


def test_what_was_private_stays_private_unless_somebody_says_otherwise() -> None:
    former = {**FROM_SCRATCH, "privacy": "medium", "pool": 2, "bottleneck": 16, "bits": 1, "hide": "people"}
    left_open = begun_with(former)
    assert (left_open.privacy, left_open.hide, str(left_open.hidden_path)) == ("medium", "people", "people")
    openly = begun_with(former, privacy="off", hide="none")
    assert (openly.privacy, openly.hidden_path) == ("off", None)
    assert (begun_with(FROM_SCRATCH).privacy, begun_with(FROM_SCRATCH).hidden_path) == ("off", None)
    assert taken_over(NetworkSettings(), left_open) == [
        "--privacy medium, as of the run whose weights this one begins with; --privacy off begins without",
        "--hide people, as of the run whose weights this one begins with; --hide none begins without",
    ]
    assert taken_over(NetworkSettings(privacy="off", hide="none"), openly) == []


def test_a_level_that_the_former_run_did_not_have_shapes_what_crosses_but_for_the_channels() -> None:
    openly = {**FROM_SCRATCH, "bottleneck": 8}
    private = begun_with(openly, privacy="medium")
    assert (private.pool, private.bits, private.bottleneck) == (1, 2, 8)
    assert begun_with(openly, privacy="medium", pool=3, bits=2).pool == 3
    assert begun_with(openly, hide="people").bits == 1
    still = {**openly, "freeze": "all", "pool": 4, "bits": 4}
    assert (begun_with(still, privacy="high").pool, begun_with(still, privacy="high").bits) == (4, 1)
