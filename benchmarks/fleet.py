"""Many robots on one trainer: images a second, and how long a receipt takes, for a fast robot and for a slow one.

    python benchmarks/fleet.py

A real trainer and a real broker; the robots only talk, in one process: each keeps some messages of made-up activations
on the way, but for one of them, which sends one a second. Prints the table for docs/results.md.
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
import tyro

from broker import topics
from broker.codec import pack, unpack
from broker.link import MqttLink
from broker.messages import HEARTBEAT_SECONDS, ActivationBatch, Receipt, RobotState, SplitSpec, TrainerState
from broker.quantize import Quantized, pack_activations
from broker.server import start_local_broker

SPLIT = SplitSpec(backbone="resnet18", cut="layer2", image_size=32, bits=2, bottleneck=16, shape=(16, 8, 8))
SAMPLES, CLASSES = 64, 10
# Messages that a fast robot keeps on the way, and seconds between two of the slow one.
WINDOW, SLOW_SECONDS = 4, 1.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Robots on one trainer."""

    robots: tuple[int, ...] = (1, 4, 16)
    seconds: float = 60.0
    """How long each number of robots is measured, behind the start of their networks."""
    warm_up: float = 30.0
    """Seconds for that, for each robot at most."""
    core: int = 1
    """Of the trainer."""
    out: Path = Path("runs/benchmarks/fleet")


@dataclass
class TalkingRobot:
    """Sends activations and waits for receipts."""

    url: str
    name: str
    interval: float
    latencies: list[float] = field(default_factory=list)
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
        if now >= self.next_at and len(self.under_way) < WINDOW:
            self.next_at = now + self.interval
            self.under_way[self.sequence] = now
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
    print("| robots | images/s | receipt, median | p99 | p99, slow robot | images of the fast robots |")
    print("| --- | --- | --- | --- | --- | --- |")
    for count in settings.robots:
        print(f"| {' | '.join(measure(settings, count))} |", flush=True)


def measure(settings: Settings, count: int) -> list[str]:
    folder = settings.out / str(count)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with start_local_broker() as broker, (folder / "log").open("w") as log:
        command = ["taskset", "-c", str(settings.core), sys.executable, "-m", "cloud_trainer", "run", "--threads", "1"]
        command += ["--broker", broker.url, "--run-dir", str(folder / "cloud"), "--practice", "0"]
        trainer = subprocess.Popen(command, stderr=log)
        try:
            _wait_for_trainer(broker.url)
            intervals = [0.0] * (count - 1) + [SLOW_SECONDS if count > 1 else 0.0]
            robots = [TalkingRobot(broker.url, f"r{number}", each) for number, each in enumerate(intervals)]
            talk(robots, until=lambda: all(robot.latencies for robot in robots), seconds=settings.warm_up * count)
            before = dict(trained(folder))
            for robot in robots:
                robot.latencies.clear()
                robot.counted_from = time.monotonic()  # what waited for another robot's start does not count
            talk(robots, until=lambda: False, seconds=settings.seconds)
            after = dict(trained(folder))
            for robot in robots:
                robot.link.close()
        finally:
            trainer.terminate()
            trainer.wait()
    learned = {name: after[name] - before.get(name, 0) for name in after}
    fast = [robot for robot in robots if not robot.interval]
    all_latencies = [one for robot in fast for one in robot.latencies]
    slow = [one for robot in robots if robot.interval for one in robot.latencies]
    each = [learned.get(robot.name, 0) for robot in fast]
    return [
        str(count),
        f"{sum(learned.values()) / settings.seconds:,.0f}",
        f"{1e3 * statistics.median(all_latencies):,.0f} ms",
        f"{1e3 * np.percentile(all_latencies, 99):,.0f} ms",
        f"{1e3 * np.percentile(slow, 99):,.0f} ms" if slow else "",
        f"{min(each):,} to {max(each):,}",
    ]


def talk(robots: list[TalkingRobot], *, until: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not until():
        for robot in robots:
            robot.turn(time.monotonic())
        time.sleep(0.002)


def trained(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield each robot's name and the images that the trainer had learned from, the last line last."""
    for line in (folder / "cloud" / "metrics.jsonl").read_text().splitlines():
        fields = json.loads(line)
        yield fields["robot"], fields["images"]


def _wait_for_trainer(url: str) -> None:
    link = MqttLink(url, "bench")
    link.subscribe(topics.topic("trainer", topics.ANYONE, "state"))
    while (delivery := link.receive(0.5)) is None or not isinstance(unpack(delivery.payload), TrainerState):
        pass
    link.close()


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
