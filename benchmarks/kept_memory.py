"""What it is worth that a program keeps the memory it has freed, and has it in large pages.

    python benchmarks/kept_memory.py

Training steps of one half, 64 images of 32 pixels, in four processes that share core 0 in turns, each held still in the
others': memory from the system as by default (pages of 4 kB, given back when a step is over), freed memory kept, large
pages, and both, as both ends have it (`broker/program/startup.py`). Page faults are those that the process counts.
Its figures are in docs/results/computing.md.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
import tyro
from compute import Settings as Steps
from compute import cloud_step, edge_step
from recording import Table, record
from turns import Runner, take_turns

from broker.program.startup import prepare_pytorch
from hierarchy.cloud import CloudSegment
from hierarchy.device import Compute
from robot_edge.learning.segment import build_edge
from robot_edge.run.config import RobotConfig

# As by default, and said by the user: then our programs leave it alone.
UNTOUCHED = {"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}
# What is in the environment.
WAYS: dict[str, dict[str, str]] = {
    "as by default": {"THP_MEM_ALLOC_ENABLE": "0", **UNTOUCHED},
    "freed memory kept": {"THP_MEM_ALLOC_ENABLE": "0"},
    "large pages": {"THP_MEM_ALLOC_ENABLE": "1", **UNTOUCHED},
    "both": {},
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where a training step has its memory from."""

    half: Literal["robot", "cloud"] = "robot"
    turns: int = 10
    """Turns of each."""
    seconds: float = 4.0
    """Length of a turn."""
    out: Path = Path("runs/benchmarks/kept-memory")
    report: Path | None = None
    """Train in this process until killed, and write here how far it is."""


def main(settings: Settings) -> None:
    if settings.report:
        train(settings.half, settings.report)
    settings.out.mkdir(parents=True, exist_ok=True)
    programs = {name: start(name, variables, settings) for name, variables in WAYS.items()}
    try:
        runners = {
            name: Runner(pid=program.pid, images=partial(images, settings.out, name))
            for name, program in programs.items()
        }
        begin = {name: told(settings.out, name) for name in WAYS}
        rates = take_turns(runners, turns=settings.turns, seconds=settings.seconds)
    finally:
        for program in programs.values():
            program.kill()
            program.wait()
    table = Table(
        f"Memory of the {settings.half}'s half",
        *("memory", "images/s, mean", "beside the default, median of turns", "page faults a step"),
    )
    default = next(iter(rates.values()))
    for name, of_it in rates.items():
        ratio = statistics.median(one / other for one, other in zip(of_it, default, strict=True))
        end = told(settings.out, name)
        faults = (end["faults"] - begin[name]["faults"]) / max(1, end["steps"] - begin[name]["steps"])
        table.row(name, round(statistics.fmean(of_it)), round(ratio, 2), round(faults))
    record(table)


def start(name: str, variables: dict[str, str], settings: Settings) -> subprocess.Popen[bytes]:
    """Start a process that trains, and hold it still after a few steps."""
    path = report_of(settings.out, name)
    path.unlink(missing_ok=True)
    flags = ["--half", settings.half, "--report", str(path)]
    command = ["taskset", "-c", "0", sys.executable, __file__, *flags]
    program = subprocess.Popen(command, env={**os.environ, **variables})
    while told(settings.out, name)["steps"] < 5:
        if program.poll() is not None:
            raise SystemExit(f"{name}: it ended")
        time.sleep(0.1)
    program.send_signal(signal.SIGSTOP)
    return program


def report_of(folder: Path, name: str) -> Path:
    return folder / f"{name.replace(' ', '-')}.json"


def told(folder: Path, name: str) -> dict[str, Any]:
    """Return what a process has reported."""
    path = report_of(folder, name)
    reported: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"steps": 0, "faults": 0}
    return reported


def images(folder: Path, name: str) -> int:
    return int(told(folder, name)["steps"]) * Steps().batch


def train(half: str, report: Path) -> NoReturn:
    prepare_pytorch()
    torch.set_num_threads(1)
    config = RobotConfig.from_flags(source="sim:", backbone="resnet18", cut="layer2", bits=2, bottleneck=16)
    edge, split, _ = build_edge(config.network)
    way = Compute(device=torch.device("cpu"), channels_last=True)
    module = edge if half == "robot" else CloudSegment(split, weights="none")
    step = (edge_step if half == "robot" else cloud_step)(module, split.shape, way, Steps(), compiled=False)
    steps = 0
    while True:
        step()
        steps += 1
        new = report.with_suffix(".new")
        new.write_text(json.dumps({"steps": steps, "faults": resource.getrusage(resource.RUSAGE_SELF).ru_minflt}))
        new.replace(report)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
