"""A run of the main job in which everything is killed, cut, held up, sent twice and out of order; and its accounts.

Each picture is a class of its own, so the accounts are by picture: shown in E epochs, it must be trained on E times.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from PIL import Image

from broker.local.server import start_local_broker
from broker.wire import topics
from broker.wire.codec import unpack_as
from broker.wire.messages import ActivationBatch
from tests.soak.proxy import LinkProxy
from tests.warm_start import WarmStart

PICTURES = 60
SIDE = 16
# Pictures that the robot takes between two kills: more than while one of them is mended, so that each finds it at work.
PICTURES_PER_KILL = 600
DEADLINE_SECONDS = 300.0
POLL_SECONDS = 0.05
# How many messages the echo keeps to send them again.
ECHOED = 200

Victim = Literal["broker", "trainer", "robot"]


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


class Echo:
    """A client that sends what robots sent once more, later and in another order."""

    def __init__(self, port: int, rng: random.Random) -> None:
        self._rng = rng
        self._heard: list[tuple[str, bytes]] = []
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe(
            topics.topic("robot", topics.ANYONE, "activations"), qos=1
        )
        self._client.on_message = self._keep
        self._client.reconnect_delay_set(1, 1)
        self._client.connect_async("127.0.0.1", port)
        self._client.loop_start()
        self.sent = 0

    def speak(self, count: int) -> None:
        """Send so many messages again, in any order."""
        heard = list(self._heard)
        for topic, payload in self._rng.sample(heard, min(count, len(heard))):
            self._client.publish(topic, payload, qos=1)
            self.sent += 1

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _keep(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        self._heard.append((message.topic, bytes(message.payload)))
        del self._heard[:-ECHOED]


class Chaos:
    """Broker, trainer and robot, and what happens to them. The seed decides what; the machine's speed, when exactly."""

    def __init__(self, folder: Path, *, kills: int, seed: int, backend: Literal["mosquitto", "amqtt"]) -> None:
        self._folder = folder
        self._kills = kills
        self._rng = random.Random(seed)
        self._backend: Literal["mosquitto", "amqtt"] = backend
        self.killed: Counter[str] = Counter()
        self.epochs = -(-(kills + 2) * PICTURES_PER_KILL // PICTURES)
        _draw_pictures(folder / "pictures")
        self._broker = start_local_broker(backend=backend)
        self._proxies = {"robot": LinkProxy(self._broker.port), "trainer": LinkProxy(self._broker.port)}
        self._echo = Echo(self._broker.port, random.Random(seed + 1))
        self._programs: dict[str, WarmStart] = {}

    @property
    def repeated(self) -> int:
        """How many messages were sent once more."""
        return self._echo.sent

    def run(self) -> Accounts:
        """Let it all happen, wait for the end, and close the books."""
        try:
            self._start("trainer")
            self._start("robot")
            for number in range(self._kills):
                pictures = (number + 1) * PICTURES_PER_KILL
                self._until_learned(pictures)
                self._hurt_the_link()
                self._echo.speak(self._rng.randrange(20))
                self._kill(self._rng.choice(["broker", "trainer", "robot"]))
            self._until(lambda: self._programs["robot"].poll() is not None, "the robot's end")
            assert self._programs["robot"].poll() == 0, self._said("robot")
            self._echo.speak(ECHOED)
            self._programs["trainer"].send_signal(signal.SIGINT)
            self._until(lambda: self._programs["trainer"].poll() is not None, "the trainer's end")
            return self._accounts()
        finally:
            for program in self._programs.values():
                program.kill()
                program.wait()
            self._echo.close()
            for proxy in self._proxies.values():
                proxy.close()
            self._broker.stop()

    def _start(self, who: Literal["trainer", "robot"]) -> None:
        url = f"mqtt://127.0.0.1:{self._proxies[who].port}"
        common = ["--broker", url, "--threads", "1", "--batch", "32", "--checkpoint-every", "15", "--run-dir"]
        robot = ["--source", f"folder:{self._folder}/pictures", "--held-out", f"folder:{self._folder}/pictures"]
        robot += ["--robot", "r1", "--backbone", "shufflenet_v2_x0_5", "--cut", "stage2", "--image-size", str(SIDE)]
        robot += ["--bottleneck", "8", "--epochs", str(self.epochs), "--rehearse", "0.25"]
        flags = robot if who == "robot" else []
        package = "robot_edge" if who == "robot" else "cloud_trainer"
        command = [package, "run", *common, str(self._folder / who), *flags]
        self._programs[who] = WarmStart(command, self._folder / f"{who}.log")

    def _note(self, what: str) -> None:
        """Write down what was done, and when: with the programs' own logs it tells the story of a failure."""
        with (self._folder / "chaos.log").open("a") as log:
            log.write(f"{time.strftime('%H:%M:%S')} at picture {self._learned()}: {what}\n")

    def _kill(self, victim: Victim) -> None:
        """Kill -9 it, wait a moment, and start it again."""
        self._note(f"kill {victim}")
        self.killed[victim] += 1
        if victim == "broker":
            port = self._broker.port
            os.kill(self._broker.pid, signal.SIGKILL)
            self._broker.stop()
            self._pause(2)
            self._broker = start_local_broker(port=port, backend=self._backend)
            return
        assert self._programs[victim].poll() is None, self._said(victim)
        self._programs[victim].kill()
        self._programs[victim].wait()
        self._pause(2)
        self._start(victim)

    def _hurt_the_link(self) -> None:
        proxy = self._proxies[self._rng.choice(["robot", "trainer"])]
        what = self._rng.choice([proxy.cut, proxy.stall, None])
        if what:
            self._note(f"{what.__name__} a link")
            what()
            threading.Timer(self._rng.uniform(0.5, 4), proxy.heal).start()

    def _pause(self, most: float) -> None:
        time.sleep(self._rng.uniform(0, most))

    def _until_learned(self, pictures: int) -> None:
        self._until(lambda: self._learned() >= pictures, f"picture {pictures}")

    def _learned(self) -> int:
        """How many pictures the robot has learned from, by its own account."""
        metrics = self._folder / "robot" / "metrics.jsonl"
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
