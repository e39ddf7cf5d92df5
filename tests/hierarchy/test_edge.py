from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from broker.errors import Diverged
from broker.wire.quantize import dequantize
from hierarchy.device import Compute
from hierarchy.edge import EdgeTrainer, fastest_compute, front_digest, normalise
from hierarchy.head import ROWS
from hierarchy.input_spec import IMAGENET_DEVIATION, IMAGENET_MEAN
from robot_edge.learning.segment import build_edge
from robot_edge.run.config import RobotConfig

Pixels = NDArray[np.uint8]
SIZE = 16
CPU = torch.device("cpu")
FLOAT = Compute(device=CPU)
BFLOAT = Compute(device=CPU, dtype=torch.bfloat16, channels_last=True)
STRIPES = ("across", "down", "none")


def trainer(*, compute: Compute = FLOAT, bits: int = 4, peak: float = 0.05, **settings: Any) -> EdgeTrainer:
    torch.manual_seed(0)
    config = RobotConfig.from_flags(
        **{"source": "sim:", "cut": "layer1", "image_size": SIZE, "bottleneck": 8, **settings}
    )
    segment, *_ = build_edge(config.network)
    return EdgeTrainer(segment, bits=bits, compute=compute, peak_learning_rate=peak, seed=1)


def pictures(names: list[str], seed: int) -> Pixels:
    """Noisy stripes across, down, or none: shifts and mirrors leave them what they are."""
    rng = np.random.default_rng(seed)
    images = rng.normal(128, 30, (len(names), SIZE, SIZE, 3))
    wave = 60 * np.sign(np.sin(np.arange(SIZE) * np.pi / 2 + 0.1))
    for image, name in zip(images, names, strict=True):
        if name == "across":
            image += wave[:, None, None]
        elif name == "down":
            image += wave[None, :, None]
    return images.clip(0, 255).astype(np.uint8)


def batch(count: int, seed: int, classes: tuple[str, ...] = STRIPES) -> tuple[Pixels, list[str]]:
    names = [classes[index % len(classes)] for index in range(count)]
    return pictures(names, seed), names


def accuracy(edge: EdgeTrainer, classes: tuple[str, ...] = STRIPES) -> float:
    images, names = batch(60, seed=1000, classes=classes)
    return float(np.mean(np.array(edge.evaluate(images)[0]) == names))


def test_an_exit_at_the_end_learns_with_all_layers_in_front_of_it() -> None:
    edge = trainer(exit="end", cut="layer1")
    before = {name: value.clone() for name, value in edge.segment.state_dict().items()}
    for seed in range(10):
        loss = edge.step(*batch(24, seed), fresh=24, progress=None).loss
    assert loss < 1.0 < np.log(3)
    after = edge.segment.state_dict()
    for name in ("front.layer1.0.conv1.weight", "exit.trunk.layer4.1.conv2.weight"):
        assert not torch.equal(before[name], after[name]), name


@pytest.mark.parametrize("compute", [FLOAT, BFLOAT], ids=str)
def test_it_learns_what_can_be_learned_and_takes_in_a_new_class(compute: Compute) -> None:
    edge = trainer(compute=compute)
    two: tuple[str, ...] = STRIPES[:2]
    losses, correct = [], []
    for number in range(12):
        step = edge.step(*batch(16, number, two), fresh=16, progress=number / 24)
        losses.append(step.loss)
        correct.append(step.correct.mean())
    assert edge.classes == two
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:2])
    assert np.mean(correct[-4:]) > 0.9
    assert accuracy(edge, two) > 0.9
    assert accuracy(edge) < 0.7  # the third class is not known yet
    for number in range(12, 24):
        edge.step(*batch(18, number), fresh=18, progress=number / 24)
    assert edge.classes == STRIPES
    assert accuracy(edge) > 0.9


def test_how_often_a_class_comes_just_now_is_not_learned() -> None:
    def bias_after(fresh: int) -> float:
        """Of the only class that is new, after steps of nothing but noise that hold two thirds of it."""
        edge = trainer()
        edge.step(*batch(24, 0), fresh=24, progress=0.3)
        for number in range(10):
            noise = pictures(["none"] * 24, seed=number)
            edge.step(noise, ["none"] * 12 + list(STRIPES) * 4, fresh=fresh, progress=0.3)
        bias = edge.segment.exit.head.bias.detach()[:3]
        return float(bias[edge.classes.index("none")] - bias.mean())

    assert bias_after(fresh=12) < 0.75 * bias_after(fresh=24)


def test_a_class_that_makes_the_head_larger_is_learned_too() -> None:
    edge = trainer()
    names = [f"class {number}" for number in range(ROWS + 1)]
    images = pictures(names, seed=0)
    edge.step(images[:ROWS], names[:ROWS], fresh=ROWS, progress=0.3)
    edge.step(images, names, fresh=ROWS + 1, progress=0.3)
    before = edge.segment.exit.head.weight.detach().clone()
    edge.step(images, names, fresh=ROWS + 1, progress=0.3)
    moved = (edge.segment.exit.head.weight != before).any(dim=1)
    assert moved.tolist() == [True] * (ROWS + 1) + [False] * (ROWS - 1)


@pytest.mark.parametrize("compute", [FLOAT, BFLOAT], ids=str)
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_the_exit_sees_exactly_what_the_cloud_receives(compute: Compute, bits: int) -> None:
    edge = trainer(compute=compute, bits=bits)
    seen: list[Tensor] = []
    edge.segment.exit.register_forward_pre_hook(lambda _exit, inputs: seen.append(inputs[0].detach().clone()))
    images, names = batch(8, seed=0)
    step = edge.step(images, names, fresh=8, progress=None)
    predicted, quantized = edge.evaluate(images)
    for activations, sent in zip(seen, (step.quantized, quantized), strict=True):
        assert torch.equal(activations.contiguous(), torch.from_numpy(dequantize(sent)).to(activations.dtype))
        assert int(sent.codes.max()) == 2**bits - 1
    assert set(predicted) <= set(STRIPES)


def test_the_gradient_passes_the_quantizer() -> None:
    edge = trainer(bits=1)
    activations: list[Tensor] = []
    gradients: list[Tensor] = []

    def watch(_bottleneck: nn.Module, _inputs: Any, output: Tensor) -> None:
        activations.append(output)
        output.register_hook(gradients.append)  # type: ignore[no-untyped-call]

    edge.segment.bottleneck.register_forward_hook(watch)
    before = edge.segment.front.get_parameter("conv1.weight").detach().clone()
    edge.step(*batch(8, seed=0), fresh=8, progress=0.3)
    received = torch.from_numpy(dequantize(edge.step(*batch(8, seed=0), fresh=8, progress=0.3).quantized))
    assert (received != activations[1]).float().mean() > 0.9, "nothing was rounded"
    assert gradients[0].abs().sum(dim=(1, 2, 3)).min() > 0, "some sample has none"
    assert not torch.equal(edge.segment.front.get_parameter("conv1.weight"), before)


def test_fresh_frames_are_judged_and_all_are_encoded() -> None:
    images, names = batch(9, seed=0)
    step = trainer().step(images, names, fresh=6, progress=None)
    assert step.correct.shape == (6,)
    assert step.quantized.codes.shape == (9, 8, 8, 8)
    assert step.correct.dtype == np.bool_


def test_frames_are_judged_before_they_are_learned_from() -> None:
    edge = trainer(peak=0.0)
    images, names = batch(9, seed=0)
    untrained = edge.step(images, names, fresh=9, progress=0.3).correct.mean()
    edge.learner.peak_learning_rate = 0.05
    first = edge.step(images, names, fresh=9, progress=0.3).correct.mean()
    for _ in range(8):
        last = edge.step(images, names, fresh=9, progress=0.3).correct.mean()
    assert abs(first - untrained) < 0.5  # neither has learned a thing
    assert last > 0.9


def test_a_single_frame_is_learned_from_and_leaves_the_statistics() -> None:
    edge = trainer()
    edge.step(*batch(8, seed=0), fresh=8, progress=0.3)
    before = {name: value.clone() for name, value in edge.segment.state_dict().items()}
    step = edge.step(*batch(1, seed=1), fresh=1, progress=0.3)
    assert np.isfinite(step.loss)
    after = edge.segment.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert "front.conv1.weight" in changed
    assert not {name for name in changed if "running" in name}


def test_frozen_layers_stay_as_they_are_in_every_step() -> None:
    edge = trainer(freeze="stem", compute=BFLOAT)
    before = {name: value.clone() for name, value in edge.segment.state_dict().items()}
    for count in (8, 1, 8):
        edge.step(*batch(count, seed=count), fresh=count, progress=0.3)
        edge.evaluate(batch(2, seed=0)[0])
    same = {name for name, value in edge.segment.state_dict().items() if torch.equal(value, before[name])}
    frozen = {name for name in before if name.startswith(("front.conv1", "front.bn1"))}
    assert frozen <= same
    assert "front.layer1.0.conv1.weight" not in same


def test_an_evaluation_changes_nothing() -> None:
    edge = trainer()
    edge.step(*batch(8, seed=0), fresh=8, progress=0.3)
    before = {name: value.clone() for name, value in edge.segment.state_dict().items()}
    one, other = edge.evaluate(batch(8, seed=1)[0]), edge.evaluate(batch(8, seed=1)[0])
    assert one[0] == other[0]
    assert np.array_equal(one[1].codes, other[1].codes)
    assert all(torch.equal(value, before[name]) for name, value in edge.segment.state_dict().items())


def test_a_diverged_training_says_what_to_do() -> None:
    edge = trainer(peak=1e12)
    edge.step(*batch(8, seed=0), fresh=8, progress=0.3)  # its loss is that of the weights before
    for go_on in (
        lambda: edge.step(*batch(8, seed=1), fresh=8, progress=0.3),
        lambda: edge.evaluate(batch(8, seed=1)[0]),
    ):
        with pytest.raises(Diverged, match=r"diverged .*: use a lower --learning-rate"):
            go_on()


def test_a_loss_that_is_not_finite_is_diverged_too() -> None:
    edge = trainer()
    edge.step(*batch(8, seed=0), fresh=8, progress=0.3)
    with torch.no_grad():
        edge.segment.exit.head.weight[0] = torch.inf
    with pytest.raises(Diverged, match=r"diverged .*: use a lower --learning-rate"):
        edge.step(*batch(8, seed=1), fresh=8, progress=0.3)


@pytest.mark.parametrize("value", [1e6, -1e6, torch.nan, torch.inf, -torch.inf])
def test_one_activation_that_no_message_could_carry_is_diverged(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    edge = trainer()
    edge.step(*batch(8, seed=0), fresh=8, progress=0.3)
    activations = torch.zeros(8, *edge.segment.shape)
    activations[3, 0, 0, 0] = value
    monkeypatch.setattr(edge.segment, "encode", lambda _images: activations)
    with pytest.raises(Diverged, match=r"so have the activations\): use a lower --learning-rate"):
        edge.evaluate(batch(8, seed=1)[0])


def test_normalised_images_are_channels_first_with_zero_mean_and_unit_deviation() -> None:
    rng = np.random.default_rng(0)
    mean, deviation = np.array(IMAGENET_MEAN), np.array(IMAGENET_DEVIATION)
    images = (255 * (mean + deviation * rng.standard_normal((50, SIZE, SIZE, 3)))).clip(0, 255).astype(np.uint8)
    values = normalise(images)
    assert values.dtype == np.float32
    assert values.shape == (50, 3, SIZE, SIZE)
    assert values.mean((0, 2, 3)) == pytest.approx([0, 0, 0], abs=0.05)
    assert values.std((0, 2, 3)) == pytest.approx([1, 1, 1], abs=0.1)
    assert values[7, 2, 3, 5] == pytest.approx((images[7, 3, 5, 2] / 255 - mean[2]) / deviation[2], abs=1e-5)


def test_measuring_leaves_the_segment_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    segment = trainer().segment
    before = {name: value.clone() for name, value in segment.state_dict().items()}
    compute = fastest_compute(segment, image_size=SIZE, batch=16, device=CPU)
    assert not caplog.messages, "all ways come to the same gradient"
    assert compute.device == CPU
    assert segment.exit.head.classes == ()
    assert all(torch.equal(value, before[name]) for name, value in segment.state_dict().items())


def encoded_by(edge: EdgeTrainer) -> NDArray[np.uint8]:
    images, _ = batch(4, seed=5)
    return edge.evaluate(images)[1].codes


@pytest.mark.parametrize(
    ("settings", "version"),
    [({"freeze": "stem,layer1", "bottleneck": 0}, 0), ({"freeze": "stem,layer1"}, 2), ({"freeze": "stem"}, 2)],
    ids=["nothing learns", "the bottleneck learns", "a layer learns"],
)
def test_a_front_that_stands_still_stays_the_same_version(settings: dict[str, Any], version: int) -> None:
    edge = trainer(**settings)
    edge.step(*batch(8, seed=0), fresh=8, progress=None)
    before = encoded_by(edge)
    edge.step(*batch(8, seed=1), fresh=8, progress=None)
    assert (edge.steps, edge.version) == (2, version)
    assert version or np.array_equal(encoded_by(edge), before)


SMALL = {"backbone": "shufflenet_v2_x0_5", "cut": "stage3", "image_size": 32, "freeze": "all", "exit": "end"}


def digest(seed: int = 0, **settings: Any) -> str:
    torch.manual_seed(seed)
    segment, split, _ = build_edge(RobotConfig.from_flags(source="sim:", **{**SMALL, **settings}).network)
    whole = front_digest(segment.state_dict(), split)
    with torch.no_grad():
        segment.exit.head.grow(["cat"], None)
        next(segment.exit.parameters()).add_(1)
    assert front_digest(segment.state_dict(), split) == whole, (
        "what stands behind the cut decides nothing of what crosses"
    )
    return whole


def test_a_front_is_told_from_others_by_all_that_decides_what_crosses() -> None:
    same = digest()
    assert digest() == same
    others = [digest(1), digest(bottleneck=8), digest(bits=2), digest(pool=2), digest(image_size=48)]
    assert len({same, *others}) == 6
    for name in ("front", "bottleneck"):
        torch.manual_seed(0)
        network = RobotConfig.from_flags(source="sim:", **SMALL, bottleneck=8).network
        segment, split, _ = build_edge(network)
        before = front_digest(segment.state_dict(), split)
        next(one for one in getattr(segment, name).state_dict().values() if one.is_floating_point()).add_(1e-6)
        assert front_digest(segment.state_dict(), split) != before, name
