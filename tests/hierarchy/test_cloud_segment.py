from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from broker.errors import ConfigError
from broker.wire.messages import SplitSpec
from hierarchy.cloud import CloudSegment

SPLIT = SplitSpec(
    backbone="shufflenet_v2_x0_5", cut="stage2.3.view_1", image_size=16, bits=4, bottleneck=0, shape=(48, 4, 4)
)
NARROW = dataclasses.replace(SPLIT, bottleneck=6, shape=(6, 4, 4))
POOLED = dataclasses.replace(NARROW, shape=(6, 2, 2))


@pytest.mark.parametrize("split", [SPLIT, NARROW, POOLED])
def test_it_predicts_from_what_crosses(split: SplitSpec) -> None:
    segment = CloudSegment(split, weights="none")
    segment.head.grow(["cat", "dog"], None)
    assert segment(torch.randn(3, *split.shape)).shape == (3, 2)


def test_it_holds_nothing_of_the_robots_half() -> None:
    names = {name for name, _ in CloudSegment(SPLIT, weights="none").named_parameters()}
    assert not {name for name in names if "conv1" in name or "stage2" in name}
    assert {name for name in names if "stage3" in name}


def test_a_seed_repeats_the_weights() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(CloudSegment(NARROW, weights="none").state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "resnet19"}, "unknown backbone 'resnet19'"),
        ({"backbone": "../../etc/passwd"}, "unknown backbone"),
        ({"cut": "stage9"}, "cannot cut shufflenet_v2_x0_5 at 'stage9'"),
        ({"cut": "stage2.0.branch1.0"}, "not exactly one tensor"),
        ({"shape": (48, 2, 8)}, r"says that \(48, 2, 8\) crosses, stage2.* gives \(48, 4, 4\)"),
        ({"shape": (48, 5, 5)}, r"says that \(48, 5, 5\) crosses, stage2.* gives \(48, 4, 4\)"),
        ({"shape": (48,)}, r"says that \(48,\) crosses"),
        ({"bottleneck": 6}, r"says that \(48, 4, 4\) crosses, stage2.* gives \(6, 4, 4\)"),
        ({"bottleneck": 49, "shape": (49, 4, 4)}, "bottleneck of 49 channels: the cut has 48"),
        ({"bottleneck": 8192, "shape": (8192, 4, 4)}, "bottleneck of 8192 channels"),
        ({"image_size": 8}, r"says that \(48, 4, 4\) crosses, stage2.* gives \(48, 2, 2\)"),
        ({"backbone": "vit_b_16", "image_size": 15}, "patches of 16 pixels and cannot take 15"),
        ({"backbone": "alexnet", "image_size": 8, "cut": "features.5"}, "alexnet cannot take images of 8"),
    ],
)
def test_an_impossible_split_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CloudSegment(dataclasses.replace(SPLIT, **change), weights="none")
