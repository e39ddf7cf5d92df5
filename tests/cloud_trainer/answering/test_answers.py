"""Asks and answers: whose segment answers, what is refused, and that neither garbage nor floods cost training much."""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from broker.link.mailbox import FairMailbox
from broker.wire import topics
from broker.wire.codec import pack
from broker.wire.messages import Answer, Ask
from broker.wire.quantize import dequantize, pack_activations, quantize, unpack_activations
from cloud_trainer.answering import answers as answers_module
from cloud_trainer.answering.answers import (
    ALL_ASKS_PER_SECOND,
    IDLE_SECONDS,
    MAX_ASKERS,
    MAX_COPIES,
    MAX_WAITING,
    REFRESH_SECONDS,
    ROBOT_ASKS_PER_SECOND,
    Asks,
)
from tests.cloud_trainer.fuzz import SPOILERS
from tests.cloud_trainer.world import SPLIT, STATE, Cloud, batches, make_batch, of

TIMEOUT_S = 30


def make_ask(number: int = 0, *, boot: str = STATE.boot, deadline: float = 0.3, **changes: object) -> Ask:
    values = np.random.default_rng(number).standard_normal((1, *SPLIT.shape)).astype(np.float32)
    ask = Ask(
        boot=boot,
        number=number,
        split=SPLIT.fingerprint,
        deadline=deadline,
        activations=pack_activations(quantize(values, SPLIT.bits)),
    )
    return dataclasses.replace(ask, **changes)  # type: ignore[arg-type]


class Answering:
    """A trainer whose answering thread is this one."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        cloud.training.answerer._clock = cloud.clock.monotonic
        cloud.robots.subscribe(topics.topic("robot", topics.ANYONE, "answer"))

    def ask(self, *asks: Ask, robot: str = "r1") -> list[Answer]:
        for ask in asks:
            self.cloud.publish(robot, "ask", pack(ask))
        return self.work(len(asks))

    def work(self, times: int = 1) -> list[Answer]:
        for _ in range(times):
            self.cloud.training.answerer.work(timeout=0)
        return of(Answer, list(self.cloud._answers()))

    def wake(self, robot: str = "r1") -> None:
        """Have the trainer take a copy of a robot's segment, as its first ask does."""
        self.ask(make_ask(), robot=robot)
        self.cloud.work(1.0)


@pytest.fixture(name="answering")
def _answering(cloud: Cloud) -> Answering:
    cloud.say("r1", STATE, *batches(3))
    return Answering(cloud)


def test_the_first_ask_only_wakes_it(answering: Answering) -> None:
    assert answering.ask(make_ask()) == []
    answering.cloud.work()
    (answer,) = answering.ask(make_ask(1))
    assert (answer.boot, answer.number, answer.images) == (STATE.boot, 1, 12)


def test_an_answer_is_what_the_segment_says(answering: Answering) -> None:
    answering.wake()
    ask = make_ask(7)
    (answer,) = answering.ask(ask)
    segment = answering.cloud.session().trainer.segment.eval()
    with torch.inference_mode():
        activations = torch.from_numpy(dequantize(unpack_activations(ask.activations)))
        probabilities = segment(activations).softmax(1)[0].tolist()
    expected = sorted(zip(probabilities, segment.head.classes, strict=True), reverse=True)
    assert answer.classes == tuple(name for _, name in expected)
    assert answer.probabilities == pytest.approx([share for share, _ in expected], abs=1e-6)


def test_asking_changes_nothing_of_what_is_learned(start: Callable[..., Cloud]) -> None:
    weights = []
    for name in ("asked", "not asked"):
        cloud = start(name)
        answering = Answering(cloud)
        for number in range(6):
            cloud.say("r1", STATE, *batches(1, first=number))
            if name == "asked":
                answering.wake()
        weights.append(cloud.session().checkpoint().learner.weights)
    for one, other in zip(weights[0].values(), weights[1].values(), strict=True):
        assert torch.equal(one, other)


def test_a_copy_is_renewed_now_and_then_and_given_up(answering: Answering) -> None:
    answering.wake()
    answering.cloud.say("r1", *batches(1, first=3))
    assert answering.ask(make_ask(1))[0].images == 12
    answering.cloud.work(REFRESH_SECONDS)
    assert answering.ask(make_ask(2))[0].images == 16
    answering.cloud.say("r1", *[make_batch(["new"] * 4, sequence=4)])
    answering.cloud.work(REFRESH_SECONDS)
    assert "new" in answering.ask(make_ask(3))[0].classes
    answering.cloud.work(IDLE_SECONDS + 1)
    assert answering.cloud.training.answerer._copies == {}


def test_only_the_last_askers_have_copies(start: Callable[..., Cloud]) -> None:
    cloud = start(most_robots=MAX_COPIES + 2)
    answering = Answering(cloud)
    names = [f"r{number}" for number in range(MAX_COPIES + 2)]
    for name in names:
        cloud.say(name, STATE, *batches(1))
        answering.wake(name)
    assert sorted(cloud.training.answerer._copies) == sorted(names[2:])


@pytest.mark.parametrize(
    "ask",
    [
        make_ask(boot="f" * 16),
        make_ask(split="f" * 16),
        make_ask(activations=pack_activations(quantize(np.ones((1, 6, 2, 2), np.float32), 5))),
        make_ask(activations=pack_activations(quantize(np.ones((1, 6, 2, 3), np.float32), 4))),
        make_ask(activations=pack_activations(quantize(np.ones((1, 7, 2, 2), np.float32), 4))),
        make_ask(activations=dataclasses.replace(make_ask().activations, data=b"\x00" * 12, codec="lz4")),
        make_ask(activations=dataclasses.replace(make_ask().activations, data=b"\x00" * 12, codec="zlib")),
    ],
    ids=["another boot", "another split", "other bits", "other size", "other channels", "no lz4", "no zlib"],
)
def test_what_is_not_answered(answering: Answering, ask: Ask) -> None:
    answering.wake()
    assert answering.ask(ask) == []
    assert [one.number for one in answering.ask(make_ask(5))] == [5], "and the next one is"


def test_who_is_not_answered(answering: Answering) -> None:
    assert answering.ask(make_ask(), robot="nobody") == []
    answering.wake("nobody")
    assert answering.ask(make_ask(), robot="nobody") == []
    answering.wake()
    record = answering.cloud.known["r1"]
    record.quarantine.bad(answering.cloud.clock.now, "nonsense", grave=True)
    answering.cloud.work()
    assert answering.ask(make_ask(1)) == []


def test_a_robot_that_only_asks(answering: Answering) -> None:
    """As `robot-edge evaluate` does: a new process with the weights of the run."""
    for boot, run, expected in (("e" * 16, STATE.run, [1]), ("f" * 16, "9" * 16, [])):
        state = dataclasses.replace(STATE, boot=boot, run=run, weights="checkpoint")
        answering.cloud.say("r1", state)
        answering.wake()
        found = answering.ask(make_ask(1, boot=boot))
        assert [one.number for one in found] == expected, "the front of another run would be answered with nonsense"
    assert answering.cloud.session().messages_trained == 3


def test_late_asks_are_dropped(answering: Answering) -> None:
    answering.wake()
    answerer = answering.cloud.training.answerer
    answering.cloud.publish("r1", "ask", pack(make_ask(1, deadline=0.3)))
    answering.cloud.publish("r1", "ask", pack(make_ask(2, deadline=2.0)))
    assert [one.number for one in answering.work()] == [1]
    answering.cloud.publish("r1", "ask", pack(make_ask(3, deadline=0.3)))
    answerer._take(answerer._mailbox.take(0))  # type: ignore[arg-type]
    answering.cloud.clock.now += 0.5
    assert [one.number for one in answering.work(2)] == [2]
    assert answerer.asks.refused == 1


def test_infinite_activations_get_no_answer(answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    answering.wake()
    with answering.cloud.training.answerer._copies["r1"].shadow.network() as segment:
        segment.head.weight.fill_(float("inf"))
    assert answering.ask(make_ask(1)) == []


# Bounds


def test_a_robot_may_ask_only_so_often() -> None:
    asks = Asks()
    for number in range(100):
        asks.add("greedy", make_ask(number), 0.0)
    asks.add("modest", make_ask(), 0.0)
    taken = []
    while found := asks.next(0.1):
        taken.append(found[0])
    assert taken == ["greedy"] * int(ROBOT_ASKS_PER_SECOND) + ["modest"]
    assert asks.refused == 100 - ROBOT_ASKS_PER_SECOND
    asks.add("greedy", make_ask(), 1.0)
    assert asks.next(1.0) is not None


def test_all_together_may_ask_only_so_often() -> None:
    asks = Asks()
    answered = 0
    for number in range(1000):
        asks.add(f"r{number}", make_ask(), number / 1000)
        answered += asks.next(number / 1000) is not None
    assert ALL_ASKS_PER_SECOND <= answered <= 2 * ALL_ASKS_PER_SECOND
    assert len(asks._askers) == MAX_ASKERS
    assert asks.robots(1.0)[:2] == ["r999", "r998"]


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_module, "ROBOT_ASKS_PER_SECOND", 1000.0)
    monkeypatch.setattr(answers_module, "ALL_ASKS_PER_SECOND", 1000.0)
    asks = Asks()
    for number in range(500):
        asks.add("r1", make_ask(number), 0.0)
    assert len(asks._waiting) == MAX_WAITING


def test_garbage_is_survived(answering: Answering) -> None:
    rng = random.Random(3)
    assert isinstance(answering.cloud.training.answerer._mailbox, FairMailbox)
    answering.cloud.training.answerer._mailbox._clock = answering.cloud.clock.monotonic
    answering.wake()
    good = pack(make_ask(1))
    for number in range(600):
        spoilt = rng.choice(SPOILERS)(good, rng)
        name = rng.choice(["r1", "r2", "x" * 65, "+", ""])
        answering.cloud.robots.publish(f"{topics.PREFIX}/robot/{name}/ask", spoilt)
        answering.cloud.training.answerer.work(timeout=0)
        if number % 20 == 0:
            answering.cloud.clock.now += 1.0
            answering.cloud.turn()
    answering.cloud.work(5.0)
    answering.work(MAX_WAITING)
    answering.cloud.clock.now += 1.0
    assert [one.number for one in answering.ask(make_ask(9))] == [9]


def test_it_answers_while_a_step_is_under_way(cloud: Cloud) -> None:
    """The main thread is held up in a step for as long as the answer takes."""
    cloud.say("r1", STATE, *batches(3))
    answering = Answering(cloud)
    answering.wake()
    answered = threading.Event()
    cloud.training.answerer.start()
    session = cloud.session()
    step, came = session.trainer.step, []

    def long_step(*arguments: object, **settings: object) -> object:
        cloud.publish("r1", "ask", pack(make_ask(4)))
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline and not answered.is_set():
            came.extend(of(Answer, [one for one in cloud._answers() if one.topic.endswith("/answer")]))
            if came:
                answered.set()
            time.sleep(0.005)
        return step(*arguments, **settings)  # type: ignore[arg-type]

    session.trainer.step = long_step  # type: ignore[assignment,method-assign]
    cloud.publish("r1", "activations", pack(batches(1, first=3)[0]))
    cloud.turn()
    cloud.training.answerer.close()
    assert [one.number for one in came] == [4]
