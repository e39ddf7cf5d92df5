"""Memory and disk of a robot that goes on learning through a link outage.

    python benchmarks/outage.py --minutes 30

The broker is killed once training is under way. Prints resident memory and the outbox's size as the outage goes on,
and how memory grew from --from-minute to the end: before, the rehearsal memory fills with frames (16 MB of them).
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil
import tyro
from recording import Table, record

from broker.local.server import start_local_broker

# Readings around each mark, one a second, of which the median counts.
READINGS = 15


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A link outage."""

    minutes: float = 30
    from_minute: float = 7
    """When the rehearsal memory is full."""
    outbox_mb: float = 20
    """The outbox's bound. A small one is full within minutes, so that the outage shows both sides of it."""
    image_size: int = 16
    """Small frames: more of them in the time."""
    out: Path = Path("runs/benchmarks/outage")


class Reading(NamedTuple):
    """Bytes in memory and on the disk, some minutes into the outage."""

    minute: float
    memory: float
    outbox: int

    def __str__(self) -> str:
        return f"minute {self.minute:4.1f}: {self.memory / 1e6:.1f} MB resident, outbox {self.outbox / 1e6:.2f} MB"


def main(settings: Settings) -> None:
    assert settings.minutes > settings.from_minute, "there is nothing to compare"
    folder = settings.out / time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    with (folder / "output.log").open("w") as log:
        broker = start_local_broker()
        common = ["--broker", broker.url, "--threads", "1", "--run-dir"]
        cloud = subprocess.Popen(
            [sys.executable, "-m", "cloud_trainer", "run", *common, str(folder / "cloud")], stdout=log, stderr=log
        )
        flags = f"--source sim: --images 100000000 --image-size {settings.image_size} --bottleneck 16"
        flags += f" --outbox-mb {settings.outbox_mb} --when-full drop-oldest"
        robot = psutil.Popen(
            [sys.executable, "-m", "robot_edge", "run", *common, str(folder / "robot"), *flags.split()],
            stdout=log,
            stderr=log,
        )
        try:
            while len(_lines(folder)) < 20:
                assert robot.poll() is None, f"the robot ended: see {folder}/output.log"
                time.sleep(0.5)
            broker.stop()
            begin, before = time.monotonic(), len(_lines(folder))
            readings: list[Reading] = []
            while not readings or readings[-1].minute < settings.minutes:
                readings.append(read(robot, folder, begin))
                print(readings[-1], flush=True)
                time.sleep(45)
            report(readings, settings, steps=len(_lines(folder)) - before)
        finally:
            for process in (robot, cloud):
                process.kill()
                process.wait()


def read(robot: psutil.Popen, folder: Path, begin: float) -> Reading:
    memory = _median_memory(robot)
    return Reading((time.monotonic() - begin) / 60, memory, _outbox_bytes(folder))


def report(readings: list[Reading], settings: Settings, *, steps: int) -> None:
    counted = [reading for reading in readings if reading.minute >= settings.from_minute]
    first, last, most = counted[0], counted[-1], max(counted, key=lambda reading: reading.memory)
    by_minute = Table("Memory in an outage", "minute", "resident, MB", "outbox, MB")
    for one in readings:
        by_minute.row(round(one.minute, 1), round(one.memory / 1e6, 1), round(one.outbox / 1e6, 2))
    bounds = Table("Bounds in an outage", "", "value")
    growth = round(100 * (last.memory / first.memory - 1), 2)
    bounds.row(f"memory, growth from minute {first.minute:.0f} to {last.minute:.0f}, %", growth)
    bounds.row(f"memory at most, MB, at minute {most.minute:.0f}", round(most.memory / 1e6, 1))
    largest = max(reading.outbox for reading in readings)
    bounds.row(f"outbox at most, MB, bound {settings.outbox_mb:g}", round(largest / 1e6, 2))
    bounds.row("steps", steps)
    record(by_minute, bounds)


def _lines(folder: Path) -> list[str]:
    path = folder / "robot" / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def _median_memory(robot: psutil.Popen) -> float:
    readings = []
    for _ in range(READINGS):
        readings.append(float(robot.memory_info().rss))
        time.sleep(1)
    return statistics.median(readings)


def _outbox_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "robot").glob("outbox.db*"))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
