"""What durability costs: images/s with outbox and store, against the same run with plain lists in their place.

    python benchmarks/durability.py

The two take turns; the median of the ratios counts. Small frames and a small network, so that messages are as frequent
as they get and the disk is as large a share as it can be. benchmarks/without_storage.py is what has neither.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

import tyro
from recording import Table, record
from three_processes import run_main_job

WITHOUT = Path(__file__).with_name("without_storage.py")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Durable against not."""

    images: int = 6000
    rounds: int = 3
    durable: bool = True
    """Whether the robot flushes the disk as well (--durable); the trainer always does."""
    out: Path = Path("runs/benchmarks/durability")


def main(settings: Settings) -> None:
    ratios = []
    table = Table("With storage and without", "round", "with, images/s", "without, images/s", "with / without")
    for number in range(settings.rounds):
        durable = images_per_second(settings, settings.out / f"{number}-durable", ["-m"])
        without = images_per_second(settings, settings.out / f"{number}-without", [str(WITHOUT)])
        ratios.append(durable / without)
        table.row(number + 1, round(durable), round(without), round(ratios[-1], 3))
    table.row("median", None, None, round(statistics.median(ratios), 3))
    record(table)


def images_per_second(settings: Settings, folder: Path, start: list[str]) -> float:
    flags = f"--source sim: --images {settings.images} --image-size 16 --backbone shufflenet_v2_x0_5 --cut stage2"
    flags += " --bottleneck 8 --batch 16 --rehearse 0"
    extra = ["--durable"] if settings.durable else []
    summary = run_main_job(folder, [*flags.split(), *extra], ["--batch", "16"], cores=(0, 1), start=start)
    return float(summary["images_per_second"])


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
