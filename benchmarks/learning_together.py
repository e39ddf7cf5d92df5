"""What it is worth that robots of a fleet average their fronts, and that robots with other cuts share layers.

    python benchmarks/learning_together.py --data PATH/cifar10

CIFAR-10 at 32 pixels, ResNet-18 from scratch, all robots and their trainer in one process, in turns of one step. Fronts
are averaged with 8 bits for each weight. Robots with other cuts share what lies behind the latest of them
(Hetero-SplitEE's setting).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from accuracy import kept
from continual_methods import Stream
from recording import Table, percent, record
from torch import Tensor, nn

from broker.wire.quantize import dequantize
from hierarchy import DividedNetwork, divide
from hierarchy.cloud import CloudTrainer

BATCH = 64
LEVELS = 255
CUTS = ("layer1", "layer2", "layer3")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured."""

    data: Path
    """Folder with train/ and test/."""
    out: Path = Path("runs/benchmarks/together")
    """Keeps what was measured."""
    robots: int = 4
    frames: int = 1500
    """Of each robot."""
    tested: int = 2000
    epochs: int = 3
    every: int = 25
    """Steps of each robot between two averages of the fronts."""
    seeds: tuple[int, ...] = (0,)
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class Way:
    """How robots learn together. classes: of each robot; 0 for all of them, alike."""

    name: str
    classes: int = 0
    one_rest: bool = False
    averaged: bool = False


ALIKE = (
    Way(name="apart"),
    Way(name="one rest, fronts apart", one_rest=True),
    Way(name="one rest, fronts averaged", one_rest=True, averaged=True),
)
OWN = (
    Way(name="apart", classes=2),
    Way(name="one rest, fronts averaged", classes=2, one_rest=True, averaged=True),
)


def main(settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    settings.out.mkdir(parents=True, exist_ok=True)
    shown = Stream.read(f"folder:{settings.data}/train").mixed(0)
    tests = Stream.read(f"folder:{settings.data}/test").mixed(0)
    tested = Stream(tests.images[: settings.tested], tests.names[: settings.tested])
    record(fronts(settings, shown, tested), cuts(settings, shown, tested))


def fronts(settings: Settings, shown: Stream, tested: Stream) -> Table:
    table = Table(
        f"{settings.robots} robots of one fleet, cut behind layer2",
        *("their classes", "halves", "exit, own classes, %", "exit, all of the fleet's, %"),
        *("cloud, own classes, %", "cloud, all of the fleet's, %", "front's bytes a step, up"),
    )
    for way in (*ALIKE, *OWN):
        runs = [
            kept(
                settings.out / f"fronts-{way.classes}-{way.name}-{seed}.json",
                lambda seed=seed, way=way: together(settings, shown, tested, way, seed),
            )
            for seed in settings.seeds
        ]
        mean = {name: statistics.mean(run[name] for run in runs) for name in runs[0]}
        table.row(
            f"{way.classes} each" if way.classes else "alike",
            way.name,
            *(percent(mean[name]) for name in ("exit_own", "exit_all", "cloud_own", "cloud_all")),
            round(mean["bytes"]) if way.averaged else None,
        )
    return table


def together(settings: Settings, shown: Stream, tested: Stream, way: Way, seed: int) -> dict[str, float]:
    """Return accuracies of both ends, means over the robots, and bytes of a front for each step."""
    shares = shared_out(settings, shown, way)
    networks = [divide("resnet18", "layer2", bottleneck=16, seed=seed, device="cpu") for _ in shares]
    size = 0

    def after(step: int) -> None:
        nonlocal size
        if way.averaged and step % settings.every == 0:
            size = average([one.edge for one in networks])

    learn(settings, networks, [networks[0] if way.one_rest else one for one in networks], shares, seed, after)
    every = sorted({name for share in shares for name in share.names})
    found = [
        accuracies(network, networks[0] if way.one_rest else network, tested, sorted(set(share.names)), every)
        for network, share in zip(networks, shares, strict=True)
    ]
    return {
        **{name: statistics.mean(one[name] for one in found) for name in found[0]},
        "bytes": size / settings.every,
    }


def shared_out(settings: Settings, shown: Stream, way: Way) -> list[Stream]:
    """Return each robot's frames."""
    names, share = sorted(set(shown.names)), settings.frames
    if not way.classes:
        return [
            Stream(shown.images[start : start + share], shown.names[start : start + share])
            for start in range(0, settings.robots * share, share)
        ]
    own = [names[way.classes * robot : way.classes * (robot + 1)] for robot in range(settings.robots)]
    streams = [shown.only(one) for one in own]
    return [Stream(one.images[:share], one.names[:share]) for one in streams]


def learn(
    settings: Settings,
    networks: Sequence[DividedNetwork],
    rests: Sequence[DividedNetwork],
    shares: Sequence[Stream],
    seed: int,
    after: Callable[[int], None] = lambda _: None,
) -> None:
    """Let each robot's front learn from its frames, and the rest that it has from what crosses. after: of each step."""
    rng, count = np.random.default_rng(seed), settings.frames // BATCH
    for step in range(settings.epochs * count):
        if step % count == 0:
            orders = [np.array_split(rng.permutation(len(one)), count) for one in shares]
        progress = step / (settings.epochs * count)
        for network, rest, share, order in zip(networks, rests, shares, orders, strict=True):
            rows = order[step % count]
            names = [share.names[row] for row in rows]
            seen = network.edge_trainer.step(share.images[rows], names, fresh=len(names), progress=progress)
            rest.cloud_trainer.step(dequantize(seen.quantized), names, fresh=len(names), progress=progress)
        after(step + 1)


def average(edges: Sequence[nn.Module]) -> int:
    """Let all edge segments have the mean of what they learned but the exit's head; return bytes of one of them."""
    states = [one.state_dict(keep_vars=False) for one in edges]
    size = 0
    for name, first in states[0].items():
        if ".head." in name or not first.is_floating_point():
            continue
        mean = torch.stack([in_eight_bits(one[name]) for one in states]).mean(0)
        for one in states:
            one[name].copy_(mean)
        size += first.numel()
    return size


def in_eight_bits(values: Tensor) -> Tensor:
    """Return what is left of values that cross with a byte each."""
    low, high = values.min(), values.max()
    step = (high - low) / LEVELS
    return values if step == 0 else ((values - low) / step).round() * step + low


def accuracies(
    network: DividedNetwork, rest: DividedNetwork, tested: Stream, own: list[str], every: list[str]
) -> dict[str, float]:
    """Return how much of the test frames of a robot's own classes, and of all classes of the fleet, each end names."""
    tests = tested.only(every)
    said: dict[str, list[str]] = {"exit": [], "cloud": []}
    for images, _ in tests.batches(256):
        names, quantized = network.edge_trainer.evaluate(images)
        rest.cloud.eval()
        with torch.inference_mode():
            logits = rest.cloud_trainer.logits(dequantize(quantized))
        said["exit"] += names
        said["cloud"] += [rest.cloud_trainer.classes[one] for one in logits.argmax(1).tolist()]
    right = np.array(tests.names)
    mine = np.isin(right, own)
    found: dict[str, float] = {}
    for end, names in said.items():
        is_right = np.array(names) == right
        found |= {f"{end}_own": float(is_right[mine].mean()), f"{end}_all": float(is_right.mean())}
    return found


def cuts(settings: Settings, shown: Stream, tested: Stream) -> Table:
    table = Table(
        "Three robots, cut behind layer1, layer2 and layer3",
        *("halves", *(f"cloud of {cut}, %" for cut in CUTS), "mean, %"),
    )
    for shared in (False, True):
        runs: list[dict[str, Any]] = [
            kept(
                settings.out / f"cuts-{shared}-{seed}.json",
                lambda seed=seed, shared=shared: with_other_cuts(settings, shown, tested, seed, shared=shared),
            )
            for seed in settings.seeds
        ]
        mean = [statistics.mean(run[cut] for run in runs) for cut in CUTS]
        table.row("layer4 and head shared" if shared else "apart", *map(percent, mean), percent(statistics.mean(mean)))
    return table


def with_other_cuts(settings: Settings, shown: Stream, tested: Stream, seed: int, *, shared: bool) -> dict[str, float]:
    """Return the cloud's accuracy behind each cut."""
    networks = [divide("resnet18", cut, bottleneck=16, seed=seed, device="cpu") for cut in CUTS]
    if shared:
        last = networks[-1].cloud
        for network in networks[:-1]:
            for name, layer in last.rest.named_children():
                setattr(network.cloud.rest, name, layer)
            network.cloud.head = last.head
            trainer = network.cloud_trainer
            network.cloud_trainer = CloudTrainer(
                network.cloud, compute=trainer.learner.compute, peak_learning_rate=0.02, seed=seed
            )
    share = settings.frames
    shares = [
        Stream(shown.images[start : start + share], shown.names[start : start + share])
        for start in range(0, len(CUTS) * share, share)
    ]
    learn(settings, networks, networks, shares, seed)
    every = sorted(set(shown.names))
    return {
        cut: accuracies(network, network, tested, every, every)["cloud_all"]
        for cut, network in zip(CUTS, networks, strict=True)
    }


if __name__ == "__main__":
    main(tyro.cli(Settings))
