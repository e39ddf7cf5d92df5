"""Stripes are the class, their tint tells the place: the front learns to tell stripes, and no place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from broker.wire.quantize import dequantize
from hierarchy.attack.attributes import AttributeLeak, attribute_leak
from hierarchy.device import Compute
from hierarchy.edge import EdgeTrainer
from hierarchy.hiding import IN_STEP, Hiding, dependence
from robot_edge.learning.hidden_frames import STRENGTH
from robot_edge.learning.segment import build_edge
from robot_edge.run.config import RobotConfig
from tests.saved_state import read_again

SIZE, STEPS, BATCH = 16, 100, 32
TINTS = {"room": (30, 0, -30), "yard": (-30, 0, 30)}


def frames(count: int, seed: int) -> tuple[NDArray[np.uint8], list[str], list[str]]:
    """Return pictures, classes and places."""
    rng = np.random.default_rng(seed)
    names = [("across", "down")[number % 2] for number in range(count)]
    places = [list(TINTS)[one] for one in rng.integers(0, 2, count)]
    images = rng.normal(128, 30, (count, SIZE, SIZE, 3))
    wave = 40 * np.sign(np.sin(np.arange(SIZE) * np.pi / 2 + 0.1))
    for image, name, place in zip(images, names, places, strict=True):
        image += (wave[:, None, None] if name == "across" else wave[None, :, None]) + np.array(TINTS[place])
    return images.clip(0, 255).astype(np.uint8), names, places


def taught(hiding: Hiding | None) -> tuple[float, AttributeLeak]:
    """Train a front; return the exit's accuracy, and what a probe that learns afterwards finds of the place."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = RobotConfig.from_flags(source="sim:", cut="layer1", image_size=SIZE, privacy="medium", bits=1)
    segment, *_ = build_edge(config.network)
    edge = EdgeTrainer(
        segment, bits=1, compute=Compute(device=torch.device("cpu")), peak_learning_rate=0.05, seed=1, hiding=hiding
    )
    for step in range(STEPS):
        images, names, _ = frames(BATCH, 1000 + step)
        assert len(edge.step(images, names, fresh=BATCH, progress=step / STEPS).quantized) == BATCH
    own, attacked = frames(600, 1), frames(300, 2)
    (_, known), (said, crossed) = edge.evaluate(own[0]), edge.evaluate(attacked[0])
    leak = attribute_leak(
        dequantize(known), own[2], dequantize(crossed), attacked[2], own_classes=own[1], attacked_classes=attacked[1]
    )
    return float(np.mean(np.array(said) == attacked[1])), leak


@pytest.mark.slow
def test_a_probe_finds_no_more_of_what_is_hidden_than_the_class_tells() -> None:
    images, _, places = frames(200, 99)
    hiding = Hiding(images, np.array([list(TINTS).index(place) for place in places]), STRENGTH)
    (open_right, open_leak), (right, leak) = taught(None), taught(hiding)
    assert open_leak.found > 0.9 < open_right
    assert right > 0.9, "the class is told all the same"
    assert leak.from_class is not None
    assert leak.found < leak.known_anyway + 0.1


def test_a_restored_trainer_draws_the_same_frames() -> None:
    images, _, places = frames(40, 99)
    values = np.array([list(TINTS).index(place) for place in places])
    trainers = []
    for _ in range(2):
        segment, *_ = build_edge(RobotConfig.from_flags(source="sim:", cut="layer1", image_size=SIZE).network)
        compute, hiding = Compute(device=torch.device("cpu")), Hiding(images, values, STRENGTH)
        trainers.append(EdgeTrainer(segment, bits=1, compute=compute, peak_learning_rate=0.05, seed=1, hiding=hiding))
    one, other = trainers
    for step in range(3):
        shown, names, _ = frames(8, step)
        one.step(shown, names, fresh=8, progress=None)
        if step == 1:
            other.restore(read_again(one.state()))
    other.step(shown, names, fresh=8, progress=None)
    for name, weight in one.segment.state_dict().items():
        assert torch.equal(weight, other.segment.state_dict()[name]), name


def test_each_value_is_shown_as_often_whatever_there_is_of_it() -> None:
    values = np.array([0] * 90 + [1] * 10)
    images = np.arange(100, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    drawn, theirs = Hiding(images, values, 1.0).draw(np.random.default_rng(0))
    assert sorted(theirs.tolist()) == [0] * (IN_STEP // 2) + [1] * (IN_STEP // 2)
    assert np.array_equal(values[drawn[:, 0, 0, 0]], theirs)


def test_dependence_is_that_of_samples_on_values() -> None:
    torch.manual_seed(0)
    values = torch.arange(64) % 2
    noise = torch.randn(64, 8)
    told = noise.clone()
    told[:, 3] = values * 40.0
    assert dependence(told, values) > 0.9
    assert dependence(noise, values) < 0.1
    # A parity: no mean differs, so nothing linear finds it.
    parity = torch.where(values[:, None] == 1, torch.tensor([[1.0, 1.0], [-1.0, -1.0]]).repeat(32, 1), 0.0)
    parity[values == 0] = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(16, 1)
    assert dependence(parity, values) > 0.2
