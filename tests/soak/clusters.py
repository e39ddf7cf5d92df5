"""Three nodes of RabbitMQ or NATS, of which one after the other is killed while a robot and a trainer use two others.

python -m tests.soak.clusters --kind nats --kills 1

Neither program is ever started again. The second node is killed when the first one is back.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from tests.broker_nodes import Brokers, Kind, running
from tests.soak.run import PICTURES, Accounts, Run
from tests.soak.test_soak import check

NODES = 3
# Pictures that the robot is shown beside those of the time in which the trainer gets ready, for each kill.
PICTURES_PER_KILL = 600
# Pictures a second. As fast as it can a robot would be done before a node is back.
RATE = 20
# Pictures that the trainer learns from between two events.
PICTURES_BETWEEN = 100


class ClusterRun(Run):
    """Nodes, a trainer at one of them and a robot at another one, and the death of both nodes in turn."""

    def __init__(self, folder: Path, brokers: Brokers, kills: int) -> None:
        super().__init__(folder, epochs=-(-(kills + 2) * PICTURES_PER_KILL // PICTURES))
        self._brokers = brokers
        self._kills = kills

    def run(self) -> Accounts:
        """Let it all happen, wait for the end, and close the books."""
        try:
            self._start_program("trainer", self._brokers.urls(first=1))
            self._start_program("robot", self._brokers.urls(first=0), "--rate", str(RATE))
            for number in range(self._kills):
                self._until_trained_on(PICTURES_BETWEEN)
                self._lose(number % NODES)
            self._wait_for_robot()
            self._end_trainer()
            return self._accounts()
        finally:
            self._kill_programs()

    def _lose(self, number: int) -> None:
        """Kill -9 a node, let the run go on without it for a while, and start it again."""
        node = self._brokers.nodes[number]
        assert self._programs["robot"].poll() is None, "the robot was done before a node was killed"
        self._note(f"kill node {number}, with {self._learned('trainer')} trained on")
        self.killed["node"] += 1
        node.kill()
        self._until_trained_on(PICTURES_BETWEEN)
        self._note(f"{self._learned('trainer')} trained on; node {number} starts again")
        node.start()
        node.wait_until_ready()

    def _until_trained_on(self, more: int) -> None:
        pictures = self._learned("trainer") + more
        self._until(lambda: self._learned("trainer") >= pictures, f"{pictures} pictures trained on")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Kill nodes of a cluster; then count."""

    kind: Kind = "rabbitmq"
    kills: int = 1
    """How often a node is killed."""
    out: Path | None = None
    """Empty folder for the run; none is a temporary one."""


def main(settings: Settings) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = settings.out or Path(temporary)
        (folder / "nodes").mkdir()
        with running(settings.kind, folder / "nodes", NODES) as brokers:
            begin = time.monotonic()
            accounts = ClusterRun(folder, brokers, settings.kills).run()
        print(f"{settings.kind}, {NODES} nodes: {time.monotonic() - begin:.0f} s, kill -9: {dict(accounts.kills)}")
        print(
            f"samples shown {accounts.expected.total():,}, sent {accounts.taken.total():,}, trained "
            f"{accounts.trained.total():,}, queued {accounts.queued.total():,}, dropped {accounts.dropped.total():,}, "
            "restarts by hand 0"
        )
        print(accounts.replay.strip())
        check(accounts)
        print("nothing was lost and nothing was trained on twice")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
