from __future__ import annotations

import json

import pytest

from hierarchy.continual import MOST_ACCURACIES, MOST_ROUNDS, AccuracyRounds


def three_rounds() -> AccuracyRounds:
    rounds = AccuracyRounds()
    rounds.add({"cat": 0.9})
    rounds.add({"cat": 0.5, "dog": 0.8})
    rounds.add({"cat": 0.6, "dog": 0.4, "ant": 1.0})
    return rounds


def test_the_figures_are_those_of_their_papers() -> None:
    figures = three_rounds().figures("exit")
    assert figures["exit_accuracy_matrix"] == {
        "classes": ["cat", "dog", "ant"],
        "rounds": [[0.9, None, None], [0.5, 0.8, None], [0.6, 0.4, 1.0]],
        "tests": [0, 0, 0],
    }
    assert figures["exit_final_average_accuracy"] == pytest.approx(2.0 / 3)
    assert figures["exit_average_incremental_accuracy"] == pytest.approx((0.9 + 0.65 + 2.0 / 3) / 3)
    assert figures["exit_forgetting"] == pytest.approx((0.9 - 0.6 + 0.8 - 0.4) / 2)
    assert figures["exit_backward_transfer"] == pytest.approx((0.6 - 0.9 + 0.4 - 0.8) / 2)


def test_what_practice_does_to_a_task_is_neither_forgetting_nor_transfer() -> None:
    rounds = AccuracyRounds()
    for number, row in enumerate(({"cat": 0.9}, {"cat": 0.3, "dog": 0.2}, {"cat": 0.8, "dog": 0.6}), start=1):
        rounds.add(row, number)
    figures = rounds.figures("exit")
    assert figures["exit_accuracy_matrix"]["tests"] == [1, 2, 3]
    assert figures["exit_average_incremental_accuracy"] == pytest.approx((0.9 + 0.7) / 2)
    assert figures["exit_forgetting"] == pytest.approx(0.9 - 0.8)
    assert figures["exit_backward_transfer"] == pytest.approx(0.8 - 0.9)


def test_one_round_tells_nothing_of_forgetting() -> None:
    rounds = AccuracyRounds()
    assert rounds.figures("exit") == {}
    rounds.add({})
    rounds.add({"cat": 0.5})
    assert set(rounds.figures("cloud")) == {
        "cloud_accuracy_matrix",
        "cloud_final_average_accuracy",
        "cloud_average_incremental_accuracy",
    }


def test_it_goes_on_from_its_state() -> None:
    other = AccuracyRounds(json.loads(json.dumps(three_rounds().rounds)))
    assert other.figures("exit") == three_rounds().figures("exit")


def test_rounds_that_are_tested_once_more_are_given_up_and_none_of_a_former_run() -> None:
    rounds = AccuracyRounds()
    for number in (1, 2):
        rounds.add({"cat": number / 10}, number)
    rounds.begin_run()
    for number in (1, 2, 3):
        rounds.add({"dog": number / 10}, number)
    rounds = AccuracyRounds(json.loads(json.dumps(rounds.rounds)))
    rounds.give_up(2)
    assert rounds.rows == [{"cat": 0.1}, {"cat": 0.2}, {"dog": 0.1}]


def test_classes_that_are_renamed_and_forgotten() -> None:
    rounds = three_rounds()
    rounds.rename("cat", "kitten", merged=False)
    rounds.remove("dog")
    assert rounds.figures("exit")["exit_accuracy_matrix"] == {
        "classes": ["kitten", "ant"],
        "rounds": [[0.9, None], [0.5, None], [0.6, 1.0]],
        "tests": [0, 0, 0],
    }


def test_of_two_classes_that_are_merged_the_one_that_stays_keeps_its_history() -> None:
    rounds = AccuracyRounds()
    for one in ({"cup": 0.1}, {"cup": 0.2, "mug": 0.9}, {"mug": 0.8}):
        rounds.add(one)
    rounds.rename("cup", "mug", merged=True)
    assert rounds.rows == [{"mug": 0.9}, {"mug": 0.8}], "before, there was no mug"


def test_a_round_whose_only_class_is_forgotten_is_none() -> None:
    rounds = three_rounds()
    rounds.remove("cat")
    assert len(rounds) == 2


def test_rounds_are_bounded() -> None:
    rounds = AccuracyRounds()
    for number in range(MOST_ROUNDS + 5):
        rounds.add({"cat": number / 2000})
    assert len(rounds) == MOST_ROUNDS
    assert rounds.figures("exit")["exit_accuracy_matrix"]["rounds"][-1] == [(MOST_ROUNDS + 4) / 2000]


def test_so_are_their_accuracies() -> None:
    rounds = AccuracyRounds()
    for number in range(60):
        rounds.add({f"class {index}": number / 60 for index in range(1000)})
    assert len(rounds) == MOST_ACCURACIES // 1000
    assert rounds.rows[-1]["class 0"] == 59 / 60
