"""A cluster on one machine: Ray, PostgreSQL and a broker. Its processes are killed while two robots send."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloud_trainer.checkpoints import checkpoint_name, checkpoint_place
from cloud_trainer.cluster.board import Board
from cloud_trainer.replay import replay
from cloud_trainer.store.opening import open_again
from tests.talking_robots import Talker, talk

ROOT = Path(__file__).parents[2]
# Only a failure takes this long.
DEADLINE_S = 240.0
SETTINGS = ["--batch", "4", "--rehearse-from", "100", "--practice", "0", "--ray", "local", "--actors", "2"]

pytestmark = pytest.mark.slow


@dataclass
class Cluster:
    """`cloud-trainer cluster run` in a process of its own."""

    store: str
    run_dir: Path
    broker: str

    def start(self) -> None:
        log = self.run_dir.with_suffix(".log").open("ab")
        command = [sys.executable, "-m", "cloud_trainer", "cluster", "run", "--store", self.store, *SETTINGS]
        command += ["--run-dir", str(self.run_dir), "--broker", self.broker, "--trainer", "clustered"]
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

    def talk(self, robots: list[Talker], until: Callable[[], object], what: str) -> None:
        """Let robots talk until a condition holds, as long as the program runs."""

        def holds() -> object:
            assert self.process.poll() is None, f"it ended before {what}:\n{self.printed}"
            return until()

        try:
            talk(robots, holds, DEADLINE_S, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.printed}") from None

    def end(self) -> int:
        """Press Ctrl-C; return the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(DEADLINE_S)


@pytest.fixture(name="cluster")
def _cluster(database_url: str, mosquitto_url: str, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(database_url, tmp_path / "cluster", mosquitto_url)
    cluster.start()
    yield cluster
    if cluster.process.poll() is None:
        os.killpg(cluster.process.pid, signal.SIGKILL)
        cluster.process.wait()


def actor_of(cluster: Cluster, robot: str) -> str:
    with closing(Board(cluster.store)) as board:
        return next(actor for log, actor, _ in board.shares() if log == robot)


def check_log(cluster: Cluster, robots: list[Talker]) -> None:
    """Compare what is in the log with what was sent, and each checkpoint with a replay of its log."""
    place = checkpoint_place(cluster.run_dir)
    with closing(open_again(cluster.store)) as store:
        for robot in robots:
            counts = store.count_batches(robot.name, 0, store.last_event(robot.name))
            assert counts == {robot.name: len(robot.receipted)}, "each message is there once"
            saved = place.load(checkpoint_name(robot.name, store), "there should be one")
            assert saved.members[0].messages_trained == len(robot.receipted)
    assert replay(cluster.store, None, "cpu", place), "the weights are those of a replay, bit for bit"


@pytest.mark.timeout(600)
def test_a_cluster_loses_nothing_whoever_is_killed(cluster: Cluster) -> None:
    robots = [Talker(cluster.broker, f"clustered-{number}", "clustered") for number in range(2)]
    first, second = (one.name for one in robots)
    for robot in robots:
        robot.send(3)
    cluster.talk(robots, lambda: all(one.done for one in robots), "both were trained on")
    assert {actor_of(cluster, first), actor_of(cluster, second)} == {"clustered-0", "clustered-1"}, cluster.printed

    ingest = cluster.kill("clustered-ingest-0")
    for robot in robots:
        robot.send(5)
    cluster.talk(robots, lambda: all(one.done for one in robots), "a new ingest took them in")
    assert cluster.pid("clustered-ingest-0") != ingest

    for robot in robots:
        robot.send(20)
    cluster.talk(robots, lambda: len(robots[0].receipted) > 12, "some are in the log")
    cluster.kill(actor_of(cluster, first))
    cluster.talk(robots, lambda: all(one.done for one in robots), "a new actor trained on the rest")

    # Another one claims a robot's log, as behind a partition: who has it in memory writes nothing more of it.
    with closing(open_again(cluster.store)) as store:
        store.claim(second, "somebody else")
    robots[1].send(1)
    robots[1].go()
    cluster.talk(robots, lambda: f"drops robot {second}" in cluster.printed, "it was superseded")
    robots[1].come_back()
    robots[1].send(1)
    cluster.talk(robots, lambda: all(one.done for one in robots), "it claimed the log anew")

    before, other = actor_of(cluster, first), {"clustered-0": "clustered-1", "clustered-1": "clustered-0"}
    move = ["cluster", "move", first, other[before], "--store", cluster.store]
    subprocess.run([sys.executable, "-m", "cloud_trainer", *move], cwd=ROOT, check=True, capture_output=True)
    robots[0].send(4)
    cluster.talk(robots, lambda: all(one.done for one in robots), "the other actor went on")
    with closing(Board(cluster.store)) as board:
        assert first in board.held(other[before])

    assert cluster.end() == 0, cluster.printed
    assert not re.search("Traceback", cluster.printed), cluster.printed
    check_log(cluster, robots)
    for robot in robots:
        robot.link.close()
