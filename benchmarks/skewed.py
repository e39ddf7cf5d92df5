"""New classes from rare and skewed data: how well a mug is known afterwards, and the six toys before it.

    python benchmarks/skewed.py

Toys of the simulated camera, 300 frames of each; robot and cloud in this process, without a broker. Tested on scenes of
another seed.

- mixed: six toys and the mug in any order, as the others are to be compared with.
- rare: ten frames of the mug alone, after the six toys.
- sorted: one toy after the other, the mug fourth.
- wrong labels: as mixed, one label in ten drawn from all of them.
- returns: the mug first, then the six toys, then the mug once more in other places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tyro
from continual_methods import Stream
from in_process import InProcess
from recording import Table, percent, record

from robot_edge.run.config import RobotConfig

TOYS, MUG = ["ball", "block", "car", "cone", "fish", "house"], "mug"
FRAMES, RARE = 300, 10
WRONG = 0.1


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Rare and skewed data."""

    seeds: int = 1


def main(settings: Settings) -> None:
    table = Table(
        "Rare, sorted, wrong and returning",
        *("", "exit: six toys, %", "exit: mug, %", "cloud: six toys, %", "cloud: mug, %"),
    )
    for case in ("mixed", "rare", "sorted", "wrong labels", "returns"):
        results = np.mean([train(case, seed) for seed in range(settings.seeds)], axis=0)
        table.row(case, *(percent(float(one)) for one in results))
    record(table)


def train(case: str, seed: int) -> list[float]:
    """Return the accuracies: exit on the toys and on the mug, then the cloud."""
    both = InProcess(RobotConfig.from_flags(source="sim:", bottleneck=16, seed=seed), memory=1000)
    for part in stream(case, seed):
        for images, names in part.batches(both.config.fresh_per_batch):
            both.learn(images, names, progress=None)
    both.settle()
    unseen = shown([*TOYS, MUG], 200, seed + 1000)
    accuracies = []
    for result in both.test(unseen.images, unseen.names):
        accuracies += [float(np.mean([result.by_class[name] for name in TOYS])), result.by_class[MUG]]
    return accuracies


def stream(case: str, seed: int) -> list[Stream]:
    """Return what is shown, part after part."""
    match case:
        case "rare":
            return [shown(TOYS, FRAMES, seed), shown([MUG], RARE, seed + 1)]
        case "sorted":
            order = [*TOYS[:3], MUG, *TOYS[3:]]
            return [shown([name], FRAMES, seed + number) for number, name in enumerate(order)]
        case "returns":
            return [shown([MUG], FRAMES // 2, seed), shown(TOYS, FRAMES, seed + 1), shown([MUG], FRAMES // 2, seed + 2)]
        case "wrong labels":
            mixed, rng = shown([*TOYS, MUG], FRAMES, seed), np.random.default_rng(seed)
            wrong = rng.random(len(mixed)) < WRONG
            others = rng.choice([*TOYS, MUG], len(mixed)).tolist()
            names = [other if bad else name for name, other, bad in zip(mixed.names, others, wrong, strict=True)]
            return [Stream(mixed.images, names)]
    return [shown([*TOYS, MUG], FRAMES, seed)]


def shown(names: list[str], frames: int, seed: int) -> Stream:
    """Return so many frames of each toy."""
    return Stream.read("sim:", phases=[names], images=frames * len(names), seed=seed)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
