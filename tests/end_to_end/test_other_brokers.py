"""RabbitMQ and NATS as Debian has them, one node each: what mosquitto carries, they carry, and a run outlives them."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from broker.link.base import Link
from broker.link.inbox import Delivery
from broker.link.mqtt import MqttLink
from tests.broker_nodes import Kind, Node, running
from tests.soak.run import trained_on

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Launcher

TIMEOUT_S = 60
BIG = bytes(range(256)) * 4000  # 1,024,000 bytes, every byte value
MESSAGES = 500
# Of the main job: pictures, of four classes, and how often each is shown.
FEW, EPOCHS = 160, 5
COLOURS = ("red", "green", "blue", "yellow")


@pytest.fixture(
    scope="module",
    name="node",
    params=[pytest.param(kind, marks=getattr(pytest.mark, kind)) for kind in ("rabbitmq", "nats")],
)
def _node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    kind = cast("Kind", request.param)
    with running(kind, tmp_path_factory.mktemp(kind)) as brokers:
        yield brokers.nodes[0]


def wait_until(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {TIMEOUT_S} s"
        time.sleep(0.01)


def listening(links: ExitStack, node: Node, topic_filter: str) -> MqttLink:
    link = MqttLink(node.url, "listener")
    links.callback(link.close)
    link.subscribe(topic_filter)
    wait_until("subscription", lambda: link._subscriptions.is_granted(topic_filter))
    return link


def receive(link: Link) -> Delivery:
    delivery = link.receive(TIMEOUT_S)
    assert delivery is not None, f"nothing came within {TIMEOUT_S} s"
    return delivery


def test_every_message_arrives_once(node: Node) -> None:
    with ExitStack() as links:
        trainer = listening(links, node, "delivery/+/activations")
        robot = listening(links, node, "delivery/nothing")
        for number in range(MESSAGES):
            assert robot.publish("delivery/r1/activations", number.to_bytes(2, "big"), qos=1)
        assert robot.publish("delivery/r1/activations", BIG, qos=1)
        came = [receive(trainer).payload for _ in range(MESSAGES + 1)]
        assert sorted(came[:-1]) == [number.to_bytes(2, "big") for number in range(MESSAGES)]
        assert came[-1] == BIG
        assert trainer.receive(0.5) is None


def test_a_will_is_published_and_kept(node: Node) -> None:
    will = ("wills/r1/state", b"gone without a word")
    with ExitStack() as links:
        trainer = listening(links, node, "wills/+/state")
        robot = MqttLink(node.url, "mortal", will=will)
        links.callback(robot.close)
        wait_until("connection", lambda: robot.connected)
        sock = robot._client.socket()
        assert isinstance(sock, socket.socket)
        sock.shutdown(socket.SHUT_RDWR)
        assert receive(trainer) == Delivery(*will, retained=False)
        late = listening(links, node, will[0])  # RabbitMQ keeps nothing for who asks with a wildcard
        assert receive(late) == Delivery(*will, retained=True)


def test_a_run_outlives_its_broker_and_its_trainer(node: Node, launcher: Launcher, pictures: Path) -> None:
    """Each end comes when the other is there already, and neither needs what a broker has retained to notice."""
    name, few = f"lasting-{node.port}", f"folder:{pictures}/few"
    robot = launcher.robot(node.url, name, few, "--held-out", few, "--epochs", str(EPOCHS))
    robot.until_it_says("waiting for a cloud trainer")
    first = launcher.trainer(node.url, "--practice", "0")
    robot.until(lambda: robot.images() >= 160, "it has learned from 160 images")
    node.kill()
    node.start()
    first.until(lambda: first.images(name) >= 300, "300 images were trained on")
    first.kill()
    second = launcher.trainer(node.url, "--practice", "0", "--run-dir", str(first.run_dir))
    assert robot.wait() == 0, robot.printed
    second.until_it_says(f"robot {name} has gone")
    assert second.interrupt() == 0

    for summary in (robot.summary, first.summary):
        assert summary["images"] == FEW * EPOCHS
        assert summary["messages_rejected"] == summary["dropped"] == 0
    sent, trained = Counter[str](), trained_on(first.run_dir / "store.db")
    for colour, of_class in robot.summary["samples_by_class"].items():
        assert of_class["receipted"] == of_class["taken"]
        sent[colour] = of_class["taken"]
    assert trained == sent == dict.fromkeys(COLOURS, FEW * EPOCHS // len(COLOURS))
