"""Does the cloud follow a person's lessons? Toys before a simulated camera are taught one after the other.

    python benchmarks/cloud_follows.py

Broker, trainer and robot are processes, as a user has them, with a core each. Each toy is taught for 10 s while the
camera shows it; then the robot is left alone. Both ends' held-out accuracies are those that they tell over MQTT, 3 s
behind each lesson and while the robot rests. The other table has how long the trainer was not heard at most: it says
every 5 s that it is there. --busy adds processes that take the cores from all of them.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from recording import Table, percent, record

from broker.link.mqtt import MqttLink
from broker.local.server import start_local_broker
from broker.wire import topics
from broker.wire.codec import pack, unpack
from broker.wire.messages import Command, RobotMetrics, TrainerMetrics, TrainerState
from robot_edge.sources.toys import TOY_CLASSES

# Of the simulated camera: how long it shows each toy.
SHOWN_SECONDS = 16.0
DEADLINE_SECONDS = 300.0
# How often the figures are looked at in the rest.
PARTS = 6


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The cloud behind lessons."""

    toys: int = 5
    seconds: float = 10
    """How long each toy is taught."""
    rest: float = 60
    """Seconds behind the last lesson."""
    batch: int = 64
    """As --batch of both."""
    threads: int = 1
    """As --threads of both."""
    busy: int = 0
    """Processes beside them that do nothing but compute."""


class Listener:
    """Hears what both ends say of themselves, on a thread of its own."""

    def __init__(self, url: str) -> None:
        self.exit: list[float] = []
        self.cloud: list[float] = []
        self.lives: list[float] = []  # when the trainer said that it is there
        self.link = MqttLink(url, "benchmark")
        for topic in (
            topics.topic("robot", topics.ANYONE, "metrics"),
            topics.topic("trainer", topics.ANYONE, "metrics"),
            topics.topic("trainer", topics.ANYONE, "state"),
        ):
            self.link.subscribe(topic)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    def teach(self, name: str, seconds: float) -> None:
        command = Command(id="benchmark", action="teach", name=name, seconds=seconds)
        assert self.link.publish(topics.topic("robot", "r1", "command"), pack(command), qos=1)

    @property
    def longest_silence(self) -> float:
        """Of the trainer, in seconds."""
        return max(later - before for before, later in zip(self.lives, self.lives[1:], strict=False))

    def close(self) -> None:
        self._ending.set()
        self._thread.join()
        self.link.close()

    def _hear(self) -> None:
        while not self._ending.is_set():
            delivery = self.link.receive(0.2)
            if delivery is None:
                continue
            message, now = unpack(delivery.payload), time.monotonic()
            if isinstance(message, TrainerState) and not delivery.retained:
                self.lives.append(now)
            elif isinstance(message, RobotMetrics) and message.exit_accuracy is not None:
                self.exit.append(message.exit_accuracy)
            elif isinstance(message, TrainerMetrics) and message.cloud_accuracy is not None:
                self.cloud.append(message.cloud_accuracy)


def main(settings: Settings) -> None:
    toys = TOY_CLASSES[: settings.toys]
    table = Table(
        f"{settings.toys} toys, {settings.seconds:g} s each, one after the other",
        *("behind", "seconds", "exit, %", "cloud, %"),
    )
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        broker = running.enter_context(start_local_broker())
        common = ["--broker", broker.url, "--batch", str(settings.batch), "--threads", str(settings.threads)]
        log = running.enter_context((folder / "log").open("w"))
        running.enter_context(program("cloud_trainer", [*common, "--run-dir", str(folder / "cloud")], log))
        listener = running.enter_context(closing(Listener(broker.url)))
        page = free_port()
        camera = ["--source", f"sim:{','.join(toys)}", "--live", "--robot", "r1", "--bottleneck", "16"]
        flags = [*common, *camera, "--run-dir", str(folder / "robot"), "--page", str(page)]
        running.enter_context(program("robot_edge", flags, log))
        wait(lambda: urllib.request.urlopen(f"http://127.0.0.1:{page}/sees.json").read().find(b'"seen": null') < 0)
        for _ in range(settings.busy):
            running.enter_context(spinning())
        began, last, tests = time.monotonic(), 0.0, 0
        for number, toy in enumerate(toys):
            shown = began + number * SHOWN_SECONDS
            time.sleep(max(0.0, shown + 2 - time.monotonic()))
            tests = len(listener.exit)
            listener.teach(toy, settings.seconds)
            last = time.monotonic() + settings.seconds
            time.sleep(max(0.0, last + 3 - time.monotonic()))
            table.row(toy, round(time.monotonic() - began), *figures(listener))
        wait(lambda: len(listener.exit) > tests)  # the robot practises, and tests what came of it
        over = time.monotonic()
        for _ in range(PARTS):
            time.sleep(settings.rest / PARTS)
            table.row(f"{toys[-1]}, the robot's practice over", round(time.monotonic() - over), *figures(listener))
        silence = listener.longest_silence
    heard = Table("The trainer", "", "seconds")
    heard.row("longest without a word of it", round(silence, 1))
    record(table, heard)


def figures(listener: Listener) -> list[float | None]:
    """Return what exit and cloud have of held-out frames, in per cent; None where none are tested."""
    return [percent(its[-1]) if its else None for its in (listener.exit, listener.cloud)]


def wait(holds: Any) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        try:
            if holds():
                return
        except OSError:
            pass
        time.sleep(0.3)
    raise SystemExit("that took too long")


@contextmanager
def program(package: str, flags: list[str], log: Any) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", package, "run", *flags], stderr=log, stdout=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def spinning() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
