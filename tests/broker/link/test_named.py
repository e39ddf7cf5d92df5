"""A link on which names are tokens: no name leaves through it, and what the key reads comes in as one."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace

import pytest

from broker.errors import MalformedMessage
from broker.link.inbox import Delivery
from broker.link.memory import MemoryBroker, MemoryLink
from broker.link.named import NamedLink, named
from broker.security.names_key import SivCipher
from broker.wire.codec import pack, unpack
from broker.wire.messages import Answer, Command, CommandResult, Message, Prediction
from broker.wire.names import PLAIN_NAMES, KeyedNames
from tests.broker.wire.test_codec import ANSWER, BATCH, PREDICTION

OURS, THEIRS = KeyedNames(SivCipher(bytes(64))), KeyedNames(SivCipher(bytes([1]) * 64))
TOPIC = "reflexarc/1/robot/r1"
TEACH = Command(id="a1", action="teach", name="mug", seconds=10.0)


class Pair:
    """A robot's link with a key, and a client without one."""

    def __init__(self) -> None:
        broker = MemoryBroker()
        self.robot = named(MemoryLink(broker), OURS)
        self.client = MemoryLink(broker)
        self.client.subscribe("#")
        self.robot.subscribe(f"{TOPIC}/command")

    def heard(self) -> list[Message]:
        return [unpack(one.payload) for one in iter(lambda: self.client.receive(0), None)]


@pytest.fixture(name="pair")
def _pair() -> Pair:
    return Pair()


def test_without_a_key_the_link_is_the_same() -> None:
    link = MemoryLink(MemoryBroker())
    assert named(link, PLAIN_NAMES) is link
    assert isinstance(named(link, OURS), NamedLink)


def test_what_is_published_is_concealed_once(pair: Pair) -> None:
    assert pair.robot.publish(f"{TOPIC}/prediction", pack(PREDICTION))
    assert pair.robot.publish(f"{TOPIC}/activations", pack(OURS.conceal(BATCH)))
    said, batch = (pack(one) for one in pair.heard())
    assert unpack(said) == replace(PREDICTION, name=OURS.token(PREDICTION.name))
    assert batch == pack(OURS.conceal(BATCH))


def test_what_cannot_be_read_is_not_sent(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    long = replace(PREDICTION, name="a" * 32)
    for payload in (b"mug", pack(long), pack(long)):
        assert pair.robot.publish(f"{TOPIC}/prediction", payload), "or it would stand before all others for ever"
    assert pair.heard() == []
    assert len(caplog.messages) == 1


def test_what_comes_in_is_read_in_both_ways(pair: Pair) -> None:
    answers = pair.robot.mailbox(f"{TOPIC}/answer")
    assert answers.take(0) is None
    concealed = OURS.conceal(ANSWER)
    twice = replace(concealed, classes=(concealed.classes[0], "köttur"))
    for payload in (pack(concealed), b"~ garbage", pack(THEIRS.conceal(ANSWER)), pack(twice)):
        pair.client.publish(f"{TOPIC}/answer", payload)
    came = [answers.take(0) for _ in range(4)]
    assert all(came)
    assert [one and one.payload for one in came[:3]] == [pack(ANSWER), b"~ garbage", pack(THEIRS.conceal(ANSWER))]
    pair.client.publish(f"{TOPIC}/command", pack(OURS.conceal(TEACH)))
    assert pair.robot.receive(0) == Delivery(f"{TOPIC}/command", pack(TEACH), retained=False)


@pytest.mark.parametrize("command", [TEACH, THEIRS.conceal(TEACH), replace(OURS.conceal(TEACH), to="cup")])
def test_a_command_with_a_name_in_the_clear_is_refused_in_the_clear(pair: Pair, command: Command) -> None:
    pair.client.publish(f"{TOPIC}/command", pack(command))
    pair.client.publish(f"{TOPIC}/command", pack(Command(id="a2", action="pause")))
    delivery = pair.robot.receive(0)
    assert delivery
    assert unpack(delivery.payload) == Command(id="a2", action="pause")
    [result] = [one for one in pair.heard() if isinstance(one, CommandResult)]
    assert (result.id, result.ok, result.done) == ("a1", False, True)
    assert "give the --names-key that the robot was started with" in result.text


@pytest.mark.parametrize("message", [ANSWER, TEACH, BATCH], ids=lambda one: type(one).__name__)
def test_spoilt_bytes_end_here_or_where_they_are_unpacked(pair: Pair, message: Message) -> None:
    data, rng = pack(OURS.conceal(message)), random.Random(5)
    answers = pair.robot.mailbox(f"{TOPIC}/answer", per_second=1e9)
    for _ in range(300):
        place, wrong = rng.randrange(len(data)), rng.randrange(256)
        spoilt = data[:place] + bytes([wrong]) + data[place + rng.randrange(3) :]
        for channel in ("answer", "command"):
            pair.client.publish(f"{TOPIC}/{channel}", spoilt)
        for delivery in (answers.take(0), pair.robot.receive(0)):
            with suppress(MalformedMessage):
                assert delivery is None or unpack(delivery.payload)


def test_a_robots_words_are_for_who_has_the_key(pair: Pair) -> None:
    words = CommandResult(id="a1", ok=True, done=True, text="took back 3 frames of 'mug'")
    pair.robot.publish(f"{TOPIC}/result", pack(words))
    [sealed] = pair.heard()
    assert isinstance(sealed, CommandResult)
    assert "mug" not in sealed.text
    assert OURS.reveal(sealed) == words


def test_a_trainer_may_say_anything(pair: Pair) -> None:
    """Names of nobody's key are bounded as any other, and names that are there twice are no answer."""
    answers = pair.robot.mailbox(f"{TOPIC}/answer")
    unknown = Answer(boot="0" * 16, number=1, classes=("~" + "A" * 63, "plain"), probabilities=(0.5, 0.1), images=1)
    pair.client.publish(f"{TOPIC}/answer", pack(unknown))
    delivery = answers.take(0)
    assert delivery
    assert unpack(delivery.payload) == unknown
    said = Prediction(boot="0" * 16, time=0.0, name="", confidence=0.0, by="exit", latency=0.0)
    assert OURS.conceal(said).name == "", "that nothing fits is no name"
