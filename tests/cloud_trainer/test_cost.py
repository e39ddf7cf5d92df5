"""What a network would cost, before anything is built."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from broker.errors import ConfigError
from broker.wire.messages import SplitSpec
from cloud_trainer.config import TrainerConfig
from cloud_trainer.cost import (
    BYTES_PER_PARAMETER,
    COUNTED_CLASSES,
    MAX_STEP_SECONDS,
    MAX_VALUES_IN_STEP,
    Cost,
    TooCostly,
    check_time,
    cost_of,
    machine_speed,
    room_beside,
    timed_samples,
)
from hierarchy.cloud import CloudSegment
from tests.cloud_trainer.world import CPU, SPLIT

pytestmark = pytest.mark.slow

ALL = TrainerConfig().networks_gb * 1e9


def split(**changes: Any) -> SplitSpec:
    return replace(SPLIT, **changes)


LARGE_PICTURES = split(backbone="resnet18", cut="layer1", image_size=1600, bits=1, bottleneck=1, shape=(1, 400, 400))
USUAL = split(backbone="resnet18", cut="layer2", image_size=224, bottleneck=0, shape=(128, 28, 28))


@pytest.mark.parametrize(
    "costly",
    [
        LARGE_PICTURES,
        split(backbone="vit_h_14", cut="encoder.layers.encoder_layer_0", image_size=224, bottleneck=0,
              shape=(1280, 257)),
        split(backbone="regnet_y_128gf", cut="trunk_output.block1", image_size=224, bottleneck=0, shape=(528, 56, 56)),
        split(backbone="vit_l_16", cut="encoder.layers.encoder_layer_0", image_size=640, bottleneck=1, shape=(1, 1601)),
        split(backbone="convnext_large", cut="features.0", image_size=768, bottleneck=1, shape=(1, 192, 192)),
        split(backbone="densenet121", cut="features.pool0", image_size=640, bottleneck=1, shape=(1, 160, 160)),
        split(image_size=4096, shape=(6, 512, 512), cut="stage2"),
    ],
)  # fmt: skip
def test_a_small_state_that_asks_for_much_does_not_fit_by_default(costly: SplitSpec) -> None:
    with pytest.raises(TooCostly):
        room_beside([], cost_of(costly, 64, CPU), round(ALL))


def test_a_usual_network_fits_many_times() -> None:
    cost = cost_of(USUAL, 64, CPU)
    assert 20 * cost.network + cost.work < ALL


def test_what_it_computes_is_what_a_real_step_keeps() -> None:
    """Of a network whose tensors are known: all that autograd saves of a step is alive at its peak."""
    its = split(backbone="resnet18", cut="layer3", image_size=64, bottleneck=0, shape=(256, 8, 8))
    segment = CloudSegment(its, weights="none")
    saved: dict[int, int] = {}
    own = {one.untyped_storage().data_ptr() for one in (*segment.parameters(), *segment.buffers())}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = segment.rest(torch.zeros(16, 256, 8, 8))
    assert kept.requires_grad
    cost = cost_of(its, 16, CPU)
    parameters = sum(one.numel() for one in segment.rest.parameters())
    assert cost.network == BYTES_PER_PARAMETER * (parameters + COUNTED_CLASSES * 512)
    assert sum(saved.values()) < cost.work
    assert cost_of(its, 640, CPU).work > cost_of(its, 320, CPU).work + 20 * sum(saved.values())


def test_nothing_is_allocated_and_no_random_number_drawn_to_know_it() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tracemalloc.start()
    cost_of(replace(LARGE_PICTURES, image_size=1632, shape=(1, 408, 408)), 64, CPU)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert torch.equal(torch.rand(3), expected)
    assert most < 100_000_000


# Cuts in the middle: behind it is all that such a network is made of.
KINDS: dict[str, tuple[str, tuple[int, ...]]] = {
    "alexnet": ("features.9", (256, 13, 13)),
    "densenet121": ("features.transition2.relu", (512, 28, 28)),
    "efficientnet_b0": ("features.4.2.add", (80, 14, 14)),
    "googlenet": ("inception3a.cat", (256, 28, 28)),
    "inception_v3": ("Conv2d_4a_3x3.relu", (192, 71, 71)),
    "maxvit_t": ("blocks.2.layers.1.layers.grid_attention.partition_op.reshape_1", (256, 49, 4)),
    "mnasnet0_5": ("layers.10.0.layers.6", (40, 14, 14)),
    "mobilenet_v2": ("features.9.add", (64, 14, 14)),
    "regnet_x_400mf": ("trunk_output.block3.block3-1.add", (160, 14, 14)),
    "squeezenet1_1": ("features.8", (256, 13, 13)),
    "swin_v2_t": ("features.5.1.add", (384, 14, 14)),
    "vgg11_bn": ("features.17", (512, 28, 28)),
    "vit_b_16": ("encoder.layers.encoder_layer_5.add", (768, 197)),
    "convnext_tiny": ("features.5.2.add", (384, 14, 14)),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_network_can_be_computed(name: str) -> None:
    cut, shape = KINDS[name]
    size = 299 if name == "inception_v3" else 224
    cost = cost_of(split(backbone=name, cut=cut, image_size=size, bottleneck=0, shape=shape), 2, CPU)
    whole = models.get_model_weights(name).DEFAULT.meta["num_params"]  # with a head of as many classes as are counted
    assert cost.network <= BYTES_PER_PARAMETER * whole
    assert cost.flops > 1e8


def test_a_cloud_that_learns_but_a_head_can_be_computed() -> None:
    alone = split(backbone="resnet18", cut="layer4", image_size=224, bottleneck=0, shape=(512, 7, 7))
    assert cost_of(alone, 64, CPU).network == BYTES_PER_PARAMETER * COUNTED_CLASSES * 512


def test_attention_is_no_matrix_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    its = split(backbone="vit_b_16", cut="encoder.layers.encoder_layer_9", image_size=512, bottleneck=0)
    its = replace(its, shape=(768, 1025))
    most = cost_of(its, 64, CPU).work
    monkeypatch.setattr("cloud_trainer.cost._attend_as_devices_do", lambda _rest: None)
    assert most < 0.5 * cost_of(its, 65, CPU).work


def test_a_huge_step_is_refused() -> None:
    with pytest.raises(TooCostly, match=r"a step of 65 samples .* holds 136,314,880 values, limit 134,217,728"):
        cost_of(split(shape=(MAX_VALUES_IN_STEP // 64 // 16, 4, 4)), 65, CPU)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"backbone": "../../etc/passwd"}, "unknown backbone"),
        ({"shape": (7, 2, 2)}, r"says that \(7, 2, 2\) crosses"),
        ({"cut": "nowhere"}, "cannot cut"),
        ({"backbone": "inception_v3", "image_size": 16}, "cannot take images of 16"),
        ({"backbone": "maxvit_t", "image_size": 100}, "maxvit|size|dimension|cannot"),
        ({"backbone": "vit_b_16", "image_size": 4095}, "patches"),
    ],
)
def test_a_network_that_is_none_is_refused_and_that_is_remembered(
    change: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        with pytest.raises(ConfigError, match=reason):
            cost_of(split(**change), 4, CPU)
        monkeypatch.setattr("cloud_trainer.cost.CloudSegment", lambda *_a, **_b: pytest.fail("computed once more"))


def cost(network: int = 0, work: int = 0, flops: int = 0) -> Cost:
    return Cost(network=network, work=work, measuring=0, flops=flops)


def test_networks_stay_and_the_largest_one_s_work_is_added() -> None:
    assert room_beside([cost(1, 9), cost(2, 5)], cost(3, 7), 15) == 15 - 6 - 7
    room_beside([cost(1, 9), cost(2, 5)], cost(3, 7), 15)
    with pytest.raises(TooCostly, match="--networks-gb"):
        room_beside([cost(1, 9), cost(2, 5)], cost(3, 7), 14)


def test_a_step_that_takes_minutes_is_refused() -> None:
    check_time(cost(flops=int(MAX_STEP_SECONDS * 1e11)), 1e11)
    with pytest.raises(TooCostly, match=r"takes 6.1 TFLOP, here 61 s at best, limit 60 s"):
        check_time(cost(flops=int((MAX_STEP_SECONDS + 1) * 1e11)), 1e11)


def test_a_slow_step_is_timed_on_few_samples() -> None:
    speed = machine_speed(CPU)
    assert speed > 1e8
    assert timed_samples(cost(flops=int(0.01 * speed)), 64, CPU) == 64
    assert timed_samples(cost(flops=int(3 * speed)), 64, CPU) == 6
    assert timed_samples(cost(flops=int(300 * speed)), 64, CPU) == 2


def test_arithmetic_is_counted_as_it_is_done() -> None:
    """A multiplication and an addition are two; a backward pass takes as many once or twice again."""
    its = split(backbone="vgg11", cut="features.18", image_size=224, bottleneck=0, shape=(512, 14, 14))
    with torch.device("meta"):
        rest = CloudSegment(its, weights="none").rest
    least = 2 * sum(one.weight.numel() for one in rest.modules() if isinstance(one, nn.Linear))
    assert cost_of(its, 2, CPU).flops > 2 * 2 * least


def test_a_convolution_of_single_channels_costs_no_more_backwards_than_others() -> None:
    its = split(backbone="mobilenet_v2", cut="features.14", image_size=64, bottleneck=0, shape=(160, 4, 4))
    rest = CloudSegment(its, weights="none").rest
    with FlopCounterMode(display=False) as forward:
        rest(torch.zeros(2, *its.shape))
    assert 2 * forward.get_total_flops() < cost_of(its, 2, CPU).flops <= 3 * forward.get_total_flops()
