"""A link that cannot carry all bits: how far the cloud falls behind, with a fixed number of them or fewer on demand.

    python benchmarks/narrow_link.py --data PATH/cifar10

Robot and trainer on a core each, a real broker and a shaped link between them. The cloud's delay is the time from the
robot's last step to the cloud's. Its figures are in docs/results/slow-link.md.
"""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path

import tyro
from recording import Cell, Table, record
from three_processes import begin_of, learned_at, metrics_of, run_main_job


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Bits that follow the link."""

    data: Path
    """Folder with train/."""
    links: tuple[float, ...] = (1.1, 0.3)
    """Mbit/s each way."""
    images: int = 8192
    bits: int = 8
    least_bits: int = 1
    out: Path = Path("runs/benchmarks/narrow_link")
    cores: tuple[int, int] = (0, 1)
    """Of robot and cloud."""


def main(settings: Settings) -> None:
    table = Table(
        "Bits that follow the link",
        *("link, Mbit/s", "bits", "seconds", "the cloud's delay, s", "most messages waiting", "bytes an image"),
    )
    for mbit in settings.links:
        for least in (settings.bits, settings.least_bits):
            table.row(*row(settings, mbit, least))
    record(table)


def row(settings: Settings, mbit: float, least: int) -> list[Cell]:
    folder = settings.out / f"{mbit:g}-{least}"
    shutil.rmtree(folder, ignore_errors=True)
    flags = f"--source folder:{settings.data}/train --epochs 1000 --bottleneck 16"
    flags += f" --images {settings.images} --bits {settings.bits} --least-bits {least}"
    summary = run_main_job(folder, flags.split(), ["--practice", "0"], cores=settings.cores, mbit=mbit)
    robot, cloud = metrics_of(folder / "robot"), metrics_of(folder / "cloud")
    stop, end = (learned_at(metrics, summary["images"]) for metrics in (robot, cloud))
    bits = [number for number, _ in itertools.groupby(line["bits"] for line in robot)]
    return [
        mbit,
        ", ".join(map(str, bits)),
        round(end - begin_of(robot)),
        round(end - stop),
        max(line["queued"] for line in robot),
        round(summary["bytes_per_image"]),
    ]


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
