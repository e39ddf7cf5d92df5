"""Brokers that let us in, refuse or hang, and trainers that answer or do not."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
import torch

from broker.link.connect import connect
from broker.link.mqtt import MqttLink
from broker.local.server import start_local_broker
from broker.wire import topics
from broker.wire.codec import pack
from broker.wire.messages import TrainerState
from cloud_trainer.answering.probes import Probes
from hierarchy.runtime.doctor import peers as peers_module
from hierarchy.runtime.doctor.finding import Finding
from hierarchy.runtime.doctor.peers import DEFAULT_BROKER, Heard, peers, trainer_finding
from tests.ports import free_port

pytestmark = pytest.mark.slow

STATE = TrainerState(boot="1" * 16, started=1_000.0, online=True, trouble="")


@pytest.fixture(name="url")
def _url() -> Iterator[str]:
    with start_local_broker() as broker:
        yield broker.url


def found(role: topics.Role, broker: str) -> dict[str, Finding]:
    return {one.name: one for one in peers(role, "r1", broker)}


def test_a_trainer_that_answers_is_heard_by_a_robot(url: str) -> None:
    with closing(connect(url, "t1")) as link:
        probes = Probes(link, 64, torch.device("cpu"))
        probes.start()
        while not (link.connected and link.publish(*_state("t1"), qos=1, retain=True)):
            link.receive(0.05)
        link.publish(topics.topic("trainer", "t2", "state"), b"\xff garbage", retain=True)
        seen = found("robot", url)
        probes.close()
    assert {one.state for one in seen.values()} == {"ok"}, seen
    assert url in seen["broker"].text
    assert seen["trainer"].text.startswith("t1 for ")
    assert ", answers within " in seen["trainer"].text


def test_a_trainer_that_only_says_it_is_there_is_a_problem_for_a_robot_and_none_for_a_trainer(url: str) -> None:
    with closing(MqttLink(url, "t1")) as link:
        while not (link.connected and link.publish(*_state("t1"), qos=1, retain=True)):
            link.receive(0.05)
        link.receive(0.1)
        assert "answers nothing" in found("robot", url)["trainer"].text
        assert found("trainer", url)["trainer"].state == "ok"


def test_a_broker_without_trainers_is_told(url: str) -> None:
    seen = found("robot", url)
    assert (seen["broker"].state, seen["trainer"].state) == ("ok", "missing")
    assert seen["trainer"].remedy == f"cloud-trainer run --broker {url}"


def test_a_broker_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        seen = found("robot", f"mqtt://127.0.0.1:{server.getsockname()[1]}")
    assert seen["broker"].state == "problem"
    assert "cannot be reached" in seen["broker"].text
    assert seen.keys() == {"broker", "clock"}


def test_no_broker_is_missing_unless_it_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "CONNECT_SECONDS", 0.2)
    url = f"mqtt://127.0.0.1:{free_port()}"
    monkeypatch.setattr(peers_module, "DEFAULT_BROKER", url)
    assert (found("robot", "")["broker"].state, found("robot", url)["broker"].state) == ("missing", "problem")
    assert DEFAULT_BROKER == "mqtt://127.0.0.1:1883"


def test_a_url_that_is_none_is_a_problem() -> None:
    assert found("robot", "htp://host")["broker"].state == "problem"


def test_trainers_are_named_by_what_they_say() -> None:
    def told(answered: float | None = 0.004, /, **states: TrainerState) -> str:
        heard = Heard(states=states, answered=answered)
        return str(trainer_finding(heard, 1_125.0, asked=True, broker="mqtt://h"))

    gone = dataclasses.replace(STATE, online=False)
    full = dataclasses.replace(STATE, trouble="the disk is full")
    assert told(t1=STATE) == "ok       trainer     t1 for 2 minutes, answers within 4 ms"
    assert told() == "ok       trainer     one that does not say its name, answers within 4 ms"
    assert told(None, t1=gone).startswith("missing  trainer     none at this broker; t1 has ended: cloud-tr")
    assert told(t1=full, t2=STATE) == "problem  trainer     t1 takes nothing for now: the disk is full"
    many = {f"t{number}": STATE for number in range(9)}
    assert "t3 for 2 minutes and 5 more, answers" in told(0.004, **many)
    unread = trainer_finding(Heard(garbage=2), 0.0, asked=True, broker="mqtt://h")
    assert "2 messages could not be read: is there a --payload-key?" in unread.text


def _state(trainer: str) -> tuple[str, bytes]:
    return topics.topic("trainer", trainer, "state"), pack(STATE)
