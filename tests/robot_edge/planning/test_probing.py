"""Probing against a trainer that loses, delays, repeats and denies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from broker.errors import BrokerUnavailable, NoAnswer
from broker.link.inbox import Delivery
from broker.link.memory import MemoryBroker, MemoryLink
from broker.wire import topics
from broker.wire.codec import pack, unpack_as
from broker.wire.messages import Probe, ProbeResult, SplitSpec
from robot_edge.planning import probing as probing_module
from robot_edge.planning import question as question_module
from robot_edge.planning.probing import Prober, steady_rate
from robot_edge.planning.question import Question
from tests.messages import robot_state

SPLIT = SplitSpec(backbone="resnet18", cut="layer2", image_size=32, bits=4, bottleneck=16, shape=(16, 8, 8))

Answer = Callable[[Probe], list[ProbeResult]]


def result(probe: Probe, **changes: object) -> ProbeResult:
    answered = ProbeResult(boot=probe.boot, number=probe.number, seconds=0.0, samples=0, trouble="")
    return dataclasses.replace(answered, **changes)  # type: ignore[arg-type]


class Trainer(MemoryLink):
    """Answers a probe before it is published to the end, as it is told to."""

    def __init__(self, broker: MemoryBroker, answer: Answer) -> None:
        super().__init__(broker)
        self.answer = answer
        self.asked: list[Probe] = []

    def offer(self, delivery: Delivery) -> None:
        if delivery.topic != topics.topic("robot", "r1", "probe"):
            return
        probe = unpack_as(Probe, delivery.payload)
        self.asked.append(probe)
        for one in self.answer(probe):
            self.publish(topics.topic("robot", "r1", "probe-result"), pack(one))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {
        "CONNECT_SECONDS": 0.3,
        "ANSWER_SECONDS": 0.3,
        "FILL_SECONDS": 0.6,
        "BURST_SECONDS": 0.2,
        "LOST_SECONDS": 0.1,
        "DRAIN_SECONDS": 1.0,
    }.items():
        monkeypatch.setattr(probing_module, name, seconds)
    for name, seconds in {"AGAIN_SECONDS": 0.2, "KNOCK_SECONDS": 0.1, "DEAD_SECONDS": 0.5}.items():
        monkeypatch.setattr(question_module, name, seconds)


def prober_with(answer: Answer) -> tuple[Prober, Trainer]:
    broker = MemoryBroker()
    trainer = Trainer(broker, answer)
    return Prober(MemoryLink(broker), "r1"), trainer


def test_a_link_that_loses_now_and_then_is_measured_all_the_same() -> None:
    losing, _ = prober_with(lambda probe: [] if probe.number % 3 == 0 else [result(probe)])
    rate = losing.link_rate()
    assert rate.goodput > 1000
    assert 0 < rate.round_trip < 0.3


def test_a_link_that_loses_all_for_a_while_is_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Probe] = []

    def deaf_for_a_while(probe: Probe) -> list[ProbeResult]:
        heard.append(probe)
        return [] if len(heard) < 20 else [result(probe)]

    prober, _ = prober_with(deaf_for_a_while)
    assert prober._goodput() > 1000
    assert prober._open == {}, "nothing is remembered of what was lost"


def test_a_burst_at_first_does_not_flood_a_slow_link() -> None:
    answered: list[Probe] = []

    def burst(probe: Probe) -> list[ProbeResult]:
        answered.append(probe)
        return [result(probe)] if len(answered) <= 8 else []

    prober, trainer = prober_with(burst)
    prober._goodput()
    assert max(len(probe.rest) for probe in trainer.asked) <= 2 * max(len(probe.rest) for probe in answered[:8])


@pytest.mark.parametrize("since", [0.0, 0.5, 1.0, 2.5, 3.9])
@pytest.mark.parametrize("together", [1, 4])
def test_what_comes_together_took_the_time_before_it(together: int, since: float) -> None:
    arrivals = [(float(1 + second), 1000 // together) for second in range(10) for _ in range(together)]
    assert steady_rate(arrivals, since) == 1000


def test_a_burst_at_first_does_not_count() -> None:
    assert steady_rate([(0.1, 50_000), (0.2, 50_000), *((float(second), 1000) for second in range(1, 9))], 2.0) == 1000


def test_what_came_all_at_once_has_no_rate() -> None:
    assert steady_rate([(1.0, 1000)] * 3, 2.0) == 0
    assert steady_rate([(3.0, 1000)] * 3, 2.0) == 0


def test_what_is_on_the_way_is_waited_for_before_anything_else_is_sent() -> None:
    held: list[Probe] = []
    prober, trainer = prober_with(lambda probe: [])
    for _ in range(3):
        held.append(prober.probe())
        assert prober.send(held[-1])
    reads: list[float] = []
    read = prober.read

    def answering(timeout: float) -> None:
        reads.append(timeout)
        one = held.pop()
        trainer.publish(topics.topic("robot", "r1", "probe-result"), pack(result(one)))
        read(0.0)

    prober.read = answering  # type: ignore[method-assign]
    prober._drain([0, 1, 2])
    assert (len(reads), prober._open) == (3, {})


def test_a_link_that_carries_nothing_is_said() -> None:
    prober, _ = prober_with(lambda probe: [])
    with pytest.raises(NoAnswer, match="stopped answering"):
        prober.link_rate()
    with pytest.raises(NoAnswer, match="carried nothing"):
        prober._goodput()


def test_no_trainer_is_said() -> None:
    prober, _ = prober_with(lambda probe: [])
    with pytest.raises(NoAnswer, match="no cloud trainer answers"):
        prober.reach()


def test_a_broker_that_is_away_is_said() -> None:
    prober, _ = prober_with(lambda probe: [])
    prober._link.connected = False  # type: ignore[misc]
    with pytest.raises(BrokerUnavailable, match="the broker cannot be reached"):
        prober.reach()


def wait_for(question: Question) -> ProbeResult | None:
    while not question.over():
        question._prober.read(0.01)
    return question.result


def test_of_two_trainers_the_first_counts() -> None:
    prober, _ = prober_with(lambda probe: [result(probe, samples=64, seconds=s) for s in (0.1, 0.2)])
    found = wait_for(Question(prober, SPLIT, patience=1))
    assert found
    assert found.seconds == 0.1


def test_a_question_that_got_lost_is_asked_again() -> None:
    asked: list[Probe] = []

    def once_deaf(probe: Probe) -> list[ProbeResult]:
        if probe.split:
            asked.append(probe)
        return [] if probe.split and len(asked) == 1 else [result(probe, samples=64 if probe.split else 0)]

    prober, _ = prober_with(once_deaf)
    assert wait_for(Question(prober, SPLIT, patience=2))
    assert asked[0] == asked[1], "the same, so that a trainer that has answered need not time it again"


def test_a_busy_trainer_is_waited_for_and_then_left() -> None:
    prober, trainer = prober_with(lambda probe: [] if probe.split else [result(probe)])
    question = Question(prober, SPLIT, patience=1)
    assert wait_for(question) is None
    assert sum(probe.split is not None for probe in trainer.asked) > 2


def test_a_trainer_that_has_gone_ends_the_wait() -> None:
    prober, _ = prober_with(lambda probe: [])
    with pytest.raises(NoAnswer, match="stopped answering"):
        wait_for(Question(prober, SPLIT, patience=30))


def test_a_robot_that_runs_meanwhile_is_known() -> None:
    prober, trainer = prober_with(lambda probe: [result(probe)])
    prober.reach()
    assert not prober.robot_runs
    state = robot_state(SPLIT)
    for online in (True, False):
        trainer.publish(topics.topic("robot", "r1", "state"), pack(dataclasses.replace(state, online=online)))
        prober.reach()
        assert prober.robot_runs == online


def test_answers_to_others_and_garbage_mean_nothing() -> None:
    def confused(probe: Probe) -> list[ProbeResult]:
        return [result(probe, boot="f" * 16, samples=1), result(probe, number=probe.number + 1000, samples=1)]

    prober, trainer = prober_with(confused)
    probe = prober.probe()
    assert prober.send(probe)
    trainer.publish(topics.topic("robot", "r1", "probe-result"), b"\xc1")
    prober.read(0.0)
    assert prober.result(probe) is None
