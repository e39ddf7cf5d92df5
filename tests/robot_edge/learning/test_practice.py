from __future__ import annotations

import pytest

from hierarchy.schedule import RISE
from robot_edge.learning.practice import MAX_PRACTICE, REPLAY_PRACTICE, SETTLING_STEPS, LivePractice, practice_steps
from tests.saved_state import read_again


@pytest.mark.parametrize(
    ("kept", "learned", "steps"),
    [
        (12_000, 5_000, 935),  # five epochs in batches of 64
        (12_000, 625, 625),  # not more than was learned
        (100, 5_000, REPLAY_PRACTICE),
        (12_000, 10, REPLAY_PRACTICE),
    ],
)
def test_a_replay_practises_some_epochs(kept: int, learned: int, steps: int) -> None:
    assert practice_steps(kept, 64, learned) == steps


def progress_of(practice: LivePractice) -> list[float | None]:
    taken = []
    while practice.due >= 1:
        taken.append(practice.take(lesson_open=False))
    return taken


def test_practice_ends_at_a_rate_of_nearly_nothing() -> None:
    practice = LivePractice(0.5)
    practice.learned(100)
    taken = progress_of(practice)
    assert len(taken) == practice.done == 50
    assert taken[0] == RISE
    assert taken == sorted(taken, key=lambda progress: progress or 0.0)
    assert (taken[-1] or 0.0) > 0.98


def test_in_a_lesson_the_rate_is_at_its_peak() -> None:
    practice = LivePractice(0.5)
    practice.learned(100)
    assert practice.take(lesson_open=True) is None
    assert (practice.due, practice.done) == (49, 1)


def test_what_is_due_is_bounded() -> None:
    practice = LivePractice(1.0)
    practice.learned(10 * MAX_PRACTICE)
    assert practice.due == MAX_PRACTICE


def test_a_lesson_leaves_enough_for_the_rate_to_fall() -> None:
    practice = LivePractice(0.01)
    practice.learned(100)
    practice.take(lesson_open=True)
    practice.lesson_over()
    assert practice.due == SETTLING_STEPS


def test_whoever_wants_no_practice_behind_lessons_has_some_behind_a_change() -> None:
    practice = LivePractice(0.0)
    practice.learned(100)
    practice.lesson_over()
    assert practice.due == 0
    practice.done = 7
    practice.class_changed()
    assert (practice.due, practice.done) == (SETTLING_STEPS, 0)


def test_it_goes_on_where_it_was() -> None:
    practice, other = LivePractice(0.5), LivePractice(0.5)
    practice.learned(41)
    practice.take(lesson_open=False)
    other.restore(read_again(practice.state()))
    assert (other.due, other.done) == (19.5, 1)
    assert progress_of(other) == progress_of(practice)
