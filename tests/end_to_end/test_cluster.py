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

import pytest

from cloud_trainer.cluster.board import Board
from cloud_trainer.store.opening import open_again
from tests.cluster_program import ROOT, Cluster, actor_of, check_log
from tests.talking_robots import Talker

pytestmark = pytest.mark.slow


@pytest.fixture(name="cluster")
def _cluster(database_url: str, mosquitto_url: str, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(database_url, tmp_path / "cluster", mosquitto_url)
    cluster.start()
    yield cluster
    if cluster.process.poll() is None:
        os.killpg(cluster.process.pid, signal.SIGKILL)
        cluster.process.wait()


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
