"""`cloud-trainer cluster run` in a process of its own, whose processes can be killed, and its accounts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cloud_trainer.checkpoints import checkpoint_name, checkpoint_place
from cloud_trainer.cluster.board import Board
from cloud_trainer.replay import replay
from cloud_trainer.store.opening import open_again
from tests.talking_robots import Talker, talk

ROOT = Path(__file__).parents[1]
# Only a failure takes this long.
DEADLINE_S = 240.0
TRAINING = ["--batch", "4", "--rehearse-from", "100", "--practice", "0"]
SETTINGS = [*TRAINING, "--actors", "2"]


@dataclass
class Cluster:
    """`cloud-trainer cluster run` in a process of its own."""

    store: str
    run_dir: Path
    broker: str
    ray: str = "local"
    page: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, with the run that it had before."""
        log = self.run_dir.with_suffix(".log").open("ab")
        command = [
            sys.executable,
            "-m",
            "cloud_trainer",
            "cluster",
            "run",
            "--store",
            self.store,
            *SETTINGS,
            "--ray",
            self.ray,
        ]
        command += ["--run-dir", str(self.run_dir), "--broker", self.broker, "--trainer", "clustered"]
        command += ["--page", str(self.page)]
        with log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)

    @property
    def printed(self) -> str:
        return self.run_dir.with_suffix(".log").read_text()

    def pid(self, name: str) -> int:
        """Return the number of a process, as it says it itself; 0 where it is not there."""
        with closing(Board(self.store)) as board:
            places = {one.name: one.place for one in board.members()}
        return int(places[name].rpartition(":")[2]) if name in places else 0

    def kill(self, name: str) -> int:
        """Kill a process without a word; return its number."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def talk(self, robots: Sequence[Talker], until: Callable[[], object], what: str) -> None:
        """Let robots talk until a condition holds, as long as the program runs."""

        def holds() -> object:
            assert self.process
            assert self.process.poll() is None, f"it ended before {what}:\n{self.printed}"
            return until()

        try:
            talk(robots, holds, DEADLINE_S, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.printed}") from None

    def end(self) -> int:
        """Press Ctrl-C; return the exit status."""
        assert self.process
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(DEADLINE_S)


def actor_of(cluster: Cluster, robot: str) -> str:
    with closing(Board(cluster.store)) as board:
        return next(actor for log, actor, _ in board.shares() if log == robot)


def check_log(cluster: Cluster, robots: Sequence[Talker]) -> None:
    """Compare what is in the log with what was sent, and each checkpoint with a replay of its log."""
    place = checkpoint_place(cluster.run_dir)
    with closing(open_again(cluster.store)) as store:
        for robot in robots:
            counts = store.count_batches(robot.name, 0, store.last_event(robot.name))
            assert counts == {robot.name: len(robot.receipted)}, "each message is there once"
            saved = place.load(checkpoint_name(robot.name, store), "there should be one")
            assert saved.members[0].messages_trained == len(robot.receipted)
    assert replay(cluster.store, None, "cpu", place), "the weights are those of a replay, bit for bit"
