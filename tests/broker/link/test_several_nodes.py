"""A link with the URLs of several nodes: it takes the next where one is away, refuses, or has gone."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from broker.address import BrokerAddress, parse_broker_urls
from broker.errors import ConfigError
from broker.link import mqtt as link_module
from broker.link.mqtt import MqttLink
from broker.local.server import find_mosquitto, start_local_broker
from cloud_trainer.config import TrainerConfig
from robot_edge.run.config import EvaluateConfig
from robot_edge.uplink.settings import UplinkSettings
from tests.ports import free_port

TIMEOUT_S = 30


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "RECONNECT_SECONDS", (1, 1))


def wait_until(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {TIMEOUT_S} s"
        time.sleep(0.01)


def test_urls_have_commas_between() -> None:
    here, there = BrokerAddress("a", 1883, tls=False), BrokerAddress("b", 1884, tls=False)
    assert parse_broker_urls("mqtt://a") == [here]
    assert parse_broker_urls("mqtt://a, mqtt://b:1884,mqtt://a:1883") == [here, there]


@pytest.mark.parametrize("urls", ["", ",", "mqtt://a,", "mqtt://a,b", "mqtt://a,mqtts://b", "mqtt://a;mqtt://b"])
def test_urls_that_cannot_be_are_refused_by_all_settings(urls: str) -> None:
    for refuse in (
        parse_broker_urls,
        lambda one: TrainerConfig(broker=one),
        lambda one: UplinkSettings(broker=one or ","),
        lambda one: EvaluateConfig(source="sim:toys", checkpoint="runs/r1", broker=one or ","),
    ):
        with pytest.raises(ConfigError, match="broker"):
            refuse(urls)


@pytest.mark.slow
def test_a_node_that_is_away_is_passed_over(amqtt_url: str) -> None:
    away = free_port()
    link = MqttLink(f"mqtt://127.0.0.1:{away},{amqtt_url}", "passing")
    wait_until("connection", lambda: link.connected)
    assert link.address == parse_broker_urls(amqtt_url)[0]
    assert link.problem == ""
    link.close()


@pytest.mark.slow
def test_where_no_node_answers_each_is_named() -> None:
    ports = free_port(), free_port()
    link = MqttLink(",".join(f"mqtt://127.0.0.1:{port}" for port in ports), "alone")
    said = "; ".join(
        f"no broker at 127.0.0.1:{port}: nothing listens there; start it, or correct --broker" for port in ports
    )
    wait_until("problem", lambda: link.problem == said)
    link.close()


@pytest.mark.slow
@pytest.mark.mosquitto
def test_a_node_that_lets_nobody_in_is_passed_over(mosquitto_url: str, tmp_path: Path) -> None:
    program, port = find_mosquitto(), free_port()
    assert program is not None
    user = "user root\n" if os.geteuid() == 0 else ""
    (tmp_path / "conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous false\n{user}")
    with ExitStack() as running:
        process = subprocess.Popen([program, "-c", str(tmp_path / "conf")], stderr=subprocess.DEVNULL)
        running.callback(process.wait)
        running.callback(process.terminate)
        strict = MqttLink(f"mqtt://127.0.0.1:{port}", "unwelcome")
        running.callback(strict.close)
        wait_until("refusal", lambda: "refuses us" in strict.problem)
        link = MqttLink(f"mqtt://127.0.0.1:{port},{mosquitto_url}", "welcome")
        running.callback(link.close)
        wait_until("connection", lambda: link.connected)
        assert link.address == parse_broker_urls(mosquitto_url)[0]


@pytest.mark.slow
@pytest.mark.mosquitto
def test_a_node_that_has_gone_is_left_for_the_next_and_come_back_to() -> None:
    ports = free_port(), free_port()
    urls = ",".join(f"mqtt://127.0.0.1:{port}" for port in ports)
    with ExitStack() as running:
        first = running.enter_context(start_local_broker(port=ports[0], backend="mosquitto"))
        second = running.enter_context(start_local_broker(port=ports[1], backend="mosquitto"))
        link = MqttLink(urls, "moving")
        running.callback(link.close)
        wait_until("connection", lambda: link.connected)
        assert link.address.port == ports[0]
        first.stop()
        wait_until("other node", lambda: link.connected and link.address.port == ports[1])
        running.enter_context(start_local_broker(port=ports[0], backend="mosquitto"))
        second.stop()
        wait_until("first node", lambda: link.connected and link.address.port == ports[0])
        assert link.connections == 3
