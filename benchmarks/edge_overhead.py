"""What the robot's node costs beside a bare training loop, and what share of a step quantizing and packing takes.

    python benchmarks/edge_overhead.py --data PATH/cifar10/train

The bare loop is forward, backward and optimizer step of the same edge segment and exit on one batch in memory: no
source, no augmentation, no quantization, no broker. There are two: one in a program that only imports PyTorch, and one
that has its memory as the node does (`broker/program/startup.py`). They and the node share core 0 in turns of seconds,
each held still (SIGSTOP) in the others'. Broker and trainer have core 1. The trainer is held still while the node warms
up, and so has a backlog of activations and is as busy in one's turn as in the others'.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from ctypes import c_longlong
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path

import numpy as np
import torch
import tyro
from recording import Table, record
from torch.nn import functional as F
from turns import Runner, take_turns

from broker.local.server import start_local_broker
from broker.program.startup import prepare_pytorch
from broker.wire.quantize import dequantize, pack_activations, quantize
from hierarchy.device import Compute
from hierarchy.edge import EdgeTrainer, fastest_compute, normalise
from robot_edge.learning.segment import build_edge
from robot_edge.run.config import RobotConfig
from robot_edge.sources.listing import list_pictures

CLASSES = [str(number) for number in range(10)]
# Images a second that a node trains on at least, or something is wrong.
SLOWEST = 20


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Robot node against a bare loop."""

    data: Path | None = None
    """Folder of pictures by class; without, the simulated camera, which takes a fifth of the node's time to draw."""
    epoch: int = 2
    """Of --data, in which the turns begin: the first reads every picture, later ones find small ones in memory."""
    rounds: int = 5
    """How often all of them are started anew: how fast a process is depends on the memory that it was given, too."""
    turns: int = 4
    """Turns of each in a round."""
    seconds: float = 4.0
    """Length of a turn. Under the robot's heartbeat of five seconds, and long enough for ten steps."""
    warm_up: float = 15.0
    """Seconds for the node to settle and the trainer to fall behind. Under the 30 after which the node sends again."""
    out: Path = Path("runs/benchmarks/edge-overhead")


class Node:
    """The robot's node, as a user starts it, on core 0."""

    def __init__(self, folder: Path, source: str, broker: str) -> None:
        flags = f"--source {source} --epochs 1000 --images 1000000 --bits 4 --bottleneck 16 --rehearse 0".split()
        self.log = folder / "robot.log"
        self.metrics = folder / "robot" / "metrics.jsonl"
        self.process = start("robot_edge", folder / "robot", broker, 0, flags)

    def images(self) -> int:
        """Trained on so far; none while it still measures how to."""
        lines = self.metrics.read_text().splitlines() if self.metrics.exists() else []
        return int(json.loads(lines[-1])["images"]) if lines else 0

    def compute(self) -> Compute:
        """Return how it chose to compute at its start, as its log says."""
        log = self.log.read_text()
        return Compute(
            device=torch.device("cpu"),
            dtype=torch.bfloat16 if "bfloat16" in log else torch.float32,
            channels_last="channels last" in log,
            small_maps="small maps" in log,
        )


def main(settings: Settings) -> None:
    folder = settings.out / time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    source = f"folder:{settings.data}" if settings.data else "sim:"
    config = RobotConfig.from_flags(source="sim:", bits=4, bottleneck=16, rehearse=0)
    context = multiprocessing.get_context("spawn")
    share = context.Queue()
    context.Process(target=measure_codec, args=(config, share)).start()
    codec = Table("Share of the codec in a training step", "", "%")
    codec.row("quantize, dequantize, pack and compress", round(100 * share.get(), 2))

    rates: dict[str, list[float]] = {}
    for number in range(settings.rounds):
        for name, rate in one_round(settings, folder / f"round-{number}", source, config, context).items():
            rates.setdefault(name, []).append(rate)
        show({name: of_it[-1:] for name, of_it in rates.items()})
    shown = f"from epoch {settings.epoch} on" if settings.data else "simulated camera"
    table = Table(f"Node against bare loop, {shown}", "", "images/s", "node / it", "least", "most")
    for name, of_it in rates.items():
        ratios = [one / other for one, other in zip(rates["node"], of_it, strict=True)]
        least_and_most = [round(one, 3) for one in (min(ratios), max(ratios))]
        table.row(name, round(statistics.median(of_it)), round(statistics.median(ratios), 3), *least_and_most)
    record(codec, table)


def one_round(
    settings: Settings, folder: Path, source: str, config: RobotConfig, context: SpawnContext
) -> dict[str, float]:
    """Start all, let them take turns, and return the mean images per second of each."""
    folder.mkdir()
    before = (settings.epoch - 1) * len(list_pictures(settings.data).pictures) if settings.data else 0
    with start_local_broker() as broker:
        os.sched_setaffinity(broker.pid, {1})  # the core is the robot's, and its broker is elsewhere
        cloud = start("cloud_trainer", folder / "cloud", broker.url, 1, [])
        node = Node(folder, source, broker.url)
        loops: list[SpawnProcess] = []
        try:
            # Of an epoch a tenth is held out and not trained on.
            wait_until(lambda: node.images() > 0.9 * before, seconds=120 + before / SLOWEST)
            cloud.send_signal(signal.SIGSTOP)
            time.sleep(settings.warm_up)
            node.process.send_signal(signal.SIGSTOP)
            runners = {"node": Runner(pid=node.process.pid, images=node.images)}
            for name, prepared in (("bare loop", False), ("bare loop, memory as the node's", True)):
                # Without a lock: a loop that is stopped while it holds one would stop us too.
                done = context.Value("q", 0, lock=False)
                loops.append(context.Process(target=bare_loop, args=(config, node.compute(), done, prepared)))
                loops[-1].start()
                wait_until(partial(_has_begun, done))
                pid = loops[-1].pid
                assert pid
                os.kill(pid, signal.SIGSTOP)
                runners[name] = Runner(pid=pid, images=partial(_value, done))
            cloud.send_signal(signal.SIGCONT)
            rates = take_turns(runners, turns=settings.turns, seconds=settings.seconds)
        finally:
            for process in (node.process, cloud):
                process.kill()
                process.wait()
            for loop in loops:
                loop.kill()
    return {name: statistics.fmean(of_it) for name, of_it in rates.items()}


def _has_begun(done: c_longlong) -> bool:
    return done.value > 0


def _value(done: c_longlong) -> int:
    return done.value


def show(rates: dict[str, list[float]]) -> None:
    node = rates["node"]
    for name, of_it in rates.items():
        ratio = statistics.median(one / other for one, other in zip(node, of_it, strict=True))
        print(f"{name}: {statistics.median(of_it):.0f} images/s; node / it {ratio:.3f}", flush=True)


def start(program: str, folder: Path, broker: str, core: int, flags: list[str]) -> subprocess.Popen[bytes]:
    command = ["taskset", "-c", str(core), sys.executable, "-m", program, "run", "--broker", broker]
    command += ["--threads", "1", "--run-dir", str(folder), *flags]
    with folder.with_suffix(".log").open("w") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def bare_loop(config: RobotConfig, compute: Compute, done: c_longlong, prepared: bool) -> None:
    """Train until killed, computing as the node does; done counts images."""
    if prepared:
        prepare_pytorch()
    os.sched_setaffinity(0, {0})
    torch.set_num_threads(1)
    segment, _, _ = build_edge(config.network)
    trainer = EdgeTrainer(segment, bits=config.network.bits, compute=compute, peak_learning_rate=0.01)
    segment.exit.head.grow(CLASSES, trainer.learner.optimizer)
    images = np.random.default_rng(0).integers(0, 256, (config.learning.batch, 32, 32, 3), np.uint8)
    frames = compute.tensor(normalise(images))
    labels = torch.arange(config.learning.batch) % 10
    segment.train()
    while True:
        with compute.autocast():
            logits = segment.exit(segment.encode(frames))
        loss = F.cross_entropy(logits.float(), labels)
        trainer.learner.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        trainer.learner.optimizer.step()
        done.value += config.learning.batch


def measure_codec(config: RobotConfig, share: multiprocessing.Queue[float]) -> None:
    """Measure the time of quantize, dequantize, pack and compress over that of a whole EdgeTrainer step."""
    os.sched_setaffinity(0, {0})
    torch.set_num_threads(1)
    segment, split, _ = build_edge(config.network)
    compute = fastest_compute(
        segment, image_size=config.network.image_size, batch=config.learning.batch, device=torch.device("cpu")
    )
    trainer = EdgeTrainer(segment, bits=config.network.bits, compute=compute, peak_learning_rate=0.01)
    images = np.random.default_rng(0).integers(0, 256, (config.learning.batch, 32, 32, 3), np.uint8)
    names = [CLASSES[index % 10] for index in range(config.learning.batch)]
    step = median_seconds(lambda: trainer.step(images, names, fresh=config.learning.batch, progress=None), 20)
    values = np.random.default_rng(0).standard_normal((config.learning.batch, *split.shape), np.float32)

    def codec() -> None:
        quantized = quantize(values, config.network.bits)
        dequantize(quantized)
        pack_activations(quantized)

    share.put(median_seconds(codec, 200) / step)


def median_seconds(work: Callable[[], object], times: int) -> float:
    work()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds:.0f} s; the logs are in --out")
        time.sleep(0.1)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
