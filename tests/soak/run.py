"""The main job with a class for each picture: a trainer and a robot in processes of their own, and their accounts.

Each picture is a class of its own, so the accounts are by picture: shown in E epochs, it must be trained on E times.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from broker.wire.codec import unpack_as
from broker.wire.messages import ActivationBatch
from tests.warm_start import WarmStart

PICTURES = 60
SIDE = 16
DEADLINE_SECONDS = 300.0
POLL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Accounts:
    """What the run came to, by picture. trained: from the trainer's log; the others from the robot's outbox."""

    expected: Counter[str]
    trained: Counter[str]
    taken: Counter[str]
    queued: Counter[str]
    dropped: Counter[str]
    kills: Counter[str]
    replay: str
    replay_status: int


class Run:
    """A trainer and a robot, and what they come to."""

    def __init__(self, folder: Path, epochs: int) -> None:
        self.epochs = epochs
        self.killed: Counter[str] = Counter()
        self._folder = folder
        self._programs: dict[str, WarmStart] = {}
        _draw_pictures(folder / "pictures")

    def _start_program(self, who: Literal["trainer", "robot"], broker: str, *more: str) -> None:
        common = ["--broker", broker, "--threads", "1", "--batch", "32", "--checkpoint-every", "15", "--run-dir"]
        robot = ["--source", f"folder:{self._folder}/pictures", "--held-out", f"folder:{self._folder}/pictures"]
        robot += ["--robot", "r1", "--backbone", "shufflenet_v2_x0_5", "--cut", "stage2", "--image-size", str(SIDE)]
        robot += ["--bottleneck", "8", "--epochs", str(self.epochs), "--rehearse", "0.25"]
        flags = robot if who == "robot" else []
        package = "robot_edge" if who == "robot" else "cloud_trainer"
        command = [package, "run", *common, str(self._folder / who), *flags, *more]
        self._programs[who] = WarmStart(command, self._folder / f"{who}.log")

    def _wait_for_robot(self) -> None:
        self._until(lambda: self._programs["robot"].poll() is not None, "the robot's end")
        assert self._programs["robot"].poll() == 0, self._said("robot")

    def _end_trainer(self) -> None:
        self._programs["trainer"].send_signal(signal.SIGINT)
        self._until(lambda: self._programs["trainer"].poll() is not None, "the trainer's end")

    def _kill_programs(self) -> None:
        for program in self._programs.values():
            program.kill()
            program.wait()

    def _note(self, what: str) -> None:
        """Write down what was done, and when: with the programs' own logs it tells the story of a failure."""
        with (self._folder / "chaos.log").open("a") as log:
            log.write(f"{time.strftime('%H:%M:%S')} at picture {self._learned()}: {what}\n")

    def _until_learned(self, pictures: int) -> None:
        self._until(lambda: self._learned() >= pictures, f"picture {pictures}")

    def _learned(self, who: Literal["trainer", "robot"] = "robot") -> int:
        """How many pictures the robot has learned from, or the trainer has, by its own account."""
        metrics = self._folder / who / "metrics.jsonl"
        lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
        return max((json.loads(line)["images"] for line in lines[-2:] if line.endswith("\n")), default=0)

    def _until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            for who, program in self._programs.items():
                ended = program.poll()
                assert ended in {None, 0}, f"{who} ended with {ended} before {what}:\n{self._said(who)}"
            assert time.monotonic() < deadline, f"never came: {what}\n{self._said('robot')}\n{self._said('trainer')}"
            time.sleep(POLL_SECONDS)

    def _said(self, who: str) -> str:
        return (self._folder / f"{who}.log").read_text(errors="replace")[-3000:]

    def _accounts(self) -> Accounts:
        store = self._folder / "trainer" / "store.db"
        replay = WarmStart(["cloud_trainer", "replay", "--store", str(store)], self._folder / "replay.log")
        status = replay.wait(DEADLINE_SECONDS)
        counts = _counts(self._folder / "robot" / "outbox.db")
        return Accounts(
            expected=Counter({_name(number): self.epochs for number in range(PICTURES)}),
            trained=trained_on(store),
            taken=counts["taken"],
            queued=counts["queued"],
            dropped=counts["dropped"] + counts["rejected"],
            kills=self.killed,
            replay=self._said("replay"),
            replay_status=status,
        )


def _name(number: int) -> str:
    return f"picture-{number:03}"


def _draw_pictures(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        (folder / _name(number)).mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(folder / _name(number) / "it.png")


def _counts(outbox: Path) -> dict[str, Counter[str]]:
    """Return the outbox's counts of samples by class: taken, receipted, rejected, dropped, queued."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    with contextlib.closing(sqlite3.connect(outbox)) as database:
        for column in ("taken", "receipted", "rejected", "dropped"):
            counts[column].update(dict(database.execute(f"SELECT name, {column} FROM classes")))
        counts["queued"].update(dict(database.execute("SELECT class, sum(count) FROM samples GROUP BY class")))
    return counts


def trained_on(store: Path) -> Counter[str]:
    """Return the fresh samples in a trainer's log, by class."""
    trained: Counter[str] = Counter()
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as database:
        for (payload,) in database.execute("SELECT payload FROM events WHERE kind = 'batch'"):
            batch = unpack_as(ActivationBatch, payload)
            if not batch.evaluation and not batch.again:  # what comes again was counted before
                trained.update(batch.names)
    return trained
