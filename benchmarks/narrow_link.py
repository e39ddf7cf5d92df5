"""A link that cannot carry all bits: how far the cloud falls behind, with a fixed number of them or fewer on demand.

    python benchmarks/narrow_link.py --data PATH/cifar10

Robot and trainer on a core each, a real broker and a shaped link between them. The cloud's delay is the time from the
robot's last step to the cloud's. Prints the table for docs/results.md.
"""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from three_processes import run_main_job


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Bits that follow the link."""

    data: Path
    """Folder with train/ and test/."""
    links: tuple[float, ...] = (1.1, 0.3, 0.1)
    """Mbit/s each way."""
    images: int = 8192
    bits: int = 8
    least_bits: int = 1
    out: Path = Path("runs/benchmarks/narrow_link")
    cores: tuple[int, int] = (0, 1)
    """Of robot and cloud."""


def main(settings: Settings) -> None:
    print("| link, Mbit/s | bits | seconds | the cloud's delay | most messages waiting | bytes an image | cloud |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for mbit in settings.links:
        for least in (settings.bits, settings.least_bits):
            print(row(settings, mbit, least), flush=True)


def row(settings: Settings, mbit: float, least: int) -> str:
    folder = settings.out / f"{mbit:g}-{least}"
    shutil.rmtree(folder, ignore_errors=True)
    flags = (
        f"--source folder:{settings.data}/train --held-out folder:{settings.data}/test --epochs 1000 --bottleneck 16"
    )
    flags += f" --images {settings.images} --bits {settings.bits} --least-bits {least} --bottleneck 16"
    summary = run_main_job(folder, flags.split(), ["--practice", "0"], cores=settings.cores, mbit=mbit)
    robot, cloud = lines(folder / "robot" / "metrics.jsonl"), lines(folder / "cloud" / "metrics.jsonl")
    begin = 2 * robot[0]["time"] - robot[1]["time"]
    stop = next(line["time"] for line in robot if line["images"] >= settings.images)
    end = next(line["time"] for line in cloud if line["images"] >= settings.images)
    bits = [number for number, _ in itertools.groupby(line["bits"] for line in robot)]
    cells = [
        f"{mbit:g}",
        ", ".join(map(str, bits)),
        f"{end - begin:.0f}",
        f"{end - stop:.0f} s",
        f"{max(line['queued'] for line in robot):,}",
        f"{summary['bytes_per_image']:.0f}",
        f"{100 * summary['cloud_accuracy']:.1f} %",
    ]
    return f"| {' | '.join(cells)} |"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
