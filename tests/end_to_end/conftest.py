"""Whole programs in processes of their own, pictures for them to learn, and all that goes over the broker meanwhile."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import numpy as np
import paho.mqtt.client as mqtt
import pytest
from numpy.typing import NDArray
from paho.mqtt.enums import CallbackAPIVersion
from PIL import Image

from broker.wire.codec import unpack
from broker.wire.messages import Message
from tests.conftest import SEED  # a secret one, that nothing may tell
from tests.warm_start import Process, WarmStart

# Only a failure takes this long.
DEADLINE_S = 300.0
POLL_S = 0.02

ROOT = Path(__file__).parents[2]
SIDE = 16
COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}
# Small steps: 30 of them must be enough, for the running statistics of the normalisation too.
LEARNING = ["--batch", "16", "--learning-rate", "0.02", "--threads", "1"]
# timm's own for tests: it learns the four colours in as many steps as a ResNet-18, at a third of the work.
NETWORK = ["--backbone", "timm:test_resnet", "--cut", "layer2"]

AnyMessage = TypeVar("AnyMessage", bound=Message)


class Program:
    """`python -m <arguments>` in a process of its own, which writes what it prints to a file."""

    def __init__(self, process: Process, log: Path, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def printed(self) -> str:
        return self._log.read_text()

    @property
    def summary(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.run_dir / "summary.json").read_text())
        return loaded

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, as far as they are written."""
        path = self.run_dir / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def images(self, robot: str | None = None) -> int:
        """How many images it has learned from; of a trainer, those of one robot."""
        return max((line["images"] for line in self.metrics if line.get("robot") == robot), default=0)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until the condition holds, as long as the program runs."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert self._process.poll() is None, f"it ended before {what}:\n{self.printed}"
            assert time.monotonic() < deadline, f"never came: {what}:\n{self.printed}"
            time.sleep(POLL_S)

    def until_it_says(self, text: str) -> None:
        self.until(lambda: text in self.printed, f"it said {text!r}")

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end and return its exit status."""
        try:
            return self._process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it did not end:\n{self.printed}")

    def interrupt(self) -> int:
        """Press Ctrl-C, and return its exit status."""
        self.send(signal.SIGINT)
        return self.wait()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Launcher:
    """Starts robots and trainers, each in a run folder of its own.

    cold: with `python -m`, as a user does, and not from a process that has imported torch already. environment: further
    variables of those that are not.
    """

    def __init__(self, folder: Path) -> None:
        self.cold = False
        self.environment: Mapping[str, str] = {}
        self._folder = folder
        self._programs: list[Program] = []

    def robot(self, url: str, name: str, source: str, *flags: str) -> Program:
        common = [
            "--source",
            source,
            "--robot",
            name,
            "--image-size",
            str(SIDE),
            "--bottleneck",
            "16",
            "--seed",
            str(SEED),
            *([] if "--live" in flags else NETWORK),  # people look at those: let them be as usual
        ]
        return self._start("robot_edge", url, [*common, *flags])

    def trainer(self, url: str, *flags: str) -> Program:
        return self._start("cloud_trainer", url, flags)

    def faulty(self, faults: str, package: str, url: str, *flags: str) -> Program:
        """Start a program with faults planted in it, as `faulty.py` takes them."""
        return self._start(package, url, flags, before=["tests.end_to_end.faulty", faults])

    def end(self) -> None:
        """Kill whatever still runs."""
        for program in self._programs:
            program.kill()

    def _start(self, package: str, url: str, flags: Sequence[str], before: Sequence[str] = ()) -> Program:
        run_dir = self._folder / f"{len(self._programs)}-{package}"
        arguments = [*before, package, "run", "--broker", url, "--run-dir", str(run_dir), *LEARNING, *flags]
        log = run_dir.with_suffix(".log")
        log.touch()
        process = _cold_start(arguments, log) if self.cold else WarmStart(arguments, log, self.environment)
        self._programs.append(Program(process, log, run_dir))
        return self._programs[-1]


def _cold_start(arguments: Sequence[str], log: Path) -> Process:
    with log.open("wb") as output:
        return subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)


class Recorder:
    """An MQTT client that hears everything, and can speak as anybody."""

    def __init__(self, url: str) -> None:
        self.traffic: list[tuple[str, bytes]] = []
        subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_message = self._keep
        address = urlsplit(url)
        self._client.connect(str(address.hostname), address.port or 0)
        self._client.loop_start()
        assert subscribed.wait(DEADLINE_S)

    def messages(self, kind: type[AnyMessage], topic: str) -> list[AnyMessage]:
        """Return what came under a topic so far, all of that kind."""
        messages = [unpack(payload) for its_topic, payload in list(self.traffic) if its_topic == topic]
        assert all(isinstance(message, kind) for message in messages)
        return cast("list[AnyMessage]", messages)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(DEADLINE_S)

    def _keep(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        if not message.retain:  # else it is from before, left at the broker by another test
            self.traffic.append((message.topic, bytes(message.payload)))

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@dataclass(frozen=True, kw_only=True)
class MainJob:
    """A run of the main job that is over. traffic: topic and payload of every message."""

    robot: Program
    trainer: Program
    robot_status: int
    trainer_status: int
    traffic: list[tuple[str, bytes]]


@pytest.fixture(scope="module", name="launcher")
def _launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path_factory.mktemp("runs"))
    yield launcher
    launcher.end()


@pytest.fixture(scope="session", name="record")
def _record() -> type[Recorder]:
    return Recorder


@pytest.fixture(scope="session", name="pictures")
def _pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with train/ (480 pictures), few/ (160) and test/ (200): noisy discs of four colours on grey."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed, (name, of_each) in enumerate({"train": 120, "few": 40, "test": 50}.items()):
        rng = np.random.default_rng(seed)
        for colour in COLOURS:
            (folder / name / colour).mkdir(parents=True)
            for number in range(of_each):
                Image.fromarray(_picture(colour, rng)).save(folder / name / colour / f"{number}.png")
    return folder


def _picture(colour: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    top, left = rng.uniform(0.3, 0.7, 2)
    disc = np.hypot(rows - top, columns - left) < rng.uniform(0.25, 0.4)
    paint = 40 + 175 * rng.uniform(0.6, 1) * np.array(COLOURS[colour])
    clean = np.where(disc[..., None], paint, rng.uniform(60, 200))
    return np.clip(clean + rng.normal(0, 30, clean.shape), 0, 255).astype(np.uint8)


@pytest.fixture(
    scope="module", params=[pytest.param("mosquitto", marks=pytest.mark.mosquitto), "amqtt"], name="main_job"
)
def _main_job(request: pytest.FixtureRequest, launcher: Launcher, pictures: Path) -> Iterator[MainJob]:
    """The main job on either broker: one epoch of the training pictures, then a test on the others."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    launcher.cold = request.param == "mosquitto"  # once as a user starts them
    recorder = Recorder(url)
    try:
        # Without practice: with it the trainer ends with another network than the robot was told of.
        trainer = launcher.trainer(url, "--practice", "0")
        as_usual = ["--backbone", "resnet18", "--held-out", f"folder:{pictures}/test"]
        robot = launcher.robot(url, "main", f"folder:{pictures}/train", *as_usual)
        robot_status = robot.wait()
        trainer.until_it_says("robot main has gone")
        yield MainJob(
            robot=robot,
            trainer=trainer,
            robot_status=robot_status,
            trainer_status=trainer.interrupt(),
            traffic=list(recorder.traffic),
        )
    finally:
        recorder.close()
