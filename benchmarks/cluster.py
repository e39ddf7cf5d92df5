"""A cluster on one machine: a thousand robots of which twenty are at work, and its rate beside that of one process.

    python benchmarks/cluster.py                       # both
    python benchmarks/cluster.py --robots 0            # the rate alone

Real programs, a real broker and PostgreSQL as Debian has it; the robots only talk. Those of the first part have a small
network (ShuffleNet at 16 pixels), as a thousand checkpoints of a ResNet-18 would take 84 GB. Each connects, sends a
message, and is let in, which takes as long as its network is made ready. Then it sends the others, waits until all are
trained on, and goes; later some come back. Memory is what all processes of the cluster
have, shared pages in equal parts (PSS), with Ray's own and without the broker, PostgreSQL and the robots.
The rate is that of ResNet-18 robots that send more than is trained on; both kinds have two cores, one after the other.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import tyro
from fleet import TalkingRobot, talk
from recording import Table, record

from broker.local.server import start_local_broker
from cloud_trainer.cluster.board import Board
from cloud_trainer.store.opening import open_again
from tests.postgres import PostgresServer, postgres_server
from tests.talking_robots import Talker

POLL_SECONDS = 0.02
MEMORY_SECONDS = 5.0
# Only a failure takes this long.
DEADLINE_SECONDS = 600.0
TRAINER = "bench"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A cluster on one machine."""

    robots: int = 1000
    """Robots of the first part; 0 leaves it out."""
    active: int = 20
    """Of those at work at a time."""
    back: int = 100
    """Of those that come back, once all have gone."""
    messages: int = 6
    """Of a robot, each time."""
    actors: int = 2
    """Processes that train."""
    senders: int = 4
    """Robots of the second part; 0 leaves it out."""
    turns: int = 2
    """How often each kind is measured."""
    seconds: float = 30.0
    """How long, each time, behind the start of their networks."""
    cores: str = "0,1"
    """Processor cores of the second part, as taskset takes them."""


def main(settings: Settings) -> None:
    with postgres_server(safe=True) as server:
        tables = []
        if settings.robots:
            with start_local_broker() as broker:
                tables.append(many_robots(settings, server, broker.url))
        if settings.senders:
            tables.append(rates(settings, server))
        record(*tables)


@contextmanager
def program(arguments: Sequence[str], cores: str = "") -> Iterator[psutil.Process]:
    """Run `cloud-trainer` with arguments, and end it as Ctrl-C does."""
    pinned = ["taskset", "-c", cores] if cores else []
    with tempfile.NamedTemporaryFile("w", suffix=".log", delete=False) as log:
        command = [*pinned, sys.executable, "-m", "cloud_trainer", *arguments, "--trainer", TRAINER]
        process = psutil.Popen(command, stdout=log, stderr=log)
    print("its log:", log.name, flush=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def cluster(store: str, broker: str, folder: str, actors: int) -> list[str]:
    its = ["cluster", "run", "--store", store, "--actors", str(actors), "--ray", "local"]
    return [*its, "--broker", broker, "--run-dir", folder, "--practice", "0", "--networks-gb", "1"]


def many_robots(settings: Settings, server: PostgresServer, broker: str) -> Table:
    store = server.make("many_robots")
    names = [f"m{number}" for number in range(settings.robots)]
    coming_back = random.Random(0).sample(names, min(settings.back, len(names)))
    with tempfile.TemporaryDirectory() as folder, program(cluster(store, broker, folder, settings.actors)) as process:
        wait_for(lambda: actors_there(store) == settings.actors, process)
        memory = Memory(process)
        work = Work(settings, broker, memory)
        begin = time.monotonic()
        work.do(names)
        first = time.monotonic() - begin
        idle = processor_share(process, 20.0)
        work.do(coming_back)
        with closing(open_again(store)) as log:
            sent = {name: settings.messages * (1 + (name in coming_back)) for name in names}
            stored = {name: sum(log.count_batches(name, 0, 2**62).values()) for name in names}
        lost = sum(abs(sent[name] - stored[name]) for name in names)
        table = Table(
            "A cluster with many robots",
            *("robots", "at work at a time", "actors", "memory, most, MB", "let in, median, s", "let in, p99, s"),
            *(
                "receipt, median, ms",
                "receipt, p99, ms",
                "sent twice",
                "messages sent",
                "messages lost or twice",
                "robots a second",
                "processor, all idle, cores",
            ),
        )
        table.row(
            *(len(names), settings.active, settings.actors, round(memory.most / 1e6)),
            *(round(float(np.percentile(work.let_in, share)), 1) for share in (50, 99)),
            *(round(1e3 * float(np.percentile(work.latencies, share))) for share in (50, 99)),
            work.sent_twice,
            *(sum(sent.values()), lost, round(len(names) / first, 1), round(idle, 2)),
        )
    return table


class Memory:
    """The most that a program and all below it had. It is looked at now and then."""

    def __init__(self, process: psutil.Process) -> None:
        self.most = 0
        self._process = process
        self._next = 0.0

    def look(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + MEMORY_SECONDS
        total = 0
        for one in [self._process, *self._process.children(recursive=True)]:
            with suppress(psutil.Error):
                total += one.memory_full_info().pss
        self.most = max(self.most, total)


class Work:
    """Robots that come, so many at a time, send, and go; who comes again goes on with the network that it had.

    let_in: seconds from a robot's first words to its first receipt. latencies: from other messages, when they were sent
    first, to their receipts. sent_twice: how many of them had none after some seconds.
    """

    def __init__(self, settings: Settings, broker: str, memory: Memory) -> None:
        self.let_in: list[float] = []
        self.latencies: list[float] = []
        self.sent_twice = 0
        self._were_there: dict[str, tuple[str, int]] = {}  # runs, and messages; a link that is kept keeps two sockets
        self._settings = settings
        self._broker = broker
        self._memory = memory

    def do(self, names: Sequence[str]) -> None:
        waiting, there, done = list(names), list[Talker](), 0
        give_up = time.monotonic() + DEADLINE_SECONDS
        while waiting or there:
            assert time.monotonic() < give_up, f"nobody came on: {[(one.name, one.metrics) for one in there]}"
            while waiting and len(there) < self._settings.active:
                there.append(self._come(waiting.pop(0)))
            for robot in there:
                robot.turn()
                if not robot.waiting and len(robot.receipted) == 1 < self._settings.messages:
                    robot.send(self._settings.messages - 1, size=16)
            for robot in [one for one in there if one.done and len(one.receipted) == self._settings.messages]:
                robot.go()
                robot.link.close()
                there.remove(robot)
                first, *others = robot.receipt_seconds
                self.let_in.append(first)
                self.latencies += others
                self.sent_twice += len(robot.resent - {0})
                self._were_there[robot.name] = robot.state.run, len(robot.receipted)
                done, give_up = done + 1, time.monotonic() + DEADLINE_SECONDS
                if done % 50 == 0:
                    print(f"{done} of {len(names)} robots, {self._memory.most / 1e6:.0f} MB", flush=True)
            self._memory.look()
            time.sleep(POLL_SECONDS)

    def _come(self, name: str) -> Talker:
        robot = Talker(self._broker, name, TRAINER)
        if before := self._were_there.get(name):
            run, robot.trained_before = before
            robot.state = replace(robot.state, run=run, weights="checkpoint")
        robot.send(1, size=16)
        return robot


def rates(settings: Settings, server: PostgresServer) -> Table:
    found: dict[str, list[float]] = {"one process": [], "cluster": []}
    for turn in range(settings.turns):
        for kind, its in found.items():
            # A broker of its own: robots of the turn before are retained there, and would be made ready again.
            with tempfile.TemporaryDirectory() as folder, start_local_broker() as broker:
                url = broker.url
                arguments = ["run", "--run-dir", folder, "--broker", url, "--practice", "0", "--threads", "2"]
                if kind == "cluster":
                    arguments = cluster(server.make(f"rate_{turn}"), url, folder, 2)
                with program(arguments, settings.cores) as process:
                    its.append(rate(settings, Path(folder), url, process, f"{kind[0]}{turn}"))
            print(kind, its, flush=True)
    table = Table(
        "A cluster of two actors beside one process, on two cores", "robots", "kind", "images/s", "share of one process"
    )
    one = float(np.mean(found["one process"]))
    for kind, each in found.items():
        table.row(settings.senders, kind, round(float(np.mean(each))), round(float(np.mean(each)) / one, 2))
    return table


def rate(settings: Settings, folder: Path, broker: str, process: psutil.Process, prefix: str) -> float:
    """Return how many images a second are learned from, of robots that send more than that."""
    robots = [TalkingRobot(broker, f"{prefix}-{number}", 0.1) for number in range(settings.senders)]
    for robot in robots:
        robot.counted_from = time.monotonic()

    def learned() -> dict[str, int]:
        lines = [line for path in folder.rglob("metrics.jsonl") for line in path.read_text().splitlines()]
        counts: dict[str, int] = {}
        for line in lines:
            with suppress(ValueError):
                fields = json_of(line)
                counts[fields[0]] = max(counts.get(fields[0], 0), fields[1])
        return counts

    def under_way() -> bool:
        for robot in robots:  # what was sent before the trainer was there is lost: these robots send nothing twice
            if not robot.latencies:
                robot.under_way.clear()
        return len(learned()) == len(robots) or not process.is_running()

    end = time.monotonic() + DEADLINE_SECONDS
    while not under_way():
        assert time.monotonic() < end, "no network began"
        talk(robots, until=lambda: False, seconds=2.0)
    before, begin = sum(learned().values()), time.monotonic()
    talk(robots, until=lambda: False, seconds=settings.seconds)
    images, seconds = sum(learned().values()) - before, time.monotonic() - begin
    for robot in robots:
        robot.link.close()
    return images / seconds


def json_of(line: str) -> tuple[str, int]:
    fields = json.loads(line)
    return fields["robot"], fields["images"]


def actors_there(store: str) -> int:
    try:
        with closing(Board(store)) as board:
            return sum(one.role == "actor" for one in board.members())
    except Exception:
        return 0


def wait_for(condition: Callable[[], bool], process: psutil.Process) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert process.is_running(), "it ended before it began"
        assert time.monotonic() < end, "it never began"
        time.sleep(1.0)


def processor_share(process: psutil.Process, seconds: float) -> float:
    """Return how many cores a program and all below it use."""
    time.sleep(40.0)  # networks are let go of

    def used() -> float:
        total = 0.0
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.Error):
                total += sum(one.cpu_times()[:2])
        return total

    before = used()
    time.sleep(seconds)
    return (used() - before) / seconds


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
