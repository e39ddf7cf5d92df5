"""Every program of docs/examples, run as its first line says, is short and does what it is for."""

from __future__ import annotations

import json
import runpy
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from broker.address import parse_broker_url
from hierarchy.runtime.checkpoint import load_checkpoint
from robot_edge.run.checkpoint import LAYOUT

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
GOLDEN = ROOT / "tests" / "golden"
MOST_LINES = 25


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> list[str]:
    """Run an example to its end; return the lines that it printed."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out.splitlines()


@contextmanager
def published(url: str, messages: dict[str, bytes]) -> Iterator[None]:
    """Publish these messages by topic, over and over, until the context ends."""
    address, over = parse_broker_url(url), Event()
    client = Client(CallbackAPIVersion.VERSION2)
    client.connect(address.host, address.port)
    client.loop_start()

    def publish() -> None:
        while not over.wait(0.02):
            for topic, payload in messages.items():
                client.publish(topic, payload)

    thread = Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        client.disconnect()
        client.loop_stop()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_says_how_to_run_it(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= MOST_LINES
    assert f"python docs/examples/{path.name}" in lines[0]
    tests = (Path(__file__), ROOT / "tests" / "robot_edge" / "export" / "test_export.py")
    assert any(f"def test_{path.stem}(" in one.read_text() for one in tests), "no test runs it"


def test_both_halves(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    *steps, _, _, _, _, _ = lines = run(capsys, monkeypatch, "both_halves.py")
    losses = [float(line.split()[1]) for line in steps]
    assert losses[-1] < 0.5 * losses[0]
    for line in lines[-5:]:
        name, at_exit, in_cloud = eval(line)
        assert name == at_exit == in_cloud


def test_read_metrics(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, mosquitto_url: str) -> None:
    address = parse_broker_url(mosquitto_url)
    metrics = {
        "reflexarc/1/robot/r1/metrics": (GOLDEN / "robot-metrics.json").read_bytes(),
        "reflexarc/1/trainer/t1/metrics": (GOLDEN / "trainer-metrics.json").read_bytes(),
    }
    of_trainer = json.loads(metrics["reflexarc/1/trainer/t1/metrics"])
    with published(mosquitto_url, metrics):
        lines = run(capsys, monkeypatch, "read_metrics.py", address.host, str(address.port))
    assert len(lines) == 10
    assert f"trainer-metrics of {of_trainer['robot']}: {of_trainer['images']:,} images, 8 classes" in lines
    assert any(line.startswith("robot-metrics of r1: ") for line in lines)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let a robot measure nothing before it begins, and leave its run here."""
    monkeypatch.setattr("hierarchy.device.MAX_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("quick")
def test_robot_in_a_loop(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, mosquitto_url: str, tmp_path: Path
) -> None:
    *steps, seen = run(capsys, monkeypatch, "robot_in_a_loop.py", mosquitto_url)
    assert all(" frames, loss " in line for line in steps)
    assert " is taken for " in seen
    assert load_checkpoint(tmp_path / "runs" / "loop" / "checkpoint", LAYOUT)


@pytest.mark.usefixtures("quick")
def test_own_source(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, mosquitto_url: str, tmp_path: Path
) -> None:
    labels = np.arange(160) % 2
    images = noise(labels)
    np.savez(tmp_path / "pictures.npz", images=images, names=np.array(COLORS)[labels])
    *steps, classes = run(capsys, monkeypatch, "own_source.py", str(tmp_path / "pictures.npz"), mosquitto_url)
    assert len(steps) > 2
    assert set(classes.split()[1:]) == set(COLORS)


@pytest.mark.usefixtures("quick")
def test_ros_callbacks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, mosquitto_url: str) -> None:
    ros = Ros()
    for name, module in ros.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    run(capsys, monkeypatch, "ros_callbacks.py", mosquitto_url)
    assert ros.named == set(COLORS)


COLORS = ("red", "green")


rng = np.random.default_rng(0)


def noise(channels: NDArray[np.int_]) -> NDArray[np.uint8]:
    """Return pictures, (N, 24, 24, 3), each with one bright channel."""
    images = rng.integers(0, 160, (len(channels), 24, 24, 3), np.uint8)
    images[np.arange(len(channels)), :, :, channels] += 60
    return images


class Ros:
    """A stand-in for rclpy: shows a color and names it, for each of two, and goes on until both were seen."""

    def __init__(self) -> None:
        self.callbacks: dict[str, Callable[[Any], None]] = {}
        self.said = ""
        self.named: set[str] = set()

    def modules(self) -> dict[str, Any]:
        def create_node(_name: str) -> Ros:
            return self

        return {
            "rclpy": SimpleNamespace(init=lambda: None, create_node=create_node, spin=self.spin),
            "sensor_msgs.msg": SimpleNamespace(Image=SimpleNamespace),
            "std_msgs.msg": SimpleNamespace(String=SimpleNamespace),
        }

    def create_publisher(self, _kind: type, topic: str, _depth: int) -> Any:
        assert topic == "/seen"
        return SimpleNamespace(publish=lambda message: setattr(self, "said", message.data))

    def create_subscription(self, _kind: type, topic: str, receive: Callable[[Any], None], _depth: int) -> None:
        self.callbacks[topic] = receive

    def spin(self, _node: object) -> None:
        deadline = time.monotonic() + 120
        for channel, color in enumerate(COLORS):
            self.callbacks["/teach"](SimpleNamespace(data=color))
            until = time.monotonic() + 2.5
            while time.monotonic() < until:
                self.show(channel)
        while self.named != set(COLORS):
            assert time.monotonic() < deadline, f"seen: {self.named}"
            for channel, color in enumerate(COLORS):
                for _ in range(10):
                    self.show(channel)
                if self.said == color:
                    self.named.add(color)

    def show(self, channel: int) -> None:
        image = noise(np.array([channel]))[0]
        self.callbacks["/camera/image_raw"](SimpleNamespace(data=image.tobytes(), height=24, width=24))
        time.sleep(0.03)
