"""Commands from a shell: what is said where no robot answers, or nothing can come of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.errors import ConfigError, NoAnswer
from broker.link.inbox import Delivery
from broker.link.memory import MemoryBroker, MemoryLink
from broker.link.named import named
from broker.security.names_key import SivCipher
from broker.wire import topics
from broker.wire.codec import pack
from broker.wire.messages import Command, CommandResult
from broker.wire.names import KeyedNames
from robot_edge.teaching.remote import _converse, give_command
from tests.cloud_trainer.world import STATE


class Dialling(MemoryLink):
    """A link whose first delivery comes together with its connection, as from a broker nearby."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.connected = False

    def receive(self, timeout: float) -> Delivery | None:
        self.connected = True
        return super().receive(timeout)


def test_a_robot_that_is_not_there_is_said_at_once() -> None:
    broker = MemoryBroker()
    MemoryLink(broker).publish(
        topics.topic("robot", "r1", "state"), pack(replace(STATE, online=False)), qos=1, retain=True
    )
    with pytest.raises(NoAnswer, match="is not there"):
        _converse(Dialling(broker), "r1", Command(id="a1", action="undo", name="", to="", seconds=0.0))


@pytest.mark.parametrize("channel", ["state", "result"])
def test_garbage_under_the_robots_name_is_not_its_answer(channel: topics.Channel) -> None:
    broker = MemoryBroker()
    link = Dialling(broker)
    command = Command(id="a1", action="undo", name="", to="", seconds=0.0)

    def answer(topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        link.offer(Delivery(topics.topic("robot", "r1", channel), b"\xff garbage", retained=False))
        result = CommandResult(id="a1", ok=True, done=True, text="taken back")
        link.offer(Delivery(topics.topic("robot", "r1", "result"), pack(result), retained=False))
        return True

    link.publish = answer  # type: ignore[method-assign]
    assert _converse(link, "r1", command)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, 3601.0])
def test_a_time_that_no_robot_takes_is_said_here(seconds: float) -> None:
    with pytest.raises(ConfigError, match="seconds"):
        give_command("teach", robot="r1", broker="mqtt://127.0.0.1:1", credentials="", name="mug", seconds=seconds)


def test_a_region_that_no_frame_has_is_said_here() -> None:
    with pytest.raises(ConfigError, match="reaches to 110 % of the width"):
        give_command("look", robot="r1", broker="mqtt://127.0.0.1:1", credentials="", region="90%,0%,20%,20%")


@pytest.mark.parametrize(("key", "said"), [(0, "r1: took back 'mug'\n"), (1, "take its --names-key to read\n")])
def test_what_a_robot_with_a_key_says_is_for_its_holders(
    key: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    robot = KeyedNames(SivCipher(bytes(64)))
    link = Dialling(MemoryBroker())
    result = robot.conceal(CommandResult(id="a1", ok=True, done=True, text="took back 'mug'"))

    def answer(topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        link.offer(Delivery(topics.topic("robot", "r1", "result"), pack(result), retained=False))
        return True

    link.publish = answer  # type: ignore[method-assign]
    assert _converse(named(link, KeyedNames(SivCipher(bytes([key]) * 64))), "r1", Command(id="a1", action="undo"))
    assert capsys.readouterr().out.endswith(said)
