"""A cluster on one machine: Ray, PostgreSQL and a broker. Its processes are killed while two robots send."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.request import urlopen

import pytest

from broker.local.server import start_local_broker
from cloud_trainer.cluster.board import Board
from cloud_trainer.replay import replay
from cloud_trainer.store.opening import open_again
from tests.cluster_program import DEADLINE_S, ROOT, TRAINING, Cluster, actor_of, check_log
from tests.ports import free_port
from tests.talking_robots import Talker, talk
from tests.warm_start import WarmStart

pytestmark = pytest.mark.slow


@pytest.fixture(name="cluster")
def _cluster(database_url: str, tmp_path: Path) -> Iterator[Cluster]:
    with start_local_broker(backend="mosquitto") as broker:  # its robots are never seen to go
        cluster = Cluster(database_url, tmp_path / "cluster", broker.url, page=free_port())
        yield cluster
        if cluster.process and cluster.process.poll() is None:
            os.killpg(cluster.process.pid, signal.SIGKILL)
            cluster.process.wait()


def train_alone(cluster: Cluster, robots: list[Talker], run_dir: Path) -> None:
    """Let one process train on what robots send, and end it."""
    its = ["--run-dir", str(run_dir), "--broker", cluster.broker, "--trainer", "clustered", "--threads", "1"]
    log = run_dir.with_suffix(".log")
    trainer = WarmStart(["cloud_trainer", "run", *its, *TRAINING], log)
    try:
        talk(robots, lambda: all(one.done for one in robots), DEADLINE_S, "one process trained on it")
    finally:
        trainer.send_signal(signal.SIGINT)
        assert trainer.wait(DEADLINE_S) == 0, log.read_text()


def move_store(*arguments: str) -> None:
    command = [sys.executable, "-m", "cloud_trainer", "store", "move", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def metrics(cluster: Cluster) -> str:
    with urlopen(f"http://127.0.0.1:{cluster.page}/metrics", timeout=DEADLINE_S) as answer:
        return str(answer.read().decode())


@pytest.mark.timeout(600)
def test_a_cluster_loses_nothing_whoever_is_killed(cluster: Cluster) -> None:
    robots = [Talker(cluster.broker, f"clustered-{number}", "clustered") for number in range(2)]
    first, second = (one.name for one in robots)
    alone = cluster.run_dir.with_name("alone")
    robots[0].send(3)
    train_alone(cluster, robots[:1], alone)
    move_store(f"{alone}/store.db", cluster.store, "--target-checkpoints", str(cluster.run_dir))
    cluster.start()
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
    robots[1].send(1)
    cluster.talk(robots, lambda: all(one.done for one in robots), "its network is in memory")
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

    wanted = f'reflexarc_robot_images{{robot="{first}"}} {4 * len(robots[0].receipted)}\n'
    cluster.talk(robots, lambda: wanted in metrics(cluster), f"its page says {wanted}")

    assert cluster.end() == 0, cluster.printed
    assert not re.search("Traceback", cluster.printed), cluster.printed
    check_log(cluster, robots)
    back = cluster.run_dir.with_name("back")
    back.mkdir()
    move_store(cluster.store, f"{back}/store.db", "--source-checkpoints", str(cluster.run_dir))
    robots[0].send(2)
    train_alone(cluster, robots[:1], back)
    assert replay(back / "store.db", None, "cpu"), "the weights are those of a replay, bit for bit"
    for robot in robots:
        robot.link.close()
