from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import pytest

from broker.messages import ActivationBatch, SplitSpec
from cloud_trainer.intake import REACH, Intake

SPLIT = SplitSpec(backbone="resnet18", cut="layer2", image_size=16, bits=4, bottleneck=2, shape=(2, 3, 3))

MakeBatch = Callable[..., ActivationBatch]


class Judge:
    """An intake that is asked by sequence alone."""

    def __init__(self, make_batch: MakeBatch) -> None:
        self.intake = Intake("b" * 16, SPLIT)
        self._batch = make_batch(["cat"], SPLIT)

    def __call__(self, sequence: int) -> str:
        return self.intake.judge(dataclasses.replace(self._batch, sequence=sequence))[0]


@pytest.fixture
def judge(make_batch: MakeBatch) -> Judge:
    return Judge(make_batch)


def test_each_message_is_accepted_once(judge: Judge) -> None:
    assert [judge(sequence) for sequence in (0, 1, 1, 2, 0, 2, 3)] == [
        *("accepted", "accepted", "duplicate", "accepted", "duplicate", "duplicate", "accepted"),
    ]


def test_gaps_and_another_order_lose_and_repeat_nothing(judge: Judge) -> None:
    order = list(range(200)) * 2
    random.Random(0).shuffle(order)
    accepted = [sequence for sequence in order if judge(sequence) == "accepted"]
    assert sorted(accepted) == list(range(200))


def test_a_gap_stays_open(judge: Judge) -> None:
    assert [judge(sequence) for sequence in (0, 5, 9)] == ["accepted"] * 3
    assert [judge(sequence) for sequence in (1, 2, 3, 4, 5, 6, 7, 8, 9)].count("accepted") == 7


def test_a_trainer_may_come_in_the_middle_of_a_run(judge: Judge) -> None:
    assert judge(10**6) == "accepted"
    assert judge(10**6 - 3) == "accepted"
    assert judge(10**6 + 1) == "accepted"
    assert judge(10**6) == "duplicate"


def test_what_is_far_ahead_is_rejected_and_changes_nothing(judge: Judge) -> None:
    judge(0)
    assert judge(REACH + 1) == "rejected"
    assert judge(2**53) == "rejected"
    assert judge(1) == "accepted"
    assert judge(REACH + 1) == "accepted"


def test_memory_is_bounded_and_what_is_long_past_counts_as_come(judge: Judge) -> None:
    for sequence in [*range(REACH), *range(2 * REACH - 1, 3 * REACH)]:  # with the widest gap there may be
        assert judge(sequence) == "accepted"
    held = [one for one in vars(judge.intake).values() if isinstance(one, set)]
    assert 0 < sum(map(len, held)) <= REACH
    assert judge(1) == judge(REACH) == "duplicate"
    assert judge(2 * REACH + 1) == "duplicate"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_size": 32}, "is not the one in the robot's state"),
        ({"bits": 5}, "is not the one in the robot's state"),
        ({"shape": (3, 3, 2)}, "is not the one in the robot's state"),
    ],
)
def test_a_batch_of_another_split_is_rejected(make_batch: MakeBatch, change: dict[str, object], reason: str) -> None:
    intake = Intake("b" * 16, SPLIT)
    other = dataclasses.replace(SPLIT, **change)  # type: ignore[arg-type]
    outcome, why = intake.judge(make_batch(["cat"], other))
    assert outcome == "rejected"
    assert reason in why
    assert intake.judge(make_batch(["cat"], SPLIT)) == ("accepted", ""), "the sequence is used up"


@pytest.mark.parametrize("change", [{"bits": 5}, {"shape": (3, 3, 2)}, {"shape": (2, 9)}, {"shape": (18,)}])
def test_a_batch_that_lies_about_its_split_is_rejected(make_batch: MakeBatch, change: dict[str, object]) -> None:
    intake = Intake("b" * 16, SPLIT)
    other = dataclasses.replace(SPLIT, **change)  # type: ignore[arg-type]
    lie = dataclasses.replace(make_batch(["cat"], other), split=SPLIT.fingerprint)
    outcome, why = intake.judge(lie)
    assert outcome == "rejected"
    assert f"{other.shape} at {other.bits} bits; the split has (2, 3, 3) at 4" in why
    assert intake.judge(make_batch(["cat"], SPLIT))[0] == "accepted"
