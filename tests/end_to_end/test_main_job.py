"""The main job on real brokers: a robot and a cloud learn together what one network learns alone."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from broker.wire.quantize import dequantize
from cloud_trainer.session.session_state import LAYOUT
from hierarchy.augment import augment
from hierarchy.backbone import build_backbone
from hierarchy.cloud import CloudSegment, CloudTrainer
from hierarchy.device import Compute
from hierarchy.edge import EdgeTrainer, normalise
from hierarchy.evaluation import HeldOut
from hierarchy.head import GrowingHead
from hierarchy.learner import restore_weights
from hierarchy.optimizer import set_learning_rate, sgd
from hierarchy.runtime.checkpoint import load_checkpoint
from robot_edge.commands import main as robot_main
from robot_edge.learning.batcher import Batch, Batcher
from robot_edge.learning.frame_memory import FrameMemory
from robot_edge.learning.framed import Framed
from robot_edge.learning.framing import Framing
from robot_edge.learning.segment import build_edge
from robot_edge.run.config import RobotConfig
from robot_edge.sources.opening import open_source

if TYPE_CHECKING:
    from tests.end_to_end.conftest import MainJob, Program

IMAGES, HELD_OUT = 480, 200
CLASSES = {"red", "green", "blue", "yellow"}
FIGURES = {
    "images",
    "classes",
    "exit_accuracy",
    "cloud_accuracy",
    "exit_prequential",
    "cloud_prequential",
    "bytes_per_image",
    "raw_bytes_per_image",
    "jpeg_bytes_per_image",
    "images_per_second",
    "messages_sent",
    "messages_trained",
    "messages_rejected",
    "dropped",
}
CPU = Compute(device=torch.device("cpu"))
# Of 200 held-out pictures. A run may differ from another by its dtype, which is chosen by measurement.
TOLERANCE = 0.1


@pytest.fixture(name="config")
def _config(main_job: MainJob, monkeypatch: pytest.MonkeyPatch) -> RobotConfig:
    """What the robot's config.toml gives when it is loaded again, with another run folder."""
    configs: list[RobotConfig] = []
    monkeypatch.setattr("robot_edge.run.start.run", configs.append)
    path = main_job.robot.run_dir / "config.toml"
    monkeypatch.setattr(sys, "argv", ["robot-edge", "run", "--config", str(path), "--run-dir", "elsewhere"])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    robot_main()
    return configs[0]


@pytest.fixture(scope="session", name="test_batch")
def _test_batch(pictures: Path) -> Batch:
    batch = _batcher(f"{pictures}/test", HELD_OUT).next()
    assert batch is not None
    assert len(batch.names) == HELD_OUT
    return batch


@pytest.fixture(scope="session", name="whole_network")
def _whole_network(pictures: Path, test_batch: Batch) -> dict[str, float]:
    """Accuracy of the uncut network before and after training on the same frames, with the same settings."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    backbone = build_backbone("resnet18", image_size=16, weights="none")
    head = GrowingHead(backbone.features)
    head.grow(sorted(CLASSES), None)
    network = nn.Sequential(backbone.module, head)
    optimizer = sgd(network, CPU)
    untrained = _accuracy(network, head, test_batch)
    batcher, steps = _batcher(f"{pictures}/train", size=16), 0
    while (batch := batcher.next()) is not None:
        network.train()
        set_learning_rate(optimizer, 0.02, steps=steps, progress=batcher.progress)
        logits = network(torch.from_numpy(normalise(augment(batch.images, rng))))
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(logits, torch.tensor(head.indices(batch.names))))
        optimizer.step()
        steps += 1
    return {"untrained": untrained, "trained": _accuracy(network, head, test_batch)}


def _batcher(folder: str, size: int) -> Batcher:
    source = open_source(f"folder:{folder}", image_size=16)
    frames = Framed(source, Framing(size=16).input)
    return Batcher(source=frames, size=size, image_size=16, held_out_every=0, held_out=FrameMemory(0, 16, 0))


@torch.inference_mode()
def _accuracy(network: nn.Module, head: GrowingHead, batch: Batch) -> float:
    network.eval()
    guesses = network(torch.from_numpy(normalise(batch.images))).argmax(1).tolist()
    return _right(batch.names, [head.classes[index] for index in guesses])


def _right(names: list[str], predicted: list[str]) -> float:
    result = HeldOut()
    result.add(names, predicted)
    assert result.accuracy is not None
    return result.accuracy


def _both(job: MainJob) -> list[Program]:
    return [job.robot, job.trainer]


def test_both_end_well(main_job: MainJob) -> None:
    assert (main_job.robot_status, main_job.trainer_status) == (0, 0)
    for program in _both(main_job):
        assert "Traceback" not in program.printed
        assert "Warning" not in program.printed


def test_both_summaries_hold_every_figure(main_job: MainJob) -> None:
    for summary in (program.summary for program in _both(main_job)):
        assert summary.keys() >= FIGURES
        assert all(summary[name] is not None and np.all(summary[name] != -1) for name in FIGURES)
        assert set(summary["classes"]) == CLASSES
        assert summary["images"] == IMAGES
        assert summary["raw_bytes_per_image"] == 3 * 16 * 16
        assert 0 < summary["bytes_per_image"] < summary["jpeg_bytes_per_image"]
        assert summary["bytes_per_image"] < summary["raw_bytes_per_image"] / 4
    robot, cloud = (program.summary for program in _both(main_job))
    told = FIGURES - {"classes"}
    assert {name: robot[name] for name in told} == {name: cloud[name] for name in told}
    assert robot["held_out_images"] == HELD_OUT
    assert not robot["interrupted"]


def test_every_message_is_trained_on(main_job: MainJob) -> None:
    for summary in (program.summary for program in _both(main_job)):
        assert summary["messages_sent"] == summary["messages_trained"] == IMAGES // 16
        assert summary["messages_rejected"] == summary["dropped"] == 0


def test_both_ends_learn_what_the_whole_network_learns(main_job: MainJob, whole_network: dict[str, float]) -> None:
    assert whole_network["untrained"] < 0.5
    summary = main_job.robot.summary
    for end in ("exit", "cloud"):
        accuracy = summary[f"{end}_accuracy"]
        assert accuracy > whole_network["untrained"] + 0.4
        assert accuracy >= whole_network["trained"] - TOLERANCE
        assert 0.4 < summary[f"{end}_prequential"] <= 1


def test_metrics_follow_the_run(main_job: MainJob) -> None:
    robot, cloud = (program.metrics for program in _both(main_job))
    for lines in (robot, cloud):
        images = [line["images"] for line in lines]
        assert images == sorted(images)
        assert images[-1] == IMAGES
        assert lines[-1]["classes"] == len(CLASSES)
        assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    for end, lines in (("exit", robot), ("cloud", cloud)):
        # While a robot waits for the cloud it writes its last loss again and again.
        losses = [
            line[f"{end}_loss"] for before, line in pairwise([{}, *lines]) if line["images"] != before.get("images")
        ]
        assert all(map(math.isfinite, losses))
        assert np.mean(losses[-5:]) < np.mean(losses[:5]) / 2


def test_curves_are_a_picture(main_job: MainJob) -> None:
    for program in _both(main_job):
        with Image.open(program.run_dir / "curves.png") as picture:
            colours = picture.convert("RGB").getcolors(maxcolors=picture.width * picture.height)
            assert len(colours or []) > 10


def test_config_loads_again_and_flags_win(main_job: MainJob, config: RobotConfig, pictures: Path) -> None:
    assert config.source.source == f"folder:{pictures}/train"
    assert (config.robot, config.network.image_size, config.network.bottleneck, config.learning.learning_rate) == (
        "main",
        16,
        16,
        0.02,
    )
    assert config.run_dir == "elsewhere"


def test_checkpoints_predict_as_the_run_said(main_job: MainJob, config: RobotConfig, test_batch: Batch) -> None:
    segment, split, start = build_edge(replace(config.network, weights=str(main_job.robot.run_dir)))
    assert start == "checkpoint"
    edge = EdgeTrainer(segment, bits=config.network.bits, compute=CPU, peak_learning_rate=0)
    predicted, quantized = edge.evaluate(test_batch.images)
    summary = main_job.robot.summary
    assert _right(test_batch.names, predicted) == pytest.approx(summary["exit_accuracy"], abs=0.03)

    saved = load_checkpoint(main_job.trainer.run_dir / "checkpoint" / "main", LAYOUT)
    cloud_segment = CloudSegment(split, weights="none")
    restore_weights(cloud_segment, cloud_segment.head, saved.learner)
    cloud = CloudTrainer(cloud_segment, compute=CPU, peak_learning_rate=0)
    assert _right(test_batch.names, cloud.predict(dequantize(quantized))) == pytest.approx(
        summary["cloud_accuracy"], abs=0.03
    )
