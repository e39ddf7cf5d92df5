"""What the robot's node costs beside a bare training loop, and what share of a step quantizing and packing takes.

    python benchmarks/edge_overhead.py

The bare loop is forward, backward and optimizer step of the same edge segment and exit on frames in memory: no source,
no augmentation, no quantization, no broker. It runs on core 0 while core 1 is kept as busy with cloud steps as the
trainer keeps it during the node's run. The two take turns; figures are medians.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import torch
import tyro
from three_processes import run_main_job
from torch.nn import functional as F

from broker.quantize import dequantize, pack_activations, quantize
from cloud_trainer.segment import CloudSegment
from cloud_trainer.trainer import CloudTrainer
from hierarchy.device import Compute
from robot_edge.config import RobotConfig
from robot_edge.segment import build_edge
from robot_edge.trainer import EdgeTrainer, normalise

CLASSES = [str(number) for number in range(10)]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Robot node against a bare loop."""

    data: Path | None = None
    """Folder of pictures by class; the simulated camera where there is none."""
    images: int = 3000
    """Frames in each run of the node."""
    rounds: int = 3
    out: Path = Path("runs/benchmarks/edge-overhead")


def main(settings: Settings) -> None:
    config = RobotConfig(source="sim:", bits=4, bottleneck=16, rehearse=0)
    bare, node, codec = [], [], []
    for number in range(settings.rounds):
        with_images, codec_share = in_process(config)
        bare.append(with_images)
        codec.append(codec_share)
        source = f"folder:{settings.data}" if settings.data else "sim:"
        flags = f"--source {source} --images {settings.images} --bits 4 --bottleneck 16 --rehearse 0"
        summary = run_main_job(settings.out / str(number), flags.split(), cores=(0, 1))
        node.append(summary["images_per_second"])
        print(f"round {number + 1}: bare loop {bare[-1]:.0f} images/s, node {node[-1]:.0f} images/s", flush=True)
    ratios = [one / other for one, other in zip(node, bare, strict=True)]
    print(f"node / bare loop: {statistics.median(ratios):.3f} (each round: {[round(ratio, 3) for ratio in ratios]})")
    print(f"quantize, dequantize, pack and lz4: {100 * statistics.median(codec):.2f} % of a training step")


def in_process(config: RobotConfig) -> tuple[float, float]:
    """Return images/s of the bare loop and the codec's share of an EdgeTrainer step, with core 1 busy."""
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    busy = context.Process(target=keep_core_busy, args=(config, ready, done))
    busy.start()
    ready.wait()
    result = context.Queue()
    worker = context.Process(target=measure, args=(config, result))
    worker.start()
    measured: tuple[float, float] = result.get()
    worker.join()
    done.set()
    busy.join()
    return measured


def keep_core_busy(config: RobotConfig, ready: Event, done: Event) -> None:
    os.sched_setaffinity(0, {1})
    torch.set_num_threads(1)
    _, split, _ = build_edge(config)
    trainer = CloudTrainer(CloudSegment(split, pretrained=False), compute=plain(), peak_learning_rate=0.01)
    activations = np.random.default_rng(0).standard_normal((config.batch, *split.shape), np.float32)
    names = [CLASSES[index % 10] for index in range(config.batch)]
    ready.set()
    while not done.is_set():
        trainer.step(activations, names, fresh=config.batch, progress=None)


def measure(config: RobotConfig, result: multiprocessing.Queue[tuple[float, float]]) -> None:
    os.sched_setaffinity(0, {0})
    torch.set_num_threads(1)
    # The node chooses the faster layout at its start; the bare loop gets the better of the two as well.
    rates = [bare_loop(config, Compute(device=torch.device("cpu"), channels_last=layout)) for layout in (False, True)]
    result.put((max(rates), codec_share(config)))


def bare_loop(config: RobotConfig, compute: Compute) -> float:
    """Return images/s."""
    segment, _, _ = build_edge(config)
    trainer = EdgeTrainer(segment, bits=config.bits, compute=compute, peak_learning_rate=0.01)
    segment.exit.head.grow(CLASSES, trainer.optimizer)
    images = np.random.default_rng(0).integers(0, 256, (config.batch, 32, 32, 3), np.uint8)
    frames = compute.tensor(normalise(images))
    labels = torch.arange(config.batch) % 10
    segment.train()

    def step() -> None:
        loss = F.cross_entropy(segment.exit(segment.encode(frames)), labels)
        trainer.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        trainer.optimizer.step()

    return config.batch / median_seconds(step, 40)


def codec_share(config: RobotConfig) -> float:
    """Return the time of quantize, dequantize, pack and lz4 over that of a whole EdgeTrainer step."""
    segment, split, _ = build_edge(config)
    trainer = EdgeTrainer(segment, bits=config.bits, compute=plain(), peak_learning_rate=0.01)
    images = np.random.default_rng(0).integers(0, 256, (config.batch, 32, 32, 3), np.uint8)
    names = [CLASSES[index % 10] for index in range(config.batch)]
    step = median_seconds(lambda: trainer.step(images, names, fresh=config.batch, progress=None), 20)
    values = np.random.default_rng(0).standard_normal((config.batch, *split.shape), np.float32)

    def codec() -> None:
        quantized = quantize(values, config.bits)
        dequantize(quantized)
        pack_activations(quantized)

    return median_seconds(codec, 200) / step


def plain() -> Compute:
    return Compute(device=torch.device("cpu"))


def median_seconds(work: object, times: int) -> float:
    assert callable(work)
    work()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
