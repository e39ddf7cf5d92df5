"""What sealing a payload costs, beside a training step of the robot's half.

    python benchmarks/sealing.py

One thread, ResNet-18 at 32 pixels as in the README, step and sealing in turns. Times are the processor's. The fastest
step counts, and the median of sealing. The robot seals a message and opens its receipt. The trainer opens the message
and seals the receipt.
Its figures are in docs/results/overhead.md.
"""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import tyro
from recording import Table, record

from broker.errors import Unopened
from broker.security.payload_keys import TrainerKeys, new_master
from broker.security.sealing import Sealing
from broker.wire.topics import topic
from hierarchy.edge import EdgeTrainer, fastest_compute
from robot_edge.learning.segment import build_edge
from robot_edge.run.config import RobotConfig

ACTIVATIONS, RECEIPT, STATE = (topic("robot", "r1", one) for one in ("activations", "receipt", "state"))
ONLINE = topic("trainer", "t1", "state")
RECEIPT_BYTES = 110


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Cost of sealing."""

    kilobytes: tuple[int, ...] = (4, 64, 128)
    """Sizes of messages."""
    batch: int = 64
    turns: int = 40
    again: int = 20
    """Messages in a turn."""


def main(settings: Settings) -> None:
    torch.set_num_threads(1)
    config = RobotConfig.from_flags(source="sim:", backbone="resnet18", cut="layer2", bits=2, bottleneck=12)
    segment, _, _ = build_edge(config.network)
    compute = fastest_compute(segment, image_size=32, batch=settings.batch, device=torch.device("cpu"))
    trainer_of_edge = EdgeTrainer(segment, bits=2, compute=compute, peak_learning_rate=0.05)
    images = np.random.default_rng(0).integers(0, 256, (settings.batch, 32, 32, 3), np.uint8)
    names = [str(number % 10) for number in range(settings.batch)]
    step = partial(trainer_of_edge.step, images, names, fresh=settings.batch, progress=None)
    sizes = [1000 * size for size in settings.kilobytes]
    robot, trainer = pair()
    works = [partial(both_ways, robot, trainer, secrets.token_bytes(size), settings.again) for size in sizes]
    whole, ends = in_turns(step, list(works), settings.turns)
    title = f"Sealing beside a robot's step of {settings.batch} pictures"
    table = Table(
        title, "message, kB", "robot, ms", "trainer, ms", "robot's step, ms", "robot's share, %", "added, bytes"
    )
    for size, (at_robot, at_trainer) in zip(settings.kilobytes, ends, strict=True):
        added = len(robot.seal(ACTIVATIONS, bytes(1000 * size))) - 1000 * size
        share = 100 * at_robot / whole
        table.row(size, *(round(1e3 * one, 3) for one in (at_robot, at_trainer, whole)), round(share, 3), added)
    record(table, garbage(robot, settings))


def pair() -> tuple[Sealing, Sealing]:
    """Return a robot and a trainer that have heard each other."""
    fleet = TrainerKeys.of(new_master())
    robot, trainer = Sealing(fleet.of_robot("r1")), Sealing(fleet)
    robot.open(ONLINE, trainer.seal(ONLINE, b"online"))
    trainer.open(STATE, robot.seal(STATE, b"here"))
    return robot, trainer


def both_ways(robot: Sealing, trainer: Sealing, payload: bytes, again: int) -> tuple[float, float]:
    """Return the seconds that a message and its receipt take the robot, and the trainer."""
    at_robot = at_trainer = 0.0
    for _ in range(again):
        begin = time.thread_time()
        sealed = robot.seal(ACTIVATIONS, payload)
        sent = time.thread_time()
        trainer.open(ACTIVATIONS, sealed)
        receipt = trainer.seal(RECEIPT, payload[:RECEIPT_BYTES])
        came = time.thread_time()
        robot.open(RECEIPT, receipt)
        at_robot += sent - begin + time.thread_time() - came
        at_trainer += came - sent
    return at_robot / again, at_trainer / again


def in_turns(
    step: Callable[[], object], works: list[Callable[[], tuple[float, float]]], turns: int
) -> tuple[float, list[tuple[float, float]]]:
    """Return the seconds of the fastest step, and for each work the medians of what it returned.

    The first turn does not count.
    """
    steps: list[float] = []
    seen: list[list[tuple[float, float]]] = [[] for _ in works]
    for turn in range(turns + 1):
        begin = time.thread_time()
        step()
        steps.append(time.thread_time() - begin)
        for work, found in zip(works, seen, strict=True):
            both = work()
            if turn:
                found.append(both)
    medians = [(statistics.median(one for one, _ in its), statistics.median(one for _, one in its)) for its in seen]
    return min(steps), medians


def garbage(robot: Sealing, settings: Settings) -> Table:
    """Measure what a payload costs that is refused."""
    trainer = pair()[1]
    mine, reader = pair()
    good = mine.seal(ACTIVATIONS, bytes(4000))
    reader.open(ACTIVATIONS, good)
    kinds = {
        "not sealed": (trainer, ACTIVATIONS, bytes(4000)),
        "4 kB of noise, of a boot never seen": (trainer, ACTIVATIONS, good[:2] + secrets.token_bytes(4000)),
        "sealed by another key": (trainer, ACTIVATIONS, robot.seal(ACTIVATIONS, bytes(4000))),
        "replayed": (reader, ACTIVATIONS, good),
    }
    table = Table("What a refused payload costs its reader", "payload", "us")
    for kind, (end, place, payload) in kinds.items():
        seconds = [refused(end, place, payload) for _ in range(50 * settings.turns)]
        table.row(kind, round(1e6 * statistics.median(seconds)))
    return table


def refused(end: Sealing, place: str, payload: bytes) -> float:
    begin = time.thread_time()
    try:
        end.open(place, payload)
    except Unopened:
        return time.thread_time() - begin
    raise AssertionError("it was opened")


if __name__ == "__main__":
    main(tyro.cli(Settings))
