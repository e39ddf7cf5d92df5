"""Which normalisation learns online: BatchNorm or GroupNorm, with and without rehearsal, on a correlated stream.

    python benchmarks/normalization.py

The simulated camera shows one toy for several frames in a row, six toys first, two more from half way on. Robot and
cloud train in this process, without a broker, on one thread. Tested on scenes of another seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import tyro
from torch import nn

from broker.codec import pack
from broker.messages import ActivationBatch, RobotState, SplitSpec
from broker.quantize import dequantize, pack_activations
from cloud_trainer.segment import CloudSegment
from cloud_trainer.session import RobotSession
from cloud_trainer.store import Event
from cloud_trainer.trainer import CloudTrainer
from hierarchy.device import Compute
from hierarchy.evaluation import HeldOut
from robot_edge.batches import Batcher
from robot_edge.config import RobotConfig
from robot_edge.frame_memory import FrameMemory
from robot_edge.segment import build_edge
from robot_edge.sources import open_source
from robot_edge.trainer import EdgeStep, EdgeTrainer

PHASES = "ball,block,car,cone,fish,house|ball,block,car,cone,fish,house,key,mug"
# Channels in a group of GroupNorm, where the layer has as many (Wu and He, 2018, use 16 channels or 32 groups).
GROUP_CHANNELS = 16


@dataclass(frozen=True, kw_only=True)
class Settings:
    """BatchNorm against GroupNorm online."""

    images: int = 5000
    seeds: int = 1


def main(settings: Settings) -> None:
    print("| normalisation | rehearsed for each fresh | exit | cloud |\n| --- | --- | --- | --- |")
    for norm in ("BatchNorm", "GroupNorm"):
        for rehearse in (0.0, 0.5, 1.0):
            results = [train(norm, rehearse, settings.images, seed) for seed in range(settings.seeds)]
            exit_accuracy, cloud_accuracy = np.mean(results, axis=0)
            print(f"| {norm} | {rehearse:g} | {100 * exit_accuracy:.1f} % | {100 * cloud_accuracy:.1f} % |", flush=True)


def train(norm: str, rehearse: float, images: int, seed: int) -> tuple[float, float]:
    """Return the accuracies of exit and cloud on other scenes."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    config = RobotConfig(source="sim:", bottleneck=16, phases=PHASES, rehearse=rehearse, images=images, seed=seed)
    segment, split, start = build_edge(config)
    cloud_segment = CloudSegment(split, pretrained=False)
    if norm == "GroupNorm":
        use_group_norm(segment)
        use_group_norm(cloud_segment)
    compute = Compute(device=torch.device("cpu"))
    edge = EdgeTrainer(segment, bits=4, compute=compute, peak_learning_rate=config.learning_rate, seed=seed)
    cloud = CloudTrainer(cloud_segment, compute=compute, peak_learning_rate=config.learning_rate)
    state = RobotState(
        boot="0" * 16,
        run="0" * 16,
        former="",
        edits=0,
        started=0,
        online=True,
        split=split,
        weights=start,
        rehearse=rehearse,
    )
    log: dict[int, bytes] = {}
    session = RobotSession("bench", state, cloud, batch=config.batch, memory=50_000, seed=seed, read=log.__getitem__)
    source = open_source("sim:", image_size=32, phases=config.phase_classes, images=images, seed=seed)
    batcher = Batcher(
        source=source, size=config.fresh_per_batch, image_size=32, held_out_every=0, held_out=FrameMemory(0, 32, 0)
    )
    memory = FrameMemory(5000, 32, seed)
    while (batch := batcher.next()) is not None:
        rehearsed = memory.draw(round(len(batch.names) * rehearse))
        frames = np.concatenate([batch.images, *(one.image[None] for one in rehearsed)])
        names = batch.names + [one.name for one in rehearsed]
        step = edge.step(frames, names, fresh=len(batch.names), progress=batcher.progress)
        number = len(log) + 1
        log[number] = pack(message(step, batch.names, split, sequence=number, progress=batcher.progress))
        session.apply(Event(id=number, robot="bench", kind="batch", payload=log[number]))
        for name, image in zip(batch.names, batch.images, strict=True):
            memory.add(name, image)
    session.apply(Event(id=len(log) + 1, robot="bench", kind="flush", payload=b""))
    return test(edge, cloud, config)


def message(
    step: EdgeStep, names: list[str], split: SplitSpec, *, sequence: int, progress: float | None
) -> ActivationBatch:
    classes = tuple(dict.fromkeys(names))
    return ActivationBatch(
        boot="0" * 16,
        sequence=sequence,
        split=split.fingerprint,
        evaluation=0,
        progress=progress,
        edge_version=0,
        edits=0,
        session=0,
        classes=classes,
        labels=np.array([classes.index(name) for name in names], np.uint16),
        samples=np.zeros(len(names), np.uint32),
        again=False,
        activations=pack_activations(step.quantized[: len(names)]),
    )


def test(edge: EdgeTrainer, cloud: CloudTrainer, config: RobotConfig) -> tuple[float, float]:
    unseen = open_source("sim:", image_size=32, phases=config.phase_classes[1:], images=1600, seed=config.seed + 1000)
    reader = Batcher(source=unseen, size=200, image_size=32, held_out_every=0, held_out=FrameMemory(0, 32, 0))
    at_exit, in_cloud = HeldOut(), HeldOut()
    while (batch := reader.next()) is not None:
        predicted, quantized = edge.evaluate(batch.images)
        at_exit.add(batch.names, predicted)
        in_cloud.add(batch.names, cloud.predict(dequantize(quantized)))
    assert at_exit.accuracy is not None
    assert in_cloud.accuracy is not None
    return at_exit.accuracy, in_cloud.accuracy


def use_group_norm(module: nn.Module) -> None:
    """Replace every BatchNorm below a module by GroupNorm."""
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, nn.GroupNorm(max(1, child.num_features // GROUP_CHANNELS), child.num_features))
        else:
            use_group_norm(child)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
