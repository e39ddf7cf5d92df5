"""A site's broker that passes on what people look at, and nothing that is trained on, as docs/scale.md has it."""

from __future__ import annotations

import re
import socket
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from broker.link.mqtt import MqttLink
from broker.local.server import find_mosquitto, start_local_broker
from broker.wire import topics

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"

pytestmark = [pytest.mark.mosquitto, pytest.mark.slow]  # brokers of its own


def bridge_of_the_page() -> str:
    found = re.search(r"\n((?: {8}.+\n)*? {8}connection .+\n(?: {8}.+\n)+)", PAGE.read_text())
    assert found, f"{PAGE} has no bridge"
    return re.sub("^ +", "", found[1], flags=re.MULTILINE)


def test_a_bridge_passes_on_what_people_look_at(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    seen, private = topics.topic("robot", "r1", "state"), topics.topic("robot", "r1", "activations")
    with start_local_broker(backend="mosquitto") as central:
        config = f"listener {port} 127.0.0.1\nallow_anonymous true\n{bridge_of_the_page()}"
        (tmp_path / "site.conf").write_text(config.replace("CENTRAL:1883", f"127.0.0.1:{central.port}"))
        program = find_mosquitto()
        assert program
        site = subprocess.Popen([program, "-c", "site.conf"], cwd=tmp_path)
        try:
            with (
                closing(MqttLink(f"mqtt://127.0.0.1:{port}", "robot")) as robot,
                closing(MqttLink(central.url, "onlooker")) as onlooker,
            ):
                onlooker.subscribe(seen)
                onlooker.subscribe(private)
                while not robot.connected:
                    robot.receive(0.1)
                robot.publish(private, b"activations", qos=1)
                robot.publish(seen, b"state", qos=1, retain=True)
                came = [onlooker.receive(20.0)]
                while one := onlooker.receive(1.0):  # a bridge that was slow to connect passes on what is retained, too
                    came.append(one)
        finally:
            site.terminate()
            site.wait()
    assert {one and (one.topic, one.payload) for one in came} == {(seen, b"state")}
