"""What to send of each step when the link cannot carry all of it: the cloud's accuracy, for several choices.

    python benchmarks/selection.py --data PATH/cifar10

The robot learns from every frame, once; of its activations the cloud is sent a share, chosen

- at random,
- hardest: those with the highest loss at the exit,
- by loss: at random, in proportion to that loss,
- by class: at random, in proportion to how rare their class is,
- both: by class and by loss.

Two streams: even, and skewed, in which half of the classes come with one in twenty of their pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from continual_methods import Stream
from in_process import InProcess
from numpy.typing import NDArray
from recording import Table, percent, record
from torch import Tensor
from torch.nn import functional as F

from broker.wire.quantize import Quantized
from hierarchy.edge import EdgeTrainer
from robot_edge.run.config import RobotConfig

POLICIES = ("all", "random", "hardest", "by loss", "by class", "both")
RARE = 1 / 20


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to send when not all can be."""

    data: Path
    """Folder with train/ and test/."""
    images: int = 20_000
    share: float = 0.25
    """Of each step's samples that the link carries."""
    seeds: int = 1
    streams: tuple[str, ...] = ("even", "skewed")


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the robot made of a step's frames: activations, class names, and the exit's loss, float32 (N,)."""

    quantized: Quantized
    names: list[str]
    losses: NDArray[np.float32]
    progress: float


def main(settings: Settings) -> None:
    unseen = Stream.read(f"folder:{settings.data}/test", phases=[], images=4000, seed=1)
    tables: list[Table] = []
    for stream in settings.streams:
        results: dict[str, list[tuple[float, float]]] = {policy: [] for policy in POLICIES}
        for seed in range(settings.seeds):
            robot, steps = learned(settings, stream, seed)
            for policy in POLICIES:
                results[policy].append(taught(settings, robot, steps, policy, seed, unseen))
        title = f"{stream.capitalize()} stream, {settings.share:.0%} sent"
        tables.append(Table(title, "sent", "cloud, %", "its rare half, %"))
        for policy, found in results.items():
            tables[-1].row(policy, *(percent(float(one)) for one in np.mean(found, axis=0)))
    record(*tables)


def learned(settings: Settings, stream: str, seed: int) -> tuple[InProcess, list[Step]]:
    """Let a robot learn from the stream; return it, and what it could send of each step."""
    shown = Stream.read(f"folder:{settings.data}/train", phases=[], images=settings.images, seed=seed)
    images, names = shown.images, list(shown.names)
    if stream == "skewed":
        rare = rare_half(names)
        drawn = np.random.default_rng(seed).random(len(names))
        kept = [row for row, name in enumerate(names) if name not in rare or drawn[row] < RARE]
        images, names = images[kept], [names[row] for row in kept]
    robot = InProcess(RobotConfig.from_flags(source="folder:x", bottleneck=16, bits=2, seed=seed))
    seen: list[Tensor] = []
    watch(robot.edge, seen)
    steps = []
    batch = robot.config.learning.batch
    for start in range(0, len(names) - batch + 1, batch):
        its_names = names[start : start + batch]
        progress = start / len(names)
        step = robot.edge.step(images[start : start + batch], its_names, fresh=batch, progress=progress)
        labels = torch.tensor(robot.edge.segment.exit.head.indices(its_names))
        losses = F.cross_entropy(seen.pop(), labels, reduction="none").numpy()
        steps.append(Step(quantized=step.quantized, names=its_names, losses=losses, progress=progress))
    return robot, steps


def watch(trainer: EdgeTrainer, seen: list[Tensor]) -> None:
    """Note the exit's logits of each step."""
    exit_head: Any = trainer.segment.exit
    exit_head.register_forward_hook(lambda _module, _inputs, logits: seen.append(logits.detach().float()))


def taught(
    settings: Settings, robot: InProcess, steps: Sequence[Step], policy: str, seed: int, unseen: Stream
) -> tuple[float, float]:
    """Teach a new cloud's half what the policy sends; return its accuracy, and that on the rare half of the classes."""
    both = InProcess(robot.config)
    rng, seen = np.random.default_rng(seed), Counter[str]()
    for step in steps:
        seen.update(step.names)
        count = len(step.names) if policy == "all" else round(settings.share * len(step.names))
        rows = chosen(policy, step, count, seen, rng)
        its_names = [step.names[row] for row in rows]
        part = Quantized(
            codes=step.quantized.codes[rows], low=step.quantized.low, step=step.quantized.step, bits=step.quantized.bits
        )
        both._send(part, its_names, list(range(1, len(rows) + 1)), step.progress)
    both.flush()
    both.edge = robot.edge
    _, in_cloud = both.test(unseen.images, unseen.names)
    assert in_cloud.accuracy is not None
    return in_cloud.accuracy, float(np.mean([in_cloud.by_class[name] for name in rare_half(unseen.names)]))


def chosen(policy: str, step: Step, count: int, seen: Counter[str], rng: np.random.Generator) -> list[int]:
    """Return the rows of a step to send."""
    each = np.arange(len(step.names))
    rarity = np.array([1 / seen[name] for name in step.names])
    weights: NDArray[np.float64]
    match policy:
        case "all":
            return each.tolist()
        case "hardest":
            return sorted(np.argsort(-step.losses)[:count].tolist())
        case "random":
            weights = np.ones(len(each))
        case "by loss":
            weights = step.losses.astype(float) + 1e-3
        case "by class":
            weights = rarity
        case _:
            weights = rarity * (step.losses.astype(float) + 1e-3)
    return sorted(rng.choice(each, count, replace=False, p=weights / weights.sum()).tolist())


def rare_half(names: Sequence[str]) -> list[str]:
    classes = sorted(set(names))
    return classes[len(classes) // 2 :]


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
