"""What threads cost that wait for the next piece of work: on a machine of their own, and beside another process.

    python benchmarks/waiting_threads.py

PyTorch's threads spin while they wait, which is fastest where nobody else needs the processor. A robot and a trainer on
one machine each have as many threads as it has cores. Its figures are in docs/results/computing.md:
training steps of 64 images, images a second of each half, alone and beside the other half.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import tyro
from compute import Settings as Steps
from compute import cloud_step, edge_step
from recording import Table, record

from hierarchy.cloud import CloudSegment
from hierarchy.device import Compute, set_threads
from robot_edge.learning.segment import build_edge
from robot_edge.run.config import RobotConfig

Half = Literal["robot", "cloud"]

# What is set, and to what, before PyTorch is imported.
WAYS: dict[str, dict[str, str]] = {
    "spinning, as by default": {},
    "spinning for 10,000 turns": {"GOMP_SPINCOUNT": "10000"},
    "spinning for 1,000 turns": {"GOMP_SPINCOUNT": "1000"},
    "asleep": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Threads that wait."""

    turns: int = 3
    seconds: float = 8.0
    """Of each measurement."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    half: Half | Literal[""] = ""
    """Measure one half alone, in this process, and print its images a second."""


def main(settings: Settings) -> None:
    if settings.half:
        print(images_a_second(settings, settings.half))
        return
    seen: dict[tuple[str, str, bool], list[float]] = {}
    for _ in range(settings.turns):
        for way, variables in WAYS.items():
            start = partial(process, settings, variables)
            for half in ("robot", "cloud"):
                seen.setdefault((way, half, False), []).append(rate_of(start(half)))
            both = [(half, start(half)) for half in ("robot", "cloud")]
            for half, one in both:
                seen.setdefault((way, half, True), []).append(rate_of(one))
    table = Table(
        f"Images a second, {settings.dtype}, {os.cpu_count()} cores",
        *("threads that wait are", "robot alone", "cloud alone", "robot beside cloud", "cloud beside robot"),
    )
    for way in WAYS:
        cells = [seen[way, half, beside] for beside in (False, True) for half in ("robot", "cloud")]
        table.row(way, *(round(statistics.median(one)) for one in cells))
    record(table)


def process(settings: Settings, variables: dict[str, str], half: str) -> subprocess.Popen[str]:
    flags = ["--half", half, "--seconds", str(settings.seconds), "--dtype", settings.dtype]
    return subprocess.Popen(
        [sys.executable, __file__, *flags], env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True
    )


def rate_of(one: subprocess.Popen[str]) -> float:
    printed, _ = one.communicate()
    return float(printed)


def images_a_second(settings: Settings, half: Half) -> float:
    set_threads(0)
    steps = Steps()
    way = Compute(
        device=torch.device("cpu"),
        dtype=getattr(torch, settings.dtype),
        channels_last=half == "robot" or settings.dtype == "bfloat16",
        small_maps=half == "cloud",
    )
    config = RobotConfig.from_flags(source="sim:", backbone="resnet18", cut="layer2", bits=2, bottleneck=16)
    edge, split, _ = build_edge(config.network)
    module = edge if half == "robot" else CloudSegment(split, weights="none")
    step = (edge_step if half == "robot" else cloud_step)(module, split.shape, way, steps, compiled=False)
    step()
    begin, count = time.perf_counter(), 0
    while (now := time.perf_counter()) < begin + settings.seconds:
        step()
        count += steps.batch
    return count / (now - begin)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
