from __future__ import annotations

import dataclasses

import pytest
import torch

from broker.wire.activations import BATCH_OVERHEAD_BYTES, SAMPLE_BYTES
from broker.wire.messages import ProbeResult, SplitSpec
from hierarchy.device import Compute
from robot_edge.planning.costs import costs
from robot_edge.planning.edge_timing import EdgeCost, SplitCandidate
from robot_edge.run.config import RobotConfig

CPU = Compute(device=torch.device("cpu"))
EDGE = EdgeCost(compute=CPU, forward=0.064, step=0.32, memory=1000, compressed={2: 1.0, 4: 0.5})
CLOUD = ProbeResult(boot="0" * 16, number=0, seconds=0.3, samples=100, trouble="")


def split(channels: int, bottleneck: int) -> SplitSpec:
    return SplitSpec(
        backbone="resnet18", cut="layer2", image_size=32, bits=4, bottleneck=bottleneck, shape=(channels, 8, 8)
    )


def config(**settings: float) -> RobotConfig:
    return RobotConfig.from_flags(source="folder:x", batch=64, **settings)


def test_a_shuffled_folder_has_nothing_but_fresh_images() -> None:
    (one,) = costs(config(), SplitCandidate("layer2", 128, 0), split(128, 0), EDGE, CLOUD)
    assert [one.forward, one.step, one.cloud] == pytest.approx([0.001, 0.005, 0.003])
    assert one.codes == {2: 2048, 4: 4096}
    # 64 images of 2,048 bytes fill two messages of at most 128,000, after compression one of them or less.
    assert one.sent[2] == pytest.approx(2048 + SAMPLE_BYTES + 2 * (BATCH_OVERHEAD_BYTES + 8 * 128) / 64)
    assert 2048 < one.sent[4] < 2200


def test_rehearsed_images_cost_the_same_again_at_both_ends_and_on_the_way() -> None:
    alone, beside = (
        costs(config(rehearse=r), SplitCandidate("layer2", 128, 0), split(128, 0), EDGE, CLOUD)[0] for r in (0, 1)
    )
    assert beside.step == pytest.approx(2 * alone.step)
    assert beside.cloud == pytest.approx(2 * alone.cloud)
    assert beside.sent[2] == pytest.approx(2 * alone.sent[2], rel=0.02)
    silent = costs(config(rehearse=1, encode_anew=False), SplitCandidate("layer2", 128, 0), split(128, 0), EDGE, CLOUD)[
        0
    ]
    assert silent.sent[2] == pytest.approx(alone.sent[2], rel=0.02)


def test_one_bottleneck_stands_for_all_that_are_narrower_than_the_cut() -> None:
    found = costs(config(), SplitCandidate("layer2", 64, 16), split(16, 16), EDGE, CLOUD)
    assert [one.bottleneck for one in found] == [32, 16, 8]
    assert [one.codes[2] for one in found] == [512, 256, 128]
    assert len({one.step for one in found}) == 1


def test_where_an_attribute_is_hidden_each_bottleneck_has_one_bit() -> None:
    narrow = SplitCandidate("layer2", 64, 16, bits=1)
    hidden = RobotConfig.from_flags(source="folder:x", batch=64, hide="people")
    found = costs(hidden, narrow, split(16, 16), dataclasses.replace(EDGE, compressed={1: 1.0}), CLOUD)
    assert [(one.bottleneck, one.codes) for one in found] == [(32, {1: 256}), (16, {1: 128}), (8, {1: 64})]


def test_what_fits_no_message_is_left_out() -> None:
    wide = SplitSpec(backbone="vgg16", cut="features.4", image_size=128, bits=4, bottleneck=0, shape=(64, 64, 64))
    (one,) = costs(config(), SplitCandidate("features.4", 64, 0), wide, EDGE, CLOUD)
    assert set(one.sent) == {2}, "65,536 bytes at 2 bits, 131,072 at 4"
