"""A cluster of three Ray nodes on one machine, of which one process after the other is killed while robots send.

    python -m tests.soak.cluster_chaos --kills 30

Actors, ingest, raylets, the coordinator, PostgreSQL and the broker. At the end each message is in its log once, and
each network is what a replay of its log makes of it, bit for bit. A short form is in tests/end_to_end/test_cluster.py.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import psutil
import tyro

from broker.local.server import start_local_broker
from cloud_trainer.cluster.run import QUIET
from tests.cluster_program import Cluster, check_log
from tests.ports import free_port
from tests.postgres import PostgresServer, postgres_server
from tests.talking_robots import Talker, talk

Victim = Literal["actor", "ingest", "raylet", "coordinator", "postgres", "broker"]

# Only a failure takes this long.
START_SECONDS = 120.0
# Messages of each robot behind a kill.
MESSAGES = 10
# Beside the ports that Ray takes by itself, several nodes on one machine must not share one.
RAY = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]


class RayNodes:
    """A head that runs nothing of ours, and two more nodes, each with room for one actor and some more."""

    def __init__(self) -> None:
        self._port = free_port()
        self.address = f"127.0.0.1:{self._port}"
        self._environment = {**os.environ, **QUIET}
        self._head = self._start("--head", f"--port={self._port}", "--num-cpus=0", "--include-dashboard=false")
        self._wait()
        self._nodes = [self._start(f"--address={self.address}", "--num-cpus=2") for _ in range(2)]

    def _wait(self) -> None:
        """Wait until the head can be reached."""
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1.0).close()
            except OSError:  # noqa: PERF203
                assert time.monotonic() < end, "Ray's head never began"
                time.sleep(0.5)
            else:
                return

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*RAY, *arguments, "--node-ip-address=127.0.0.1", "--object-store-memory=80000000"],
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill_one(self, number: int) -> None:
        """Kill -9 a node's raylet; its actors may live on. Start another node in its place."""
        node = self._nodes[number]
        for one in psutil.Process(node.pid).children(recursive=True):
            if "raylet" in Path((one.cmdline() or [""])[0]).name:
                one.kill()
        self._nodes[number] = self._start(f"--address={self.address}", "--num-cpus=2")

    def end(self) -> None:
        """Kill all of it."""
        for node in [*self._nodes, self._head]:
            with suppress(psutil.Error):
                for one in psutil.Process(node.pid).children(recursive=True):
                    one.kill()
            node.kill()
            node.wait()


class ClusterChaos:
    """All of it, and what happens to it. The seed decides what."""

    def __init__(self, folder: Path, server: PostgresServer, seed: int, robots: int) -> None:
        self.killed: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._server = server
        self._broker = start_local_broker()
        self._nodes = RayNodes()
        self._cluster = Cluster(server.make("chaos"), folder / "cluster", self._broker.url, self._nodes.address)
        self._cluster.start()
        self._robots = [Talker(self._broker.url, f"chaos-{number}", "clustered") for number in range(robots)]

    def run(self, kills: int) -> int:
        """Let it all happen; return how many messages were sent."""
        try:
            self._work()
            victims: list[Victim] = list(get_args(Victim))
            for number in range(kills):
                victim = victims[number] if number < len(victims) else self._rng.choice(victims)
                for robot in self._robots:
                    robot.send(MESSAGES)
                self._talk(lambda: any(len(one.waiting) < MESSAGES for one in self._robots), "some are taken")
                print(f"{time.strftime('%H:%M:%S')} kill {victim}", flush=True)
                self.killed[victim] += 1
                self._kill(victim)
                self._work()
            assert self._cluster.end() == 0, self._cluster.printed
            check_log(self._cluster, self._robots)
            return sum(len(one.receipted) for one in self._robots)
        finally:
            if self._cluster.process and self._cluster.process.poll() is None:
                os.killpg(self._cluster.process.pid, signal.SIGKILL)
            self._nodes.end()
            self._broker.stop()

    def _work(self) -> None:
        for robot in self._robots:
            robot.send(MESSAGES)
        self._talk(lambda: all(one.done for one in self._robots), "all is trained on")

    def _talk(self, until: Callable[[], object], what: str) -> None:
        talk(self._robots, until, 600.0, what)

    def _kill(self, victim: Victim) -> None:
        """Kill -9 it, and start again what nothing else starts again."""
        number = self._rng.randrange(2)
        match victim:
            case "actor":
                self._cluster.kill(f"clustered-{number}")
            case "ingest":
                self._cluster.kill("clustered-ingest-0")
            case "raylet":
                self._nodes.kill_one(number)
            case "coordinator":
                assert self._cluster.process
                self._cluster.process.kill()
                self._cluster.process.wait()
                self._cluster.start()
            case "postgres":
                self._server.kill()
                time.sleep(self._rng.uniform(0, 3))
                self._server.start()
            case "broker":
                port = self._broker.port
                os.kill(self._broker.pid, signal.SIGKILL)
                self._broker.stop()
                self._broker = start_local_broker(port=port)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Kill; then count."""

    kills: int = 30
    robots: int = 3
    seed: int = 0
    out: Path | None = None
    """Empty folder for the run; none is a temporary one."""


@contextmanager
def folder_for(out: Path | None) -> Iterator[Path]:
    if out:
        yield out
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def main(settings: Settings) -> None:
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # of all nodes
    with folder_for(settings.out) as folder, postgres_server(safe=True) as server:
        begin = time.monotonic()
        chaos = ClusterChaos(folder, server, settings.seed, settings.robots)
        sent = chaos.run(settings.kills)
        print(f"{time.monotonic() - begin:.0f} s, kill -9: {dict(chaos.killed)}")
        print(f"messages sent {sent:,}: each is in its log once, and weights are those of a replay, bit for bit")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
