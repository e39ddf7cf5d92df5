"""How long a training step of each half takes, for every way to compute that is tried at a start.

    python benchmarks/compute.py

One thread, batches of 64, steps in turns; the fastest step of each counts.
Its figures are in docs/results/computing.md.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import tyro
from recording import Table, record
from torch import nn

from hierarchy.cloud import CloudSegment, CloudTrainer
from hierarchy.device import Compute, ways_to_compute
from hierarchy.edge import EdgeTrainer
from robot_edge.learning.segment import build_edge
from robot_edge.run.config import RobotConfig


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Time of a training step."""

    networks: tuple[str, ...] = ("resnet18:layer2", "vgg16_bn:features.22")
    """BACKBONE:CUT of each."""
    batch: int = 64
    turns: int = 6
    compile: bool = False
    """Also with torch.compile, which takes minutes and a C++ compiler."""


def main(settings: Settings) -> None:
    torch.set_num_threads(1)
    ways = ways_to_compute(torch.device("cpu"))
    table = Table("Fastest step of 64 pictures, one thread", "network", "half", *(f"{way}, ms" for way in ways))
    for network in settings.networks:
        backbone, cut = network.split(":")
        config = RobotConfig.from_flags(source="sim:", backbone=backbone, cut=cut, bits=2, bottleneck=16)
        edge, split, _ = build_edge(config.network)
        cloud = CloudSegment(split, weights="none")
        for compiled in (False, True) if settings.compile else (False,):
            for name, module, step_of in (("robot", edge, edge_step), ("cloud", cloud, cloud_step)):
                steps = [step_of(copy.deepcopy(module), split.shape, way, settings, compiled) for way in ways]
                best = [round(1e3 * one) for one in in_turns(steps, settings.turns)]
                table.row(network, f"{name}{', compiled' if compiled else ''}", *best)
    record(table)


def in_turns(steps: list[Callable[[], object]], turns: int) -> list[float]:
    """Return the fastest of so many calls of each, behind one that does not count."""
    best = [float("inf")] * len(steps)
    for turn in range(turns + 1):
        for place, step in enumerate(steps):
            start = time.perf_counter()
            step()
            if turn:
                best[place] = min(best[place], time.perf_counter() - start)
    return best


def edge_step(
    segment: nn.Module, _shape: tuple[int, ...], way: Compute, settings: Settings, compiled: bool
) -> Callable[[], object]:
    trainer = EdgeTrainer(segment, bits=2, compute=way, peak_learning_rate=0.05)  # type: ignore[arg-type]
    if compiled:
        trainer.segment.front.compile()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (settings.batch, 32, 32, 3), np.uint8)
    return partial(trainer.step, images, names(settings.batch), fresh=settings.batch, progress=None)


def cloud_step(
    segment: nn.Module, shape: tuple[int, ...], way: Compute, settings: Settings, compiled: bool
) -> Callable[[], object]:
    trainer = CloudTrainer(segment, compute=way, peak_learning_rate=0.05)  # type: ignore[arg-type]
    if compiled:
        trainer.segment.rest.compile()
    activations = np.random.default_rng(0).standard_normal((settings.batch, *shape), np.float32)
    return partial(trainer.step, activations, names(settings.batch), fresh=settings.batch, progress=None)


def names(batch: int) -> list[str]:
    return [str(index % 10) for index in range(batch)]


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
