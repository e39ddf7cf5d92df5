"""What durability costs: images/s with outbox and store on disk, against the same run with both in memory.

    python benchmarks/durability.py

"Without" is the same programs with their run folders in memory (tmpfs), where a flush of the disk costs nothing. The
two take turns; the median of the ratios counts. Small frames and a small network, so that messages are as frequent as
they get and the disk is as large a share as it can be.
"""

from __future__ import annotations

import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path

import tyro
from three_processes import run_main_job

MEMORY = Path("/dev/shm")


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
    for number in range(settings.rounds):
        with_disk = images_per_second(settings, settings.out / str(number))
        without = images_per_second(settings, MEMORY / f"reflexarc-durability-{number}")
        shutil.rmtree(MEMORY / f"reflexarc-durability-{number}")
        ratios.append(with_disk / without)
        print(f"round {number + 1}: on disk {with_disk:.0f}, in memory {without:.0f} images/s", flush=True)
    print(f"with / without: {statistics.median(ratios):.3f} (each round: {[round(ratio, 3) for ratio in ratios]})")


def images_per_second(settings: Settings, folder: Path) -> float:
    flags = f"--source sim: --images {settings.images} --image-size 16 --backbone shufflenet_v2_x0_5 --cut stage2"
    flags += " --bottleneck 8 --batch 16 --rehearse 0"
    extra = ["--durable"] if settings.durable else []
    summary = run_main_job(folder, [*flags.split(), *extra], ["--batch", "16"], cores=(0, 1))
    return float(summary["images_per_second"])


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
