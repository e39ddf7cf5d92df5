"""Who answers: threshold, deadline, slow links, and what comes of frames that nobody answers for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from broker.link.memory import MemoryBroker, MemoryLink
from broker.wire import topics
from broker.wire.codec import pack, unpack_as
from broker.wire.messages import Answer, Ask
from broker.wire.quantize import quantize, unpack_activations
from robot_edge.inference.cascade import MAX_UNDER_WAY, MISSES, PAUSE_SECONDS, Cascade, CloudLine, Decision
from robot_edge.inference.exit_prediction import ExitPrediction

BOOT, SPLIT = "b" * 16, "5" * 16
QUANTIZED = quantize(np.random.default_rng(0).normal(size=(1, 2, 3, 3)).astype(np.float32), 4)


def exit_says(name: str = "cat", confidence: float = 0.5, *, unknown: bool = False) -> ExitPrediction:
    return ExitPrediction(
        name=name,
        confidence=confidence,
        unknown=unknown,
        classes=("cat", "dog"),
        probabilities=np.array([confidence, 1 - confidence]),
        logits=np.zeros(2, np.float32),
        quantized=QUANTIZED,
        seconds=0.01,
    )


def test_what_no_remembered_frame_is_like_is_not_asked_about(cascade: Cascade) -> None:
    stranger = replace(exit_says(confidence=0.95, unknown=True), novelty=9.0)
    decided = by_exit(cascade, 5.0, stranger)
    assert (decided.name, decided.confidence) == ("", 0.95)
    ask(cascade, 6.0, replace(stranger, novelty=None))
    ask(cascade, 7.0, replace(exit_says(confidence=0.3), novelty=0.0))


def test_a_half_of_the_robots_own_is_not_asked_what_others_taught(cascade: Cascade) -> None:
    elsewhere = replace(exit_says(), elsewhere=True)
    assert by_exit(cascade, 5.0, elsewhere).name == "cat"
    cascade.asks_fleet = True
    ask(cascade, 6.0, elsewhere)


def answer(number: int, name: str = "dog", confidence: float = 0.9, boot: str = BOOT) -> Answer:
    return Answer(boot=boot, number=number, classes=(name,), probabilities=(confidence,), images=100)


@pytest.fixture(name="cascade")
def _cascade() -> Cascade:
    return Cascade(boot=BOOT, split=SPLIT, threshold=0.8, deadline=0.3)


def ask(cascade: Cascade, at: float, says: ExitPrediction | None = None) -> Ask:
    asked = cascade.decide(says or exit_says(), taken_at=at, now=at + 0.01, reachable=True)
    assert isinstance(asked, Ask)
    return asked


def by_exit(cascade: Cascade, at: float, says: ExitPrediction | None = None, *, reachable: bool = True) -> Decision:
    decided = cascade.decide(says or exit_says(), taken_at=at, now=at + 0.01, reachable=reachable)
    assert isinstance(decided, Decision)
    assert decided.by == "exit"
    return decided


def test_a_sure_exit_answers_at_once(cascade: Cascade) -> None:
    decided = by_exit(cascade, 5.0, exit_says(confidence=0.8))
    assert (decided.name, decided.confidence, decided.taken_at) == ("cat", 0.8, 5.0)
    assert decided.latency == pytest.approx(0.01)
    assert cascade.next_deadline is None


def test_an_unsure_one_asks_and_takes_the_clouds_word(cascade: Cascade) -> None:
    asked = ask(cascade, 5.0)
    assert (asked.boot, asked.number, asked.split) == (BOOT, 0, SPLIT)
    assert asked.deadline == pytest.approx(0.29), "some of it is over already"
    np.testing.assert_array_equal(unpack_activations(asked.activations).codes, QUANTIZED.codes)
    assert cascade.next_deadline == pytest.approx(5.3)
    decided = cascade.answer(answer(0), now=5.1)
    assert decided is not None
    assert (decided.name, decided.confidence, decided.by, decided.taken_at) == ("dog", 0.9, "cloud", 5.0)
    assert decided.latency == pytest.approx(0.1)
    assert (cascade.answered, cascade.missed, cascade.late) == (1, 0, 0)


def test_the_exits_word_stands_where_no_answer_comes(cascade: Cascade) -> None:
    ask(cascade, 5.0)
    assert cascade.expire(now=5.29) == []
    (decided,) = cascade.expire(now=5.3)
    assert (decided.name, decided.by, decided.taken_at) == ("cat", "exit", 5.0)
    assert cascade.answer(answer(0), now=5.35) is None, "too late"
    assert (cascade.answered, cascade.missed, cascade.late) == (0, 1, 1)


def test_an_answer_that_is_found_too_late_does_not_count(cascade: Cascade) -> None:
    ask(cascade, 5.0)
    decided = cascade.answer(answer(0), now=5.31)
    assert decided is not None
    assert decided.by == "exit"
    assert (cascade.answered, cascade.missed, cascade.late) == (0, 1, 1)


def test_answers_to_nothing_that_was_asked(cascade: Cascade) -> None:
    ask(cascade, 5.0)
    for stray in (answer(1), answer(0, boot="c" * 16)):
        assert cascade.answer(stray, now=5.1) is None
    assert cascade.answer(answer(0), now=5.1) is not None
    assert cascade.answer(answer(0), now=5.1) is None, "twice"


def test_what_fits_no_class(cascade: Cascade) -> None:
    strange = exit_says(confidence=0.9, unknown=True)
    assert by_exit(cascade, 5.0, strange, reachable=False).name == ""
    for confidence, name in ((0.9, "dog"), (0.7, "")):
        number = ask(cascade, 6.0, strange).number
        decided = cascade.answer(answer(number, confidence=confidence), now=6.1)
        assert decided is not None
        assert (decided.name, decided.by) == (name, "cloud")


def test_nobody_is_asked_who_is_not_there(cascade: Cascade) -> None:
    assert by_exit(cascade, 5.0, reachable=False).name == "cat"


def test_only_so_many_at_a_time(cascade: Cascade) -> None:
    for number in range(MAX_UNDER_WAY):
        assert ask(cascade, 5.0 + 0.01 * number).number == number
    by_exit(cascade, 5.1)
    cascade.answer(answer(2), now=5.1)
    assert ask(cascade, 5.11).number == MAX_UNDER_WAY


def test_a_slow_link_is_left_alone_and_tried_now_and_then(cascade: Cascade) -> None:
    now = 5.0
    for _ in range(MISSES):
        ask(cascade, now)
        now += 0.4
        cascade.expire(now=now)
    by_exit(cascade, now)
    by_exit(cascade, now + PAUSE_SECONDS - 0.5)
    now += PAUSE_SECONDS
    number = ask(cascade, now).number
    by_exit(cascade, now + 0.01)  # one tries, the others do not wait for it
    cascade.expire(now=now + 0.4)
    by_exit(cascade, now + 0.5)  # as slow as before
    now += 0.4 + PAUSE_SECONDS
    number = ask(cascade, now).number
    assert cascade.answer(answer(number), now=now + 0.1) is not None
    for later in range(MAX_UNDER_WAY):
        ask(cascade, now + 0.2 + 0.01 * later)


def test_an_ask_that_could_not_leave(cascade: Cascade) -> None:
    asked = ask(cascade, 5.0)
    assert cascade.give_up(asked, now=5.02).by == "exit"
    assert cascade.expire(now=9.0) == []
    assert cascade.missed == 0


def test_a_line_to_the_cloud() -> None:
    broker = MemoryBroker()
    robot, cloud = MemoryLink(broker), MemoryLink(broker)
    line = CloudLine(robot, "r1")
    cloud.subscribe(topics.topic("robot", topics.ANYONE, "ask"))
    asked = ask(Cascade(boot=BOOT, split=SPLIT, threshold=0.8, deadline=0.3), 5.0)
    assert line.ask(asked)
    delivery = cloud.receive(0)
    assert delivery is not None
    assert delivery.topic == topics.topic("robot", "r1", "ask")
    assert replace(unpack_as(Ask, delivery.payload), activations=asked.activations) == asked
    for payload in (b"garbage", pack(answer(0)), pack(asked), pack(answer(1))):
        cloud.publish(topics.topic("robot", "r1", "answer"), payload)
    cloud.publish(topics.topic("robot", "r2", "answer"), pack(answer(2)))
    assert [one.number for one in line.answers()] == [0, 1]
    assert robot.receive(0) is None, "they do not reach the thread that trains"
    robot.connected = False
    assert not line.ask(asked)


def test_with_one_class_nobody_is_asked_and_nothing_is_said(cascade: Cascade) -> None:
    alone = replace(exit_says("mug", 0.0, unknown=True), classes=("mug",), probabilities=np.ones(1))
    decided = by_exit(cascade, 5.0, alone)
    assert (decided.name, decided.confidence) == ("", 0.0)


def test_a_cloud_that_knows_one_class_is_not_believed(cascade: Cascade) -> None:
    asked = ask(cascade, 5.0)
    decided = cascade.answer(answer(asked.number, "mug", 1.0), now=5.1)
    assert decided is not None
    assert (decided.name, decided.by) == ("cat", "exit")
