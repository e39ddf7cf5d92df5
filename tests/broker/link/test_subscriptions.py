"""What a link makes of refused subscriptions: alone, and at a broker that refuses as a cluster does in its troubles."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from broker.errors import AccessDenied
from broker.link import mqtt as link_module
from broker.link import subscriptions as subscriptions_module
from broker.link.mqtt import MqttLink
from broker.link.subscriptions import (
    LONGEST_WAIT_SECONDS,
    MOST_REFUSALS,
    QUICK_SECONDS,
    REFUSALS_OF_A_CONNECTION,
    Subscriptions,
)

TIMEOUT_S = 30
# MQTT 3.1.1, sections 3.2, 3.8 and 3.9.
CONNACK, SUBSCRIBE, GRANTED, REFUSED = b"\x20\x02\x00\x00", 0x82, 0x01, 0x80


class Asked:
    """A filter that is asked for whenever it is due, and the time that passes between. refuse: it, so often."""

    def __init__(self) -> None:
        self.subscriptions = Subscriptions()
        self.now = 0.0
        self._number = 0

    def ask(self) -> None:
        def send(topic_filter: str) -> int:
            assert topic_filter == "a/+"
            self._number += 1
            return self._number

        self.subscriptions.ask("a/+", send, self.now)

    def answer(self, *, granted: bool, after: float = 0.0) -> None:
        self.now += after
        assert self.subscriptions.answer(self._number, granted=granted, now=self.now) == "a/+"

    def refuse(self, times: int, after: float = 0.0) -> None:
        """Refuse it so often, each time so long after it was asked for."""
        for _ in range(times):
            self.ask()
            self.answer(granted=False, after=after)
            while not self.subscriptions.denied and not self.subscriptions.due(self.now):
                self.now += 0.5


@pytest.fixture(name="asked")
def _asked() -> Asked:
    return Asked()


def test_what_is_refused_at_once_each_time_is_denied(asked: Asked) -> None:
    asked.refuse(MOST_REFUSALS - 1)
    assert not asked.subscriptions.denied
    asked.refuse(1)
    assert asked.subscriptions.denied == {"a/+"}
    assert asked.now == 1 + 2 + 4 + 8
    assert not asked.subscriptions.due(asked.now + 1000)


def test_what_takes_the_broker_long_is_no_denial(asked: Asked) -> None:
    asked.refuse(4 * MOST_REFUSALS, after=QUICK_SECONDS)
    assert not asked.subscriptions.denied
    before = asked.now
    asked.refuse(1, after=QUICK_SECONDS)
    assert asked.now - before <= LONGEST_WAIT_SECONDS + QUICK_SECONDS


def test_what_was_granted_is_never_denied(asked: Asked) -> None:
    asked.refuse(MOST_REFUSALS - 1)
    asked.ask()
    asked.answer(granted=True)
    assert asked.subscriptions.is_granted("a/+")
    asked.subscriptions.begin()
    assert not asked.subscriptions.is_granted("a/+")
    asked.refuse(4 * MOST_REFUSALS)
    assert not asked.subscriptions.denied


def test_a_node_that_goes_on_refusing_is_left(asked: Asked) -> None:
    left = []
    for _ in range(2 * REFUSALS_OF_A_CONNECTION):
        asked.refuse(1, after=QUICK_SECONDS)
        left.append(asked.subscriptions.needs_another_connection("a/+"))
    assert left == [False, False, True, False, False, True]


def test_answers_of_a_former_connection_count_for_nothing(asked: Asked) -> None:
    asked.ask()
    asked.subscriptions.begin()
    assert asked.subscriptions.answer(1, granted=False, now=0.0) == ""
    assert not asked.subscriptions.due(1000)


def test_nothing_is_asked_without_a_connection() -> None:
    subscriptions = Subscriptions()
    subscriptions.ask("a/+", lambda _: None, 0.0)
    assert not subscriptions.due(1000)


@contextmanager
def broker(answer: Callable[[str], int]) -> Iterator[str]:
    """Run a broker that lets everybody in and answers each subscription as it is told; return its URL."""

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError), connection.makefile("rb") as stream:
            while header := stream.read(2):  # all that a link says here has fewer than 128 bytes
                body = stream.read(header[1])
                if header[0] >> 4 == 1:
                    connection.sendall(CONNACK)
                elif header[0] == SUBSCRIBE:
                    topic_filter = body[4 : 4 + int.from_bytes(body[2:4], "big")].decode()
                    connection.sendall(b"\x90\x03" + body[:2] + bytes([answer(topic_filter)]))

    def accept() -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"mqtt://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "RECONNECT_SECONDS", (1, 1))
    monkeypatch.setattr(subscriptions_module, "WAIT_SECONDS", 0.02)


def receive_until(link: MqttLink, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        link.receive(0.01)


@pytest.mark.slow
@pytest.mark.usefixtures("no_long_waits")
def test_a_cluster_in_trouble_is_asked_until_it_grants() -> None:
    asked: list[str] = []

    def answer(topic_filter: str) -> int:
        asked.append(topic_filter)
        return GRANTED if topic_filter == "fine" or asked.count("slow/+") >= MOST_REFUSALS else REFUSED

    with broker(answer) as url:
        link = MqttLink(url, "patient")
        link.subscribe("fine")
        link.subscribe("slow/+")
        receive_until(link, lambda: link._subscriptions.is_granted("slow/+"))
        assert link.connections == 2, "it tried another connection in between"
        assert asked == ["fine", *["slow/+"] * 3, "fine", *["slow/+"] * 2]
        link.close()


@pytest.mark.slow
@pytest.mark.usefixtures("no_long_waits")
def test_a_mailbox_that_is_refused_breaks_no_connection() -> None:
    asked: list[str] = []

    def answer(topic_filter: str) -> int:
        asked.append(topic_filter)
        return REFUSED if topic_filter == "answer" else GRANTED

    with broker(answer) as url:
        link = MqttLink(url, "modest")
        link.subscribe("fine")
        link.mailbox("answer")
        receive_until(link, lambda: "answer" in link._subscriptions.denied)
        assert link.connections == 1
        assert asked == ["fine", *["answer"] * MOST_REFUSALS]
        link.close()


@pytest.mark.slow
@pytest.mark.usefixtures("no_long_waits")
def test_who_refuses_always_forbids() -> None:
    with broker(lambda topic_filter: REFUSED if topic_filter == "secret" else GRANTED) as url:
        link = MqttLink(url, "curious")
        link.subscribe("fine")
        link.subscribe("secret")
        with pytest.raises(AccessDenied, match="forbids these credentials to read secret: use the --credentials"):
            receive_until(link, lambda: False)
        link.close()
