"""Every program of docs/examples, run as its first line says, is short and does what it is for."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from broker.address import parse_broker_url

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
    assert f"def test_{path.stem}(" in Path(__file__).read_text(), "no test runs it"


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
