"""Links: the MQTT one against real brokers, its in-memory twin beside it, and what happens when the broker goes."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from broker.address import BrokerAddress, parse_broker_url
from broker.errors import AccessDenied, ConfigError
from broker.link import inbox as inbox_module
from broker.link import mqtt as link_module
from broker.link import subscriptions
from broker.link.base import Link
from broker.link.inbox import Delivery
from broker.link.mailbox import FairMailbox
from broker.link.memory import MemoryBroker, MemoryLink
from broker.link.mqtt import MqttLink
from broker.local.server import Backend, find_mosquitto, start_local_broker
from broker.security.credentials import Credentials
from broker.wire.bounds import RECEIVE_LIMIT_BYTES
from tests.soak.proxy import LinkProxy

pytestmark = pytest.mark.slow  # brokers of its own

BACKENDS = [pytest.param("mosquitto", marks=pytest.mark.mosquitto), "amqtt"]
TIMEOUT_S = 30
PAYLOAD = bytes(range(256)) * 400  # 102,400 bytes, every byte value
END = b"end"

Connect = Callable[[], Link]


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "RECONNECT_SECONDS", (1, 1))
    monkeypatch.setattr(subscriptions, "WAIT_SECONDS", 0.1)


def wait_until(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {TIMEOUT_S} s"
        time.sleep(0.01)


def connected(link: MqttLink) -> MqttLink:
    wait_until("connection", lambda: link.connected)
    return link


def wait_for_connection(link: MqttLink, number: int) -> None:
    wait_until(f"connection {number}", lambda: link.connected and link.connections == number)


def receive(link: Link) -> Delivery:
    delivery = link.receive(TIMEOUT_S)
    assert delivery is not None, f"nothing came within {TIMEOUT_S} s"
    return delivery


def receive_until_end(link: Link) -> list[Delivery]:
    """Return what comes in before a message that holds END."""
    deliveries = []
    while (delivery := receive(link)).payload != END:
        deliveries.append(delivery)
    return deliveries


def settle(link: Link, topic: str) -> list[Delivery]:
    """Return when all subscriptions of the link are in force, with what came in before on other topics."""
    link.subscribe(topic)
    came: list[Delivery] = []

    def answered() -> bool:
        link.publish(topic, b"")  # again and again: amqtt may take a message before an earlier subscription
        if (delivery := link.receive(0.1)) is not None:
            came.append(delivery)
        return any(delivery.topic == topic for delivery in came)

    wait_until("subscription", answered)
    link.publish(topic, END)
    return [delivery for delivery in came + receive_until_end(link) if delivery.topic != topic]


@pytest.fixture(name="connect", params=["memory", *BACKENDS])
def _connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Return what makes connected links, in memory and at both brokers."""
    if request.param == "memory":
        broker = MemoryBroker()
        yield lambda: MemoryLink(broker)
        return
    url = request.getfixturevalue(f"{request.param}_url")
    with ExitStack() as links:
        numbers = iter(range(100))

        def connect() -> Link:
            link = MqttLink(url, f"{request.node.name}-{next(numbers)}"[-60:])
            links.callback(link.close)
            return connected(link)

        yield connect


@pytest.mark.parametrize("kind", ["memory", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
def test_what_is_not_wanted_is_not_delivered(kind: str, request: pytest.FixtureRequest) -> None:
    def wanted(topic: str) -> bool:
        return "/r2/" not in topic

    with ExitStack() as links:
        link: Link
        if kind == "memory":
            link = MemoryLink(MemoryBroker(), wanted)
        else:
            link = connected(MqttLink(request.getfixturevalue(f"{kind}_url"), "wanting", wanted=wanted))
        links.callback(link.close)
        asks = link.mailbox("wanted/+/ask")
        link.subscribe("wanted/+/state")
        assert settle(link, "wanted/settled") == []
        for name in ("r2", "r1"):
            link.publish(f"wanted/{name}/ask", b"", qos=1)
            link.publish(f"wanted/{name}/state", END, qos=1)
        assert receive(link).topic == "wanted/r1/state"
        found = asks.take(TIMEOUT_S)
        assert found is not None
        assert found.topic == "wanted/r1/ask"
        assert (asks.dropped, link.dropped) == (0, 0)


def test_what_is_published_arrives(connect: Connect) -> None:
    robot, trainer = connect(), connect()
    trainer.subscribe("arrives/robot/+/activations")
    assert settle(trainer, "arrives/settled") == []
    for name in ("r1", "r2"):
        assert robot.publish(f"arrives/robot/{name}/activations", PAYLOAD, qos=1)
    assert robot.publish("arrives/robot/r1/metrics", b"not asked for")
    assert robot.publish("arrives/robot/r1/more/activations", b"not asked for")
    assert robot.publish("arrives/robot/r1/activations", END, qos=1)
    assert receive_until_end(trainer) == [
        Delivery("arrives/robot/r1/activations", PAYLOAD, retained=False),
        Delivery("arrives/robot/r2/activations", PAYLOAD, retained=False),
    ]
    assert trainer.receive(0) is None
    assert robot.receive(0) is None
    assert (robot.connected, robot.connections, robot.problem) == (True, 1, "")


def test_a_retained_message_waits_for_who_comes_later(connect: Connect) -> None:
    robot, early = connect(), connect()
    early.subscribe("retained/+/state")
    settle(early, "retained/settled")
    assert robot.publish("retained/r1/state", b"old", qos=1, retain=True)
    assert robot.publish("retained/r1/state", b"new", qos=1, retain=True)
    assert robot.publish("retained/r1/metrics", b"kept by nobody", qos=1)
    live = [receive(early), receive(early)]
    assert live == [Delivery("retained/r1/state", payload, retained=False) for payload in (b"old", b"new")]
    late = connect()
    late.subscribe("retained/+/state")
    newest = Delivery("retained/r1/state", b"new", retained=True)
    assert receive(late) == newest
    late.subscribe("retained/+/metrics")
    assert set(settle(late, "retained/late")) <= {newest}  # which amqtt may send twice


def test_what_is_retained_for_others_stays_away(connect: Connect) -> None:
    robot, trainer = connect(), connect()
    trainer.subscribe("others/+/state")
    settle(trainer, "others/settled")
    assert robot.publish("others/r1/state", b"online", qos=1, retain=True)
    receive(trainer)
    newcomer = connect()  # amqtt greets it with what matches the trainer's subscription
    assert settle(newcomer, "others/newcomer") == []


def test_a_farewell_is_retained(connect: Connect) -> None:
    robot, trainer = connect(), connect()
    robot.publish("farewell/r1/state", b"online", qos=1, retain=True)
    robot.close(farewell=("farewell/r1/state", b"offline"))
    trainer.subscribe("farewell/+/state")
    assert receive(trainer) == Delivery("farewell/r1/state", b"offline", retained=True)


def test_a_mailbox_of_its_own(connect: Connect) -> None:
    robot, trainer = connect(), connect()
    trainer.subscribe("own/+/activations")
    mailbox = trainer.mailbox("own/+/ask")
    settle(trainer, "own/settled")
    robot.publish("own/r1/activations", b"for the inbox", qos=1)
    robot.publish("own/r1/ask", b"for the mailbox", qos=1)
    assert mailbox.take(TIMEOUT_S) == Delivery("own/r1/ask", b"for the mailbox", retained=False)
    assert receive(trainer).payload == b"for the inbox"
    assert (trainer.receive(0), mailbox.take(0)) == (None, None)


def test_nothing_more_comes_for_a_mailbox_that_was_let_go(connect: Connect) -> None:
    robot, trainer = connect(), connect()
    trainer.publish("gone/piece/3", b"kept", qos=1, retain=True)
    settle(trainer, "gone/kept")  # else it may come as one that was published behind the subscription
    mailbox = robot.mailbox("gone/piece/3")
    assert mailbox.take(TIMEOUT_S) == Delivery("gone/piece/3", b"kept", retained=True)
    robot.let_go("gone/piece/3")
    settle(robot, "gone/settled")
    trainer.publish("gone/piece/3", b"newer", qos=1, retain=True)
    settle(trainer, "gone/newer")
    robot.reconnect()
    wait_until("second connection", lambda: robot.connections == 2 and robot.connected)
    settle(robot, "gone/settled again")
    assert (mailbox.take(0), robot.receive(0)) == (None, None)
    again = robot.mailbox("gone/piece/3")
    assert again.take(TIMEOUT_S) == Delivery("gone/piece/3", b"newer", retained=True)


def test_what_nobody_takes_from_a_mailbox_makes_room(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "MAILBOX_LIMIT", 2)
    link = connect()
    mailbox = link.mailbox("unread/own")
    assert isinstance(mailbox, FairMailbox)
    settle(link, "unread/own-settled")
    for number in range(4):
        link.publish("unread/own", bytes([number]), qos=1)
    wait_until("dropping", lambda: mailbox.dropped == 2)
    assert [mailbox.take(TIMEOUT_S), mailbox.take(TIMEOUT_S)] == [
        Delivery("unread/own", bytes([number]), retained=False) for number in (2, 3)
    ]
    assert link.dropped == 0


def test_threads_may_publish_at_once(connect: Connect) -> None:
    link = connect()
    mailboxes = [link.mailbox(f"threads/{number}") for number in range(4)]
    settle(link, "threads/settled")

    def publish(number: int) -> None:
        for count in range(20):
            assert link.publish(f"threads/{number}", bytes([count]), qos=1)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(publish, range(4)))
    for mailbox in mailboxes:
        got = [mailbox.take(TIMEOUT_S) for _ in range(20)]
        assert [one.payload if one else None for one in got] == [bytes([count]) for count in range(20)]


def test_memory_link_can_be_down() -> None:
    broker = MemoryBroker()
    robot, trainer = MemoryLink(broker), MemoryLink(broker)
    trainer.subscribe("+")
    robot.connected = False
    assert not robot.publish("a", b"", retain=True)
    robot.connected, trainer.connected = True, False
    assert robot.publish("a", b"")
    assert trainer.receive(0) is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_reconnects_after_the_broker_was_away(backend: Backend) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"mqtt://127.0.0.1:{port}"
    with ExitStack() as links:

        def connect(name: str) -> MqttLink:
            link = MqttLink(url, f"away-{name}")
            links.callback(link.close)
            return link

        trainer = connect("trainer")
        trainer.subscribe("away/first")  # before there is a broker
        assert trainer.problem
        silence = f"no broker at 127.0.0.1:{port}: nothing listens there; start it, or correct --broker"
        wait_until("refusal", lambda: trainer.problem == silence)
        assert not trainer.publish("away/first", b"lost", qos=1)
        assert trainer.connections == 0
        with start_local_broker(port=port, backend=backend):
            connected(trainer)
            assert trainer.problem == ""
            trainer.subscribe("away/second")
            assert settle(trainer, "away/settled") == []
            assert trainer.connections == 1
        wait_until("loss of the connection", lambda: not trainer.connected)
        assert trainer.problem.startswith(f"lost the broker at 127.0.0.1:{port}")
        assert not trainer.publish("away/second", b"lost", qos=1)
        with start_local_broker(port=port, backend=backend):
            robot = connected(connect("robot"))
            wait_until("second connection", lambda: trainer.connections == 2)
            assert settle(trainer, "away/settled again") == [], "what was published while down is not kept"
            for topic in ("away/first", "away/second"):
                assert robot.publish(topic, b"back", qos=1)
                assert receive(trainer) == Delivery(topic, b"back", retained=False)
            assert trainer.problem == ""


def test_a_silent_link_can_be_dialled_again(connect: Connect) -> None:
    link = connect()
    link.subscribe("silent/state")
    settle(link, "silent/settled")
    began = link.heard_at
    assert link.publish("silent/state", b"before", qos=1, retain=True)
    assert receive(link).payload == b"before"
    heard = link.heard_at
    assert began < heard <= time.monotonic()
    link.reconnect()
    wait_until("second connection", lambda: link.connections == 2 and link.connected)
    assert link.heard_at > heard
    wait_until("retained message", lambda: link.receive(0) == Delivery("silent/state", b"before", retained=True))
    assert settle(link, "silent/settled again") == []


def test_what_was_on_the_way_when_a_connection_broke_is_not_sent_again(broker_url: str) -> None:
    proxy = LinkProxy(parse_broker_url(broker_url).port)
    with ExitStack() as links:
        links.callback(proxy.close)
        trainer = MqttLink(broker_url, "flap-trainer")
        links.callback(trainer.close)
        trainer.subscribe("flap/activations")
        robot = MqttLink(f"mqtt://127.0.0.1:{proxy.port}", "flap-robot")
        links.callback(robot.close)
        settle(connected(trainer), "flap/settled")
        for connection in (1, 2):
            wait_for_connection(robot, connection)
            proxy.stall()
            for _ in range(30):  # more than paho has on the way at a time
                assert robot.publish("flap/activations", b"old", qos=1)
            proxy.cut()
            proxy.heal()
        wait_for_connection(robot, 3)
        assert robot.publish("flap/activations", END, qos=1)
        assert receive_until_end(trainer) == []


# Lets everybody in, but not to the topic "top-secret", and says so in its answer to a subscription.
DISCREET_BROKER = """
import asyncio, sys
from amqtt.broker import Broker

async def serve():
    await Broker({
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{sys.argv[1]}"}},
        "plugins": {
            "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True},
            "amqtt.plugins.topic_checking.TopicTabooPlugin": {},
        },
    }).start()
    await asyncio.Event().wait()

asyncio.run(serve())
"""


@pytest.mark.parametrize("early", [True, False])
def test_a_forbidden_subscription_is_said(early: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with ExitStack() as running:
        process = subprocess.Popen([sys.executable, "-c", DISCREET_BROKER, str(port)])
        running.callback(process.wait)
        running.callback(process.kill)
        link = MqttLink(f"mqtt://127.0.0.1:{port}", "curious")
        running.callback(link.close)
        link.subscribe("allowed")
        if early:
            link.subscribe("top-secret")
        connected(link)
        if not early:
            assert settle(link, "settled") == []
            link.subscribe("top-secret")
        with pytest.raises(AccessDenied, match=r"forbids these credentials to read .*top-secret"):
            wait_until("denial", lambda: link.receive(0.05) is not None)


def test_a_forbidden_mailbox_is_only_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    """A broker with the access rules of an older version must not end a robot that has no need of answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with ExitStack() as running:
        process = subprocess.Popen([sys.executable, "-c", DISCREET_BROKER, str(port)])
        running.callback(process.wait)
        running.callback(process.kill)
        link = MqttLink(f"mqtt://127.0.0.1:{port}", "modest")
        running.callback(link.close)
        link.mailbox("top-secret")
        connected(link)
        wait_until("warning", lambda: "forbids us to read top-secret" in caplog.text)
        assert settle(link, "settled") == []


def test_nothing_to_drop_while_there_is_no_broker() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    link = MqttLink(f"mqtt://127.0.0.1:{port}", "dialling")
    link.reconnect()
    assert (link.connected, link.connections) == (False, 0)
    link.close()


def test_last_will_when_the_connection_breaks(broker_url: str) -> None:
    will = ("broken/r1/state", b"gone without a word")
    with ExitStack() as links:
        trainer = MqttLink(broker_url, "broken-trainer")
        links.callback(trainer.close)
        trainer.subscribe("broken/+/state")
        robot = MqttLink(broker_url, "broken-robot", will=will)
        links.callback(robot.close)
        settle(connected(trainer), "broken/settled")
        connected(robot)
        sock = robot._client.socket()
        assert isinstance(sock, socket.socket)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        sock.shutdown(socket.SHUT_RDWR)
        assert receive(trainer) == Delivery(*will, retained=False)
        late = MqttLink(broker_url, "broken-late")
        links.callback(late.close)
        late.subscribe("broken/+/state")
        assert receive(late) == Delivery(*will, retained=True)
        wait_until("second connection", lambda: robot.connections == 2)


@pytest.mark.mosquitto
def test_a_will_that_comes_late_is_answered(mosquitto_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker finds out late that a connection is dead, and its will goes over what the next one announced."""
    monkeypatch.setattr(link_module, "WILL_SECONDS", 0.0)
    topic, gone = "late-will/r1/state", b"gone without a word"
    with ExitStack() as links:
        trainer = MqttLink(mosquitto_url, "late-will-trainer")
        links.callback(trainer.close)
        trainer.subscribe(topic)
        settle(connected(trainer), "late-will/settled")
        former, robot = (MqttLink(mosquitto_url, "late-will-robot", will=(topic, gone)) for _ in range(2))
        links.callback(former.close)
        connected(former)
        connected(robot)
        robot.publish(topic, b"here", qos=1, retain=True)
        assert receive(trainer).payload == b"here"
        sock = former._client.socket()
        assert isinstance(sock, socket.socket)
        sock.shutdown(socket.SHUT_RDWR)
        assert [receive(trainer).payload for _ in range(2)] == [gone, b"here"]
        robot.close(farewell=(topic, gone))
        assert settle(trainer, "late-will/settled-again") == [Delivery(topic, gone, retained=False)]


def test_each_connection_has_a_client_id_of_its_own() -> None:
    """A node of a cluster that died keeps what it knew of the one before, and who comes with that again is stuck."""
    with socket.create_server(("127.0.0.1", 0)) as broker:
        broker.settimeout(TIMEOUT_S)
        link = MqttLink(f"mqtt://127.0.0.1:{broker.getsockname()[1]}", "r1")
        ids = []
        for _ in range(3):
            connection, _ = broker.accept()
            with connection:
                # MQTT 3.1.1, section 3.1: a header of 12 bytes, the identifier's length, and the identifier.
                packet = connection.recv(1000)
                ids.append(packet[14 : 14 + int.from_bytes(packet[12:14], "big")].decode())
        link.close()
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("r1-[0-9a-f]{16}", one) for one in ids), ids


def test_no_last_will_after_a_farewell(broker_url: str) -> None:
    topic = "polite/r1/state"
    robot = connected(MqttLink(broker_url, "polite-robot", will=(topic, b"gone without a word")))
    robot.close(farewell=(topic, b"goodbye"))
    trainer = connected(MqttLink(broker_url, "polite-trainer"))
    trainer.subscribe(topic)
    assert {one.payload for one in settle(trainer, "polite/settled")} == {b"goodbye"}  # which amqtt may send twice
    trainer.close()


def test_oversize_deliveries_are_dropped_and_counted(broker_url: str) -> None:
    link = connected(MqttLink(broker_url, "oversize"))
    link.subscribe("oversize")
    settle(link, "oversize/settled")
    link.publish("oversize", bytes(RECEIVE_LIMIT_BYTES + 1))
    link.publish("oversize", bytes(RECEIVE_LIMIT_BYTES))
    link.publish("oversize", END)
    assert [len(delivery.payload) for delivery in receive_until_end(link)] == [RECEIVE_LIMIT_BYTES]
    assert link.dropped == 1
    link.close()


def test_unread_deliveries_are_bounded(amqtt_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "INBOX_LIMIT", 3)
    link = connected(MqttLink(amqtt_url, "unread"))
    link.subscribe("unread")
    settle(link, "unread/settled")
    for number in range(5):
        link.publish("unread", bytes([number]))
    wait_until("dropping", lambda: link.dropped == 2)
    assert [receive(link).payload for _ in range(3)] == [b"\0", b"\1", b"\2"]
    link.close()


def test_unread_deliveries_are_bounded_in_bytes_too(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "INBOX_BYTES", 3 * len(PAYLOAD))
    link = connect()
    link.subscribe("unread/bytes")
    settle(link, "unread/bytes-settled")
    for _ in range(5):
        link.publish("unread/bytes", PAYLOAD, qos=1)
    wait_until("dropping", lambda: link.dropped == 2)
    assert [receive(link).payload for _ in range(3)] == [PAYLOAD] * 3
    link.publish("unread/bytes", END, qos=1)
    assert receive_until_end(link) == []


@pytest.mark.mosquitto
def test_passwords(tmp_path: Path) -> None:
    mosquitto, mosquitto_passwd = find_mosquitto(), shutil.which("mosquitto_passwd")
    if mosquitto is None or mosquitto_passwd is None:
        pytest.skip("mosquitto_passwd is not installed")
    passwords, config = tmp_path / "passwords", tmp_path / "mosquitto.conf"
    subprocess.run([mosquitto_passwd, "-b", "-c", str(passwords), "r1", "right"], check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    user = "user root\n" if os.geteuid() == 0 else ""
    config.write_text(f"listener {port} 127.0.0.1\npassword_file {passwords}\n{user}")
    with ExitStack() as running:
        process = subprocess.Popen([mosquitto, "-c", str(config)], stderr=subprocess.DEVNULL)
        running.callback(process.wait)
        running.callback(process.terminate)
        wrong = Credentials(username="r1", password="wrong")
        refused = MqttLink(f"mqtt://127.0.0.1:{port}", "passwords-wrong", credentials=wrong)
        running.callback(refused.close)
        refusal = (
            f"the broker at 127.0.0.1:{port} refuses us: Not authorized: "
            "user 'r1' is unknown or the password is wrong; correct the --credentials file"
        )
        wait_until("refusal", lambda: refused.problem == refusal)
        right = Credentials(username="r1", password="right")
        accepted = MqttLink(f"mqtt://127.0.0.1:{port}", "passwords-right", credentials=right)
        running.callback(accepted.close)
        connected(accepted)
        assert refused.problem == refusal, "and not what the closed connection says"
        assert refused.connections == 0


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://localhost", BrokerAddress("localhost", 1883, tls=False)),
        ("mqtts://iot.example.org", BrokerAddress("iot.example.org", 8883, tls=True)),
        ("mqtt://10.0.0.7:1884/", BrokerAddress("10.0.0.7", 1884, tls=False)),
        ("mqtts://[::1]:443", BrokerAddress("::1", 443, tls=True)),
    ],
)
def test_broker_url(url: str, address: BrokerAddress) -> None:
    assert parse_broker_url(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "localhost:1883",
        "http://localhost",
        "mqtt://",
        "mqtt://:1883",
        "mqtt://localhost:0",
        "mqtt://localhost:65536",
        "mqtt://localhost:port",
        "mqtt://localhost/topic",
        "mqtt://[::1",
    ],
)
def test_a_wrong_broker_url_is_named(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^broker '"):
        parse_broker_url(url)


@pytest.mark.parametrize("url", ["mqtt://r1:secret@localhost", "mqtt://r1@localhost", "mqtt://:secret@localhost"])
def test_a_password_does_not_belong_into_the_url(url: str) -> None:
    with pytest.raises(ConfigError, match="REFLEXARC_MQTT_PASSWORD") as raised:
        parse_broker_url(url)
    assert "secret" not in str(raised.value)


@pytest.mark.mosquitto
def test_a_broker_that_takes_no_message_of_ours_is_named(tmp_path: Path) -> None:
    """Not even a retained state may fit; then a link is up and down, and must not look as if it were only lost."""
    mosquitto = find_mosquitto()
    assert mosquitto is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = tmp_path / "mosquitto.conf"
    user = "user root\n" if os.geteuid() == 0 else ""
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_packet_size 200\n{user}")
    with ExitStack() as running:
        process = subprocess.Popen([mosquitto, "-c", str(config)], stderr=subprocess.DEVNULL)
        running.callback(process.wait)
        running.callback(process.terminate)
        link = MqttLink(f"mqtt://127.0.0.1:{port}", "large")
        running.callback(link.close)
        last = 0

        def is_named() -> bool:
            nonlocal last
            if link.connected and link.connections != last:
                last = link.connections
                link.publish("large/state", bytes(300), qos=1, retain=True)
            return "max_packet_size" in link.problem and "300 bytes" in link.problem

        wait_until("trouble", is_named)
        assert last == link_module.SHORT_LIVED
