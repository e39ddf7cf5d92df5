"""Broker, trainer and robot as a user starts them, beside one another, with what each took of memory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker.local.server import start_local_broker

# What each is told beside its settings: one thread, also for what asks nobody but the environment.
ONE_THREAD = ("--threads", "1")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
ROBOT = "r1"
# Between two looks at how much memory a process has taken; the most that it ever took is only known while it runs.
LOOK_SECONDS = 0.2
# To end after Ctrl-C: a step, a checkpoint, curves.
PATIENCE = 180.0


@dataclass
class Program:
    """A process that runs. peak_bytes: the most memory that it has held."""

    process: subprocess.Popen[bytes]
    folder: Path
    peak_bytes: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        status = Path(f"/proc/{self.process.pid}/status")
        while not self._ended.wait(LOOK_SECONDS):
            try:
                lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
            except OSError:
                return
            self.peak_bytes = max(self.peak_bytes, *(1024 * int(line.split()[1]) for line in lines), 0)

    def wait(self) -> None:
        """Wait until it ends by itself. Raises RuntimeError where that was no success."""
        status = self.process.wait()
        self._ended.set()
        if status:
            raise RuntimeError(f"{self.folder.name} ended with status {status}: see {self.folder}.log")

    def stop(self) -> None:
        """Press Ctrl-C, and wait."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._ended.set()

    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return found


@dataclass(frozen=True, kw_only=True)
class Programs:
    """All three. broker: its URL."""

    broker: str
    cloud: Program
    robot: Program


@contextmanager
def running(
    folder: Path, robot_flags: Sequence[str], trainer_flags: Sequence[str], *, cores: bool = False
) -> Iterator[Programs]:
    """Start broker, trainer and robot; stop what runs of them in the end.

    folder: removed first; then holds robot/, cloud/, and what each printed. cores: whether each end has a core alone.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with start_local_broker(log=folder / "broker.log") as broker:
        common = ["--broker", broker.url, *ONE_THREAD]
        cloud = start(["cloud_trainer", "run", *common, *trainer_flags], folder / "cloud", 1 if cores else None)
        robot = start(
            ["robot_edge", "run", "--robot", ROBOT, *common, *robot_flags], folder / "robot", 0 if cores else None
        )
        try:
            yield Programs(broker=broker.url, cloud=cloud, robot=robot)
        finally:
            robot.stop()
            cloud.stop()


def start(command: Sequence[str], folder: Path, core: int | None) -> Program:
    """Start a program, with that core alone or with all. folder: of its run; what it prints goes beside it."""
    pin = [] if core is None else ["taskset", "-c", str(core)]
    with folder.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [*pin, sys.executable, "-m", *command, "--run-dir", str(folder)],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=ENVIRONMENT,
        )
    program = Program(process, folder)
    threading.Thread(target=program.watch, daemon=True).start()
    return program
