"""A session whose network stands still but for its head: features computed once, a fit to all of them."""

from __future__ import annotations

import dataclasses
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from broker.errors import MalformedMessage
from broker.wire.codec import pack
from broker.wire.messages import ActivationBatch, ClassEdit
from cloud_trainer.session import evaluation_rounds, still_learning
from cloud_trainer.session.session import Session
from cloud_trainer.session.session_state import SessionState
from cloud_trainer.session.still_learning import SETTLING_FITS, most_kept
from cloud_trainer.store.log import Event, Kind
from hierarchy.cloud import CloudSegment, CloudTrainer
from hierarchy.device import Compute
from tests.cloud_trainer.world import CPU, STATE, TinySegment, make_batch
from tests.saved_state import read_again

SPLIT = dataclasses.replace(STATE.split, bottleneck=0, bits=8)
CLASSES = ("cat", "dog", "ant", "fox")


class Robot:
    """A session on a network that stands still, and the log that it trains on."""

    def __init__(self, memory: int = 100) -> None:
        torch.manual_seed(0)
        segment = TinySegment(SPLIT, weights="none")
        segment.stands_still = True
        trainer = CloudTrainer(
            cast("CloudSegment", segment), compute=Compute(device=CPU), peak_learning_rate=0.1, seed=0
        )
        self.computed: list[int] = []
        features = trainer.features

        def counted(activations: NDArray[np.float32]) -> NDArray[np.float16]:
            self.computed.append(len(activations))
            return features(activations)

        trainer.features = counted  # type: ignore[method-assign]
        self.log: list[tuple[Kind, bytes]] = []
        self.session = Session(
            "r1",
            dataclasses.replace(STATE, split=SPLIT, rehearse=1.0, still=True),
            trainer,
            batch=8,
            memory=memory,
            seed=0,
            read=lambda events: [self.log[event - 1][1] for event in events],
            still=True,
        )

    def take(self, batch: ActivationBatch) -> None:
        self.apply("batch", pack(batch))

    def apply(self, kind: Kind, payload: bytes = b"") -> None:
        self.log.append((kind, payload))
        self.session.apply(Event(id=len(self.log), robot="r1", kind=kind, payload=payload))

    def lesson(self, number: int, name: str, count: int = 6) -> None:
        self.take(make_batch([name] * count, SPLIT, sequence=number, session=number))
        self.apply("flush")

    def test(self, names: tuple[str, ...], sequence: int = 90) -> float:
        each = [name for name in names for _ in range(8)]
        self.take(make_batch(each, SPLIT, sequence=sequence, evaluation=sequence))
        accuracy = self.session.members["r1"].rounds.newest.accuracy
        assert accuracy is not None
        return accuracy

    def end(self) -> SessionState:
        return self.session.checkpoint()


def same(one: SessionState, other: SessionState) -> bool:
    weights = zip(one.learner.weights.items(), other.learner.weights.items(), strict=True)
    return all(name == its and torch.equal(value, there) for (name, value), (its, there) in weights)


def test_each_class_is_known_behind_its_lesson_and_none_before_it_is_lost() -> None:
    robot = Robot()
    before = {name: value.clone() for name, value in robot.end().learner.weights.items()}
    for number, name in enumerate(CLASSES, start=1):
        robot.lesson(number, name)
        assert robot.test(CLASSES[:number], 90 + number) >= 0.8
        assert min(robot.session.members["r1"].rounds.newest.by_class.values()) >= 0.6
    after = robot.end().learner.weights
    assert {name for name, value in before.items() if not torch.equal(value, after[name])} == {
        "head.weight",
        "head.bias",
    }
    assert sum(robot.computed) == 4 * 6 + 8 * (1 + 2 + 3 + 4), "each sample once"
    robot.apply("rehearse", b"5 5")
    assert robot.session.network.idle_steps_due(0.5) == 0
    assert sum(robot.computed) == 4 * 6 + 8 * (1 + 2 + 3 + 4), "a test once more computes nothing"


def test_fits_behind_the_last_sample_come_to_an_end() -> None:
    robot = Robot()
    assert robot.session.network.idle_steps_due(0.5) == 0
    robot.lesson(1, "cat")
    assert robot.session.network.idle_steps_due(0.0) == 0, "--practice 0"
    assert robot.session.network.idle_steps_due(0.5) == SETTLING_FITS
    robot.apply("rehearse", b"4 5")
    assert robot.session.network.idle_steps_due(0.5) == 1
    robot.apply("rehearse", b"1 1")
    assert robot.session.network.idle_steps_due(0.5) == 0
    robot.lesson(2, "dog")
    assert robot.session.network.idle_steps_due(0.5) == SETTLING_FITS


def test_many_small_messages_are_worth_few_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(still_learning, "FITTED_ONCE_IN", 2)
    robot = Robot(memory=1000)
    for number in range(40):
        robot.take(make_batch(["cat", "dog"] * 4, SPLIT, sequence=number))
    assert robot.session.trainer.steps <= 12, "a fit for each half of what is known"
    assert robot.session.network.is_behind
    robot.apply("flush")
    assert not robot.session.network.is_behind


def test_a_killed_trainer_computes_the_same_features_and_ends_with_the_same_bits() -> None:
    def finish(robot: Robot) -> None:
        robot.lesson(3, "ant", 5)
        robot.take(make_batch(["fox"] * 3, SPLIT, sequence=4, session=4))
        robot.apply("flush")
        robot.apply("rehearse", b"5 5")

    straight = Robot()
    straight.lesson(1, "cat", 7)
    straight.take(make_batch(["dog"] * 5, SPLIT, sequence=2, session=2))  # which wait for the next
    saved = read_again(straight.end())
    again = Robot()
    again.log = list(straight.log)
    again.session.restore(saved)
    finish(straight)
    finish(again)
    assert same(straight.end(), again.end())
    assert straight.session.network.loss == again.session.network.loss


def test_a_lesson_that_is_taken_back_is_in_no_fit() -> None:
    robot, other = Robot(), Robot()
    for one in (robot, other):
        one.lesson(1, "cat")
        one.lesson(2, "dog")
    robot.lesson(3, "ant")
    undo = ClassEdit(boot=STATE.boot, sequence=9, number=1, change="undo", name="ant", to="", session=3)
    robot.apply("edit", pack(undo))
    assert robot.session.network.idle_steps_due(0.5) == SETTLING_FITS
    for one in (robot, other):
        one.apply("rehearse", b"5 5")
    assert robot.session.trainer.classes == ("cat", "dog")
    assert robot.test(("cat", "dog")) == other.test(("cat", "dog")) == 1.0


def test_features_that_nobody_needs_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(still_learning, "SLACK", 0)
    robot = Robot(memory=8)
    for number in range(1, 30):
        robot.lesson(number, CLASSES[number % 4], 4)
    assert robot.session.network.still
    assert len(robot.session.network.still._kept) <= 2 * 8 + 4
    assert robot.test(CLASSES) >= 0.7


def test_a_robot_that_sends_nothing_but_tests_costs_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(still_learning, "SLACK", 0)
    monkeypatch.setattr(still_learning, "MAX_TESTED_AGAIN", 16)
    monkeypatch.setattr(evaluation_rounds, "MAX_TESTED_AGAIN", 16)
    robot = Robot()
    robot.lesson(1, "cat")
    for number in range(30):
        robot.take(make_batch(["cat"] * 8, SPLIT, sequence=50 + number, evaluation=50 + number // 10))
    assert robot.session.network.still
    assert robot.session.members["r1"].rounds.evaluated == 80
    assert len(robot.session.network.still._kept) <= 2 * (6 + 16) + 8


def test_features_that_are_infinite_stop_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    robot = Robot()
    robot.lesson(1, "cat")

    def infinite(_activations: object) -> NDArray[np.float16]:
        raise MalformedMessage("these activations give infinite features")

    with monkeypatch.context() as broken:
        broken.setattr(robot.session.trainer, "features", infinite)
        for evaluation in (0, 1):
            robot.take(make_batch(["cat"] * 2, SPLIT, sequence=7 + evaluation, evaluation=evaluation))
            assert robot.session.problem == "these activations give infinite features"
    robot.lesson(2, "dog")
    assert not robot.session.problem
    assert robot.test(("cat", "dog")) == 1.0


def test_what_is_kept_is_bounded() -> None:
    assert most_kept(1280) == 25_000
