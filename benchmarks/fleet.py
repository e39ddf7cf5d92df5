"""Many robots on one trainer: images a second, and how long receipts and training take, for fast robots and a slow one.

    python benchmarks/fleet.py --robots 1 4 16

A real trainer and a real broker; the robots only talk, in one process. One of several sends a message of made-up
activations every few seconds, less than its share of the trainer; the others together send more than is trained on, so
that work piles up. Its figures are in docs/results/fleet.md.
"""

from __future__ import annotations

import json
import secrets
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import tyro
from recording import Cell, Table, record

from broker.link.mqtt import MqttLink
from broker.local.server import start_local_broker
from broker.wire import topics
from broker.wire.codec import pack, unpack
from broker.wire.messages import HEARTBEAT_SECONDS, ActivationBatch, Receipt, RobotState, SplitSpec, TrainerState
from broker.wire.quantize import Quantized, pack_activations

SPLIT = SplitSpec(backbone="resnet18", cut="layer2", image_size=32, bits=2, bottleneck=16, shape=(16, 8, 8))
SAMPLES, CLASSES = 64, 10
# Messages that a robot keeps on the way, seconds between two of the slow one, and between two of all others together:
# 1,600 images a second.
WINDOW, SLOW_SECONDS, FAST_SECONDS = 4, 8.0, 0.04


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Robots on one trainer."""

    robots: tuple[int, ...] = (1, 4, 16)
    threads: int = 1
    """Of the trainer."""
    seconds: float = 60.0
    """How long each number of robots is measured, behind the start of their networks."""
    warm_up: float = 30.0
    """Seconds for that, for each robot at most."""
    cores: str = ""
    """Processor cores of the trainer, as taskset takes them; empty for all."""
    out: Path = Path("runs/benchmarks/fleet")


@dataclass
class TalkingRobot:
    """Sends activations and waits for receipts."""

    url: str
    name: str
    interval: float
    latencies: list[float] = field(default_factory=list)
    sent_at: list[float] = field(default_factory=list)  # each message's Unix time
    sequence: int = 0
    next_at: float = 0.0
    heartbeat_at: float = 0.0
    counted_from: float = 0.0

    def __post_init__(self) -> None:
        self.boot = secrets.token_hex(8)
        self.state = RobotState(
            boot=self.boot,
            run=secrets.token_hex(8),
            former="",
            edits=0,
            started=time.time(),
            online=True,
            split=SPLIT,
            weights="none",
            rehearse=0.0,
        )
        self.under_way: dict[int, float] = {}
        self.link = MqttLink(self.url, self.name)
        self.link.subscribe(topics.topic("robot", self.name, "receipt"))
        self._rng = np.random.default_rng(0)

    def turn(self, now: float) -> None:
        """Send what is due and read receipts."""
        while (delivery := self.link.receive(0.0)) is not None:
            receipt = unpack(delivery.payload)
            if isinstance(receipt, Receipt) and receipt.sequence in self.under_way:
                sent_at = self.under_way.pop(receipt.sequence)
                if sent_at >= self.counted_from:
                    self.latencies.append(now - sent_at)
        if not self.link.connected:
            return
        if now >= self.heartbeat_at:
            self.heartbeat_at = now + HEARTBEAT_SECONDS
            self.link.publish(topics.topic("robot", self.name, "state"), pack(self.state), qos=1, retain=True)
        # Before it counts one message is enough to have its network made; more would wait when the measurement begins.
        due = now >= self.next_at and len(self.under_way) < WINDOW and (self.counted_from or not self.sequence)
        if due:
            self.next_at = now + self.interval
            self.under_way[self.sequence] = now
            self.sent_at.append(time.time())
            self.link.publish(topics.topic("robot", self.name, "activations"), pack(self._batch()), qos=1)
            self.sequence += 1

    def _batch(self) -> ActivationBatch:
        codes = self._rng.integers(0, 2**SPLIT.bits, (SAMPLES, *SPLIT.shape)).astype(np.uint8)
        ranges = np.ones(SPLIT.shape[0], np.float32)
        return ActivationBatch(
            boot=self.boot,
            sequence=self.sequence,
            split=SPLIT.fingerprint,
            evaluation=0,
            progress=None,
            edge_version=self.sequence,
            edits=0,
            session=0,
            classes=tuple(f"class {number}" for number in range(CLASSES)),
            labels=np.arange(SAMPLES, dtype=np.uint16) % CLASSES,
            samples=np.arange(1, SAMPLES + 1, dtype=np.uint32) + np.uint32(SAMPLES * self.sequence),
            again=False,
            activations=pack_activations(Quantized(codes=codes, low=-ranges, step=ranges, bits=SPLIT.bits)),
        )


def main(settings: Settings) -> None:
    table = Table(
        "Robots on one trainer",
        *("robots", "images/s", "receipt, median, ms", "receipt, p99, ms", "slow robot: receipt, p99, ms"),
        *("trained on after, median, s", "trained on after, at most, s", "images of the fast robots"),
        *("memory, MB", "store, bytes an image"),
    )
    for count in settings.robots:
        table.row(*measure(settings, count))
    record(table)


def measure(settings: Settings, count: int) -> list[Cell]:
    folder = settings.out / str(count)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with start_local_broker() as broker, (folder / "log").open("w") as log:
        command = ["taskset", "-c", settings.cores] if settings.cores else []
        command += [sys.executable, "-m", "cloud_trainer", "run", "--threads", str(settings.threads)]
        command += ["--broker", broker.url, "--run-dir", str(folder / "cloud"), "--practice", "0"]
        trainer = subprocess.Popen(command, stderr=log)
        try:
            _wait_for_trainer(broker.url)
            fast = max(1, count - 1)
            intervals = [FAST_SECONDS * fast] * fast + [SLOW_SECONDS] * (count - fast)
            robots = [TalkingRobot(broker.url, f"r{number}", each) for number, each in enumerate(intervals)]
            talk(robots, until=lambda: all(robot.latencies for robot in robots), seconds=settings.warm_up * count)
            begin = time.time()
            before = {name: images for name, images, _ in trained(folder)}
            for robot in robots:
                robot.latencies.clear()
                robot.counted_from = time.monotonic()  # what waited for another robot's start does not count
            talk(robots, until=lambda: False, seconds=settings.seconds)
            lines = list(trained(folder))
            memory = psutil.Process(trainer.pid).memory_full_info().uss
            for robot in robots:
                robot.link.close()
        finally:
            trainer.terminate()
            trainer.wait()
    learned = {name: images - before.get(name, 0) for name, images, _ in lines}  # the last line of each counts
    latencies = [one for robot in robots[:fast] for one in robot.latencies]
    slow = [one for robot in robots[fast:] for one in robot.latencies]
    lags = [lag for robot in robots[fast:] for lag in training_lags(robot, lines, begin)]
    each = [learned.get(robot.name, 0) for robot in robots[:fast]]
    stored = sum(path.stat().st_size for path in folder.rglob("store.db*")) / (
        SAMPLES * sum(r.sequence for r in robots)
    )
    return [
        count,
        round(sum(learned.values()) / settings.seconds),
        round(1e3 * statistics.median(latencies)),
        round(1e3 * float(np.percentile(latencies, 99))),
        round(1e3 * float(np.percentile(slow, 99))) if slow else None,
        round(statistics.median(lags), 1) if lags else None,
        round(max(lags), 1) if lags else None,
        f"{min(each):,} to {max(each):,}",
        round(memory / 1e6),
        round(stored),
    ]


def training_lags(robot: TalkingRobot, lines: list[tuple[str, int, float]], begin: float) -> list[float]:
    """Return how many seconds after it was sent each message was trained on, of those sent from a Unix time on."""
    trained_at = [(robot.sent_at[images // SAMPLES - 1], when) for name, images, when in lines if name == robot.name]
    return [when - sent for sent, when in trained_at if sent >= begin]


def talk(robots: list[TalkingRobot], *, until: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not until():
        for robot in robots:
            robot.turn(time.monotonic())
        time.sleep(0.002)


def trained(folder: Path) -> Iterator[tuple[str, int, float]]:
    """Yield a robot's name, the images that the trainer had learned from, and when: all lines, a robot's in order."""
    for path in (folder / "cloud").rglob("metrics.jsonl"):
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):  # else it is just being written
                fields = json.loads(line)
                yield fields["robot"], fields["images"], fields["time"]


def _wait_for_trainer(url: str) -> None:
    link = MqttLink(url, "bench")
    link.subscribe(topics.topic("trainer", topics.ANYONE, "state"))
    while not ((delivery := link.receive(0.5)) and isinstance(unpack(delivery.payload), TrainerState)):
        pass
    link.close()


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
