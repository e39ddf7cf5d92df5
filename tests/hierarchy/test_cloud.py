from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from broker.errors import MalformedMessage
from broker.wire.messages import SplitSpec
from hierarchy.cloud import CloudSegment, CloudTrainer, fastest_compute
from hierarchy.device import Compute
from hierarchy.head import ROWS

SPLIT = SplitSpec(backbone="shufflenet_v2_x0_5", cut="stage3", image_size=16, bits=4, bottleneck=6, shape=(6, 2, 2))
CPU = torch.device("cpu")
FLOAT = Compute(device=CPU)
BFLOAT = Compute(device=CPU, dtype=torch.bfloat16, channels_last=True)
CLASSES = ("cat", "dog", "ant")


def trainer(compute: Compute = FLOAT) -> CloudTrainer:
    torch.manual_seed(0)
    return CloudTrainer(CloudSegment(SPLIT, weights="none"), compute=compute, peak_learning_rate=0.05)


def batch(count: int, seed: int, classes: tuple[str, ...] = CLASSES) -> tuple[NDArray[np.float32], list[str]]:
    """Noise with one channel higher for each class."""
    names = [classes[index % len(classes)] for index in range(count)]
    values = np.random.default_rng(seed).standard_normal((count, *SPLIT.shape)).astype(np.float32)
    for value, name in zip(values, names, strict=True):
        value[CLASSES.index(name)] += 3
    return values, names


def state(cloud: CloudTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in cloud.segment.state_dict().items()}


def accuracy(cloud: CloudTrainer, classes: tuple[str, ...] = CLASSES) -> float:
    values, names = batch(60, seed=1000, classes=classes)
    return float(np.mean(np.array(cloud.predict(values)) == names))


@pytest.mark.parametrize("compute", [FLOAT, BFLOAT], ids=str)
def test_it_learns_what_can_be_learned_and_takes_in_a_new_class(compute: Compute) -> None:
    cloud = trainer(compute)
    two: tuple[str, ...] = CLASSES[:2]
    losses, correct = [], []
    for number in range(25):
        step = cloud.step(*batch(24, number, two), fresh=24, progress=number / 50)
        losses.append(step.loss)
        correct.append(step.correct.mean())
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:2])
    assert np.mean(correct[-4:]) > 0.9
    assert accuracy(cloud, two) > 0.9
    assert accuracy(cloud) < 0.7  # the third class is not known yet
    for number in range(25, 50):
        cloud.step(*batch(24, number), fresh=24, progress=number / 50)
    assert cloud.classes == CLASSES
    assert accuracy(cloud) > 0.9


def test_how_often_a_class_comes_just_now_is_not_learned() -> None:
    def bias_after(fresh: int) -> float:
        """Of the only class that is new, after steps of nothing but noise that hold two thirds of it."""
        cloud, rng = trainer(), np.random.default_rng(0)
        cloud.step(*batch(24, 0), fresh=24, progress=0.3)
        for _ in range(10):
            noise = rng.standard_normal((24, *SPLIT.shape)).astype(np.float32)
            cloud.step(noise, ["ant"] * 12 + list(CLASSES) * 4, fresh=fresh, progress=0.3)
        bias = cloud.segment.head.bias.detach()[:3]
        return float(bias[cloud.classes.index("ant")] - bias.mean())

    assert bias_after(fresh=12) < 0.75 * bias_after(fresh=24)


def test_a_class_that_makes_the_head_larger_is_learned_too() -> None:
    cloud = trainer()
    values, _ = batch(ROWS + 1, seed=0)
    names = [f"class {number}" for number in range(ROWS + 1)]
    cloud.step(values[:ROWS], names[:ROWS], fresh=ROWS, progress=0.3)
    cloud.step(values, names, fresh=ROWS + 1, progress=0.3)
    before = cloud.segment.head.weight.detach().clone()
    cloud.step(values, names, fresh=ROWS + 1, progress=0.3)
    moved = (cloud.segment.head.weight != before).any(dim=1)
    assert moved.tolist() == [True] * (ROWS + 1) + [False] * (ROWS - 1)


def test_only_fresh_samples_are_judged() -> None:
    step = trainer().step(*batch(9, seed=0), fresh=6, progress=None)
    assert step.correct.shape == (6,)
    assert step.correct.dtype == np.bool_


def test_a_single_sample_is_learned_from_and_leaves_the_statistics() -> None:
    cloud = trainer()
    cloud.step(*batch(6, seed=0), fresh=6, progress=0.3)
    before = state(cloud)
    assert np.isfinite(cloud.step(*batch(1, seed=1), fresh=1, progress=0.3).loss)
    changed = {name for name, value in state(cloud).items() if not torch.equal(value, before[name])}
    assert "head.weight" in changed
    assert not {name for name in changed if "running" in name}


def test_a_prediction_changes_nothing_and_is_the_same_for_any_batch() -> None:
    cloud = trainer()
    cloud.step(*batch(6, seed=0), fresh=6, progress=0.3)
    before = state(cloud)
    values, _ = batch(6, seed=1)
    assert cloud.predict(values) == [cloud.predict(values[index : index + 1])[0] for index in range(6)]
    assert all(torch.equal(value, before[name]) for name, value in state(cloud).items())


def test_before_the_first_class_there_is_nothing_to_say() -> None:
    assert trainer().predict(batch(2, seed=0)[0]) == ["", ""]


def test_activations_that_make_the_loss_infinite_take_no_step() -> None:
    cloud = trainer()
    values, names = batch(6, seed=0)
    cloud.step(values, names, fresh=6, progress=0.3)
    parameters = {name: value.detach().clone() for name, value in cloud.segment.named_parameters()}
    values[0, 0, 0, 0] = np.inf
    with pytest.raises(MalformedMessage, match="a loss of nan"):
        cloud.step(values, names, fresh=6, progress=0.3)
    assert cloud.steps == 1
    assert all(torch.equal(value, parameters[name]) for name, value in cloud.segment.named_parameters())


def test_measuring_leaves_the_segment_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    segment = CloudSegment(SPLIT, weights="none")
    before = {name: value.clone() for name, value in segment.state_dict().items()}
    assert fastest_compute(segment, SPLIT.shape, 16, CPU).device == CPU
    assert not caplog.messages, "all ways come to the same gradient"
    assert segment.head.classes == ()
    assert all(torch.equal(value, before[name]) for name, value in segment.state_dict().items())
