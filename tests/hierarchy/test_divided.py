from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torchvision import models

import hierarchy
from broker.errors import ConfigError, CutError, Diverged, ReflexarcError
from broker.wire.quantize import packed_size
from hierarchy.backbone import build_backbone
from hierarchy.divided import PREDICTED_AT_ONCE
from hierarchy.evaluation import Prequential
from hierarchy.random_state import TorchRandom
from hierarchy.runtime.checkpoint import CHECKPOINT, save_checkpoint
from hierarchy.runtime.state import Layout
from tests.hierarchy.test_edge import SIZE, STRIPES, batch

SEED = 3


def network(**settings: Any) -> hierarchy.DividedNetwork:
    its = {"image_size": SIZE, "bottleneck": 8, "seed": SEED, "device": "cpu", **settings}
    return hierarchy.divide("shufflenet_v2_x0_5", "stage2", **its)


@pytest.fixture(scope="module")
def fresh() -> hierarchy.DividedNetwork:
    """One that no test trains."""
    return network()


def test_both_halves_learn_in_one_process() -> None:
    both = hierarchy.divide("resnet18", "layer1", image_size=SIZE, bottleneck=8, device="cpu")
    steps = [both.step(*batch(24, number), progress=number / 16) for number in range(16)]
    images, names = batch(60, seed=1000)
    seen = both.predict(images)
    for answers, losses, correct in (
        (seen.exit, [step.exit_loss for step in steps], [step.exit_correct for step in steps]),
        (seen.cloud, [step.cloud_loss for step in steps], [step.cloud_correct for step in steps]),
    ):
        assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:3])
        assert np.mean(correct[-3:]) > 0.8
        assert np.mean(np.array(answers.names) == names) > 0.8
        assert answers.confidences.dtype == np.float32
        assert ((answers.confidences > 1 / 3) & (answers.confidences <= 1)).all()
    assert both.classes == both.cloud_trainer.classes == STRIPES


def test_without_the_quantizer_the_halves_are_the_whole_network() -> None:
    both = network(bottleneck=0, classes=STRIPES)
    with TorchRandom(SEED, torch.device("cpu")):
        whole = build_backbone("shufflenet_v2_x0_5", image_size=SIZE, weights="none").module
    for module in (whole, both.edge, both.cloud):
        module.eval()
    images = torch.randn(4, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.equal(both.cloud(both.edge.encode(images)), both.cloud.head(whole(images)))


def test_a_pretrained_one_begins_with_the_same_axes_at_both_ends_and_comes_back_with_them(tmp_path: Path) -> None:
    torch.save(models.get_model("shufflenet_v2_x0_5", weights=None).state_dict(), tmp_path / "weights.pth")
    one = network(image_size=96, weights=tmp_path / "weights.pth", freeze=("all",))
    narrow, wide = one.edge.bottleneck.get_parameter("0.weight"), one.cloud.expansion.get_parameter("0.weight")
    assert torch.equal(narrow.flatten(1).T, wide.flatten(1))
    images = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), np.uint8)
    one.step(images, ["cat", "dog", "cat", "dog"])
    one.save(tmp_path)
    other = hierarchy.DividedNetwork.load(tmp_path, device="cpu")
    assert np.array_equal(one.predict(images).cloud.confidences, other.predict(images).cloud.confidences)


def test_of_a_pooled_map_fewer_values_cross() -> None:
    pooled = network(pool=2)
    step = pooled.step(*batch(12, 0))
    assert pooled.split.shape == step.quantized.codes.shape[1:] == (8, 2, 2)


@pytest.mark.parametrize("pool", [0, 2])
def test_a_saved_one_goes_on_bit_for_bit(tmp_path: Path, pool: int) -> None:
    one = network(freeze=("stem",), cloud_learning_rate=0.03, pool=pool)
    for number in range(2):
        one.step(*batch(12, number))
    one.save(tmp_path)
    torch.rand(5)  # somebody else draws
    other = hierarchy.DividedNetwork.load(tmp_path, device="cpu")
    images, names = batch(12, seed=7)
    for _ in range(2):
        ours, theirs = one.step(images, names, fresh=8), other.step(images, names, fresh=8)
        assert (ours.exit_loss, ours.cloud_loss) == (theirs.exit_loss, theirs.cloud_loss)
    assert np.array_equal(one.predict(images).cloud.confidences, other.predict(images).cloud.confidences)
    for half, same in ((one.edge, other.edge), (one.cloud, other.cloud)):
        state = same.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in half.state_dict().items())


def test_a_new_class_is_met_while_it_trains_or_named_before() -> None:
    both = network(classes=["down"])
    images, names = batch(4, seed=0)
    assert set(both.predict(images).exit.names) == {"down"}
    both.step(images, names)
    assert both.classes == both.cloud_trainer.classes == ("down", "across", "none")


def test_before_the_first_class_there_is_no_answer(fresh: hierarchy.DividedNetwork) -> None:
    seen = fresh.predict(batch(3, seed=0)[0])
    for answers in (seen.exit, seen.cloud):
        assert answers.names == ["", "", ""]
        assert answers.confidences.tolist() == [0, 0, 0]


def test_more_images_than_fit_one_forward_pass_are_all_answered(fresh: hierarchy.DividedNetwork) -> None:
    images, _ = batch(PREDICTED_AT_ONCE + 1, seed=0)
    seen = fresh.predict(images)
    assert len(seen.exit.names) == len(seen.cloud.confidences) == len(images)


def test_what_crosses_is_counted_in_bytes_as_it_travels() -> None:
    few, many = (network(bits=bits).step(*batch(8, seed=0)) for bits in (1, 8))
    values = many.quantized.codes.size
    for step, bits in ((few, 1), (many, 8)):
        assert 0 < step.crossed_bytes <= packed_size(values, bits) + 8 * 2 * 4
    assert few.crossed_bytes < many.crossed_bytes / 4


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"bits": 9}, ConfigError, "bits 9: use 1 to 8"),
        ({"bottleneck": 49}, CutError, "use 1 to 48"),
        ({"freeze": ["layer9"]}, ConfigError, "layer9"),
        ({"device": "tpu"}, ConfigError, "use auto, cuda, mps, cpu"),
        ({"bits": 2.5}, ConfigError, r"bits 2\.5: use 1 to 8"),
        ({"weights": "imagenet"}, ConfigError, "weights imagenet: use none or default"),
        ({"edge_learning_rate": math.nan}, ConfigError, "edge_learning_rate nan: use 0 or more"),
        ({"cloud_learning_rate": -1}, ConfigError, "cloud_learning_rate -1: use 0 or more"),
        ({"seed": -1}, ConfigError, "seed -1: use a whole number"),
        ({"classes": ["a", "b", "a"]}, ConfigError, "name each one once"),
        ({"classes": [1]}, ConfigError, "has to be text, not 1"),
    ],
)
def test_settings_that_cannot_work_say_what_would(
    settings: dict[str, Any], error: type[ConfigError], message: str
) -> None:
    with pytest.raises(error, match=message):
        network(**settings)


def test_images_of_another_shape_and_names_of_another_number_are_refused(fresh: hierarchy.DividedNetwork) -> None:
    images, names = batch(4, seed=0)
    wrong_ones: list[Any] = [images[:, :8], images.astype(np.float32), images[:0]]
    for wrong in wrong_ones:
        with pytest.raises(ValueError, match=rf"give uint8 \(N, {SIZE}, {SIZE}, 3\)"):
            fresh.predict(wrong)
    with pytest.raises(ValueError, match="4 images and 3 class names"):
        fresh.step(images, names[:3])
    assert fresh.edge_trainer.steps == fresh.cloud_trainer.steps == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"progress": math.nan}, ValueError, "progress nan: use 0 to 1"),
        ({"progress": 1.5}, ValueError, "progress 1.5: use 0 to 1"),
        ({"fresh": 5}, ValueError, "fresh 5: use 0 to 4"),
        ({"fresh": -1}, ValueError, "fresh -1: use 0 to 4"),
        *(({"names": ["a", "b", "c", name]}, ConfigError, "class") for name in (None, 1, "", "n" * 300)),
    ],
)
def test_a_step_that_cannot_be_leaves_the_network_as_it_was(
    fresh: hierarchy.DividedNetwork, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    images, names = batch(4, seed=0)
    with pytest.raises(error, match=message):
        fresh.step(images, **{"names": names, **arguments})
    assert fresh.edge_trainer.steps == fresh.cloud_trainer.steps == len(fresh.classes) == 0


@pytest.mark.parametrize("rate", ["edge_learning_rate", "cloud_learning_rate"])
def test_diverged_training_is_an_error_of_ours(rate: str) -> None:
    both = network(**{rate: 1e30})
    both.step(*batch(12, seed=0), progress=0.3)
    with pytest.raises(Diverged, match=r"diverged.*use a lower .*learning.rate"):
        both.step(*batch(12, seed=1), progress=0.3)


def test_a_checkpoint_of_another_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        hierarchy.DividedNetwork.load(tmp_path)
    save_checkpoint(tmp_path, Layout(kind=Prequential, migrations=(dict,)), Prequential())
    with pytest.raises(ConfigError, match=r"none of ours .*split.*DividedNetwork\.save"):
        hierarchy.DividedNetwork.load(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        ("edge", "learner", "weights", None),
        ("edge", "learner", "random", None),
        ("cloud", "random", None),
        ("edge", "augmentation", "state", None),
        ("edge", "augmentation", "bit_generator", "PCG"),
        ("edge", "augmentation", "state", "inc", -1),
        ("cloud", "largest_step", 10**19),
        ("edge", "learner", "steps", -1),
        ("cloud_learning_rate", math.nan),
        ("split", "image_size", 0),
    ],
)
def test_a_damaged_one_is_named(fresh: hierarchy.DividedNetwork, tmp_path: Path, damage: tuple[Any, ...]) -> None:
    fresh.save(tmp_path)
    with safe_open(tmp_path / CHECKPOINT, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no dict
        metadata = json.loads(file.metadata()["about"])
    *way, last, value = damage
    inner = metadata
    for name in way:
        inner = inner[name]
    inner[last] = {} if value is None else value
    save_file(tensors, tmp_path / CHECKPOINT, metadata={"about": json.dumps(metadata)})
    with pytest.raises(ConfigError, match=f"the checkpoint in {tmp_path} is damaged, or none of ours"):
        hierarchy.DividedNetwork.load(tmp_path, device="cpu")


def test_what_a_newer_version_saved_is_refused_with_its_name(tmp_path: Path) -> None:
    metadata = {"about": '{"schema": 9, "written_by": "reflexarc 9.1"}'}
    save_file({"a": torch.zeros(1)}, tmp_path / CHECKPOINT, metadata=metadata)
    with pytest.raises(ConfigError, match=r"reflexarc 9\.1"):
        hierarchy.DividedNetwork.load(tmp_path)


def test_the_cuts_are_listed_in_the_order_of_computation() -> None:
    points = hierarchy.cut_points("shufflenet_v2_x0_5", image_size=SIZE)
    modules = [point.module for point in points if point.module in ("stage2", "stage3", "stage4")]
    assert modules == ["stage2", "stage3", "stage4"]
    assert {point.module: point.shape for point in points}["stage2"] == (48, 4, 4)


def test_the_package_is_imported_without_torch_and_names_what_it_has() -> None:
    program = "import sys, hierarchy; hierarchy.BalancedMemory, hierarchy.HeldOut; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
    homes = {getattr(hierarchy, name).__module__ for name in hierarchy.__all__}
    assert homes == {f"hierarchy.{room}" for room in ("cut", "divided", "evaluation", "rehearsal")}
    assert dir(hierarchy) == sorted(hierarchy.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        hierarchy.nothing  # noqa: B018


def test_a_place_that_takes_nothing_is_said_in_our_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ReflexarcError, match=r"the network in .*file"):
        network().save(tmp_path / "file" / "below")
