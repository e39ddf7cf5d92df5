"""Resident memory of robot and trainer over a replay of five minutes and more.

    python benchmarks/memory.py --data PATH/cifar10/train

Prints the growth between minute 1 and minute 5 of training, for each process.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import tyro
from recording import Table, record

from broker.local.server import start_local_broker

# Readings around each mark, one a second, of which the median counts.
READINGS = 15


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Memory over time."""

    data: Path | None = None
    """Folder of pictures by class; the simulated camera where there is none."""
    minutes: tuple[float, float] = (1, 5)
    """The two moments to compare."""
    out: Path = Path("runs/benchmarks/memory")


def main(settings: Settings) -> None:
    folder = settings.out / time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    source = f"folder:{settings.data}" if settings.data else "sim:"
    with start_local_broker() as broker, (folder / "output.log").open("w") as log:
        common = ["--broker", broker.url, "--threads", "1", "--run-dir"]
        cloud = psutil.Popen(
            [sys.executable, "-m", "cloud_trainer", "run", *common, str(folder / "cloud")], stdout=log, stderr=log
        )
        flags = f"--source {source} --epochs 1000 --images 10000000 --bits 4 --bottleneck 16".split()
        robot = psutil.Popen(
            [sys.executable, "-m", "robot_edge", "run", *common, str(folder / "robot"), *flags],
            stdout=log,
            stderr=log,
        )
        try:
            report(watch({"robot": robot, "trainer": cloud}, folder, settings), settings)
        finally:
            for process in (robot, cloud):
                process.terminate()
                try:
                    process.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    process.kill()


def watch(processes: dict[str, psutil.Popen], folder: Path, settings: Settings) -> dict[str, list[int]]:
    """Return the resident bytes of each process, a reading a second from the first training step on."""
    metrics = folder / "robot" / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.2)
    readings: dict[str, list[int]] = {name: [] for name in processes}
    for _ in range(int(settings.minutes[1] * 60) + READINGS):
        for name, process in processes.items():
            readings[name].append(process.memory_info().rss)
        time.sleep(1)
    return readings


def report(readings: dict[str, list[int]], settings: Settings) -> None:
    early, late = (int(minute * 60) for minute in settings.minutes)
    table = Table("Memory of a replay", "", *(f"minute {one:g}, MB" for one in settings.minutes), "growth, %")
    for name, values in readings.items():
        before = statistics.median(values[early - READINGS : early + READINGS])
        after = statistics.median(values[late - READINGS : late + READINGS])
        table.row(name, round(before / 1e6), round(after / 1e6), round(100 * (after / before - 1), 2))
    record(table)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
