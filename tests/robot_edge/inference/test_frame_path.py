"""A frame's way through exit, ask and answer, over a link in memory; and which predictions others are told."""

from __future__ import annotations

import pytest

from broker.link.memory import MemoryBroker, MemoryLink
from broker.wire import topics
from broker.wire.codec import pack, unpack_as
from broker.wire.messages import Answer, Ask, Prediction
from robot_edge.inference.cascade import Cascade, CloudLine, Decision
from robot_edge.inference.frame_path import FramePath
from robot_edge.inference.predictions import PredictionPublisher
from robot_edge.inference.predictor import Predictor
from tests.hierarchy.test_edge import FLOAT, STRIPES, batch, trainer

BOOT = "b" * 16
ANSWER = topics.topic("robot", "r1", "answer")


class World:
    def __init__(self, threshold: float) -> None:
        broker = MemoryBroker()
        self.now = 10.0
        self.robot, self.cloud = MemoryLink(broker), MemoryLink(broker)
        self.cloud.subscribe(topics.topic("robot", topics.ANYONE, "ask"))
        edge = trainer()
        self.image = batch(6, 0)[0][0]
        edge.step(*batch(6, 0), fresh=6, progress=None)
        cascade = Cascade(boot=BOOT, split="5" * 16, threshold=threshold, deadline=0.3)
        predictor = Predictor(edge.segment, bits=4, compute=FLOAT)
        self.sight = FramePath(predictor, cascade, CloudLine(self.robot, "r1"), clock=lambda: self.now)
        self.sight.reachable = True

    def asked(self) -> Ask:
        delivery = self.cloud.receive(0)
        assert delivery is not None
        return unpack_as(Ask, delivery.payload)

    def reply(self, ask: Ask) -> None:
        answer = Answer(boot=ask.boot, number=ask.number, classes=("none",), probabilities=(0.9,), images=6)
        self.cloud.publish(ANSWER, pack(answer))


def test_a_sure_exit() -> None:
    world = World(threshold=0.0)
    (decided,) = world.sight.look(world.image, taken_at=9.9)
    assert (decided.by, decided.name in STRIPES) == ("exit", True)
    assert decided.latency == pytest.approx(0.1)
    assert world.cloud.receive(0) is None
    assert world.sight.wait(60) == []


def test_an_unsure_one_asks() -> None:
    world = World(threshold=1.1)
    assert world.sight.look(world.image, taken_at=10.0) == []
    world.reply(world.asked())
    world.now = 10.1
    (decided,) = world.sight.wait(0.2)
    assert (decided.by, decided.name) == ("cloud", "none")
    assert decided.latency == pytest.approx(0.1)


def test_an_answer_is_found_at_the_next_look() -> None:
    world = World(threshold=1.1)
    world.sight.look(world.image, taken_at=10.0)
    world.reply(world.asked())
    (decided,) = world.sight.look(world.image, taken_at=10.0)
    assert decided.by == "cloud"


def test_nobody_answers() -> None:
    world = World(threshold=1.1)
    world.sight.look(world.image, taken_at=10.0)
    world.now = 10.4
    (decided,) = world.sight.wait(60)
    assert decided.by == "exit"


@pytest.mark.parametrize("how", ["unreachable", "link down"])
def test_nobody_to_ask(how: str) -> None:
    world = World(threshold=1.1)
    if how == "unreachable":
        world.sight.reachable = False
    else:
        world.robot.connected = False
    (decided,) = world.sight.look(world.image, taken_at=10.0)
    assert decided.by == "exit"


# What others are told


def decision(name: str, taken_at: float) -> Decision:
    return Decision(name=name, confidence=0.75, by="exit", taken_at=taken_at, latency=0.5)


def test_predictions_are_rate_limited_but_for_news() -> None:
    broker = MemoryBroker()
    robot, screen = MemoryLink(broker), MemoryLink(broker)
    screen.subscribe(topics.topic("robot", "r1", "prediction"))
    publisher = PredictionPublisher(robot, "r1", BOOT, per_second=5)
    told = [publisher.offer(decision("cat", at), now=at + 0.5, wall=1e9 + at) for at in (0.0, 0.1, 0.19, 0.21, 0.3)]
    assert told == [True, False, False, True, False]
    assert publisher.offer(decision("", 0.31), now=0.81, wall=1e9), "another answer"
    assert publisher.offer(decision("cat", 0.32), now=0.82, wall=1e9)
    assert not publisher.offer(decision("dog", 0.2), now=0.9, wall=1e9), "of a frame before the last one told"
    assert publisher.published == 4
    delivery = screen.receive(0)
    assert delivery is not None
    expected = Prediction(boot=BOOT, time=1e9 - 0.5, name="cat", confidence=0.75, by="exit", latency=0.5)
    assert unpack_as(Prediction, delivery.payload) == expected
    robot.connected = False
    assert not publisher.offer(decision("dog", 9.0), now=9.5, wall=1e9)
    robot.connected = True
    assert publisher.offer(decision("dog", 9.0), now=9.6, wall=1e9), "what could not leave was not told"
