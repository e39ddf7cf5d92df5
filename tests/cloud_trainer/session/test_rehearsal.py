"""What an event says of idle rehearsal, and what is read of older logs."""

import pytest

from cloud_trainer.session.rehearsal import Rehearsal

IDLE = Rehearsal.idle(4, 40)
LAST = Rehearsal.idle(4, 4)
SETTLING = Rehearsal.settling(10, 36, test=True)
LESSON = Rehearsal.behind_a_lesson(4, 30, 100, anew=True, test=False)


@pytest.mark.parametrize(
    ("asked", "kind", "payload"),
    [
        (IDLE, "rehearse", b"4 40"),
        (LAST, "rehearse", b"4 4"),
        (SETTLING, "settle", b"10 36 1"),
        (LESSON, "rehearse", b"4 30 100 1 0"),
        (Rehearsal.behind_a_lesson(4, 4, 100, anew=False, test=False), "rehearse", b"4 4 100 0 1"),
        (Rehearsal.behind_a_lesson(1, 1, 1, anew=False, test=False), "rehearse", b"1 1"),
        (Rehearsal.settling(36, 36, test=False), "settle", b"36 36 0"),
    ],
)
def test_an_event_says_all_of_it(asked: Rehearsal, kind: str, payload: bytes) -> None:
    assert (asked.kind, asked.pack()) == (kind, payload)
    assert Rehearsal.unpack(kind, payload) == asked


def test_what_is_due_beyond_a_lessons_last_step_is_given_up() -> None:
    assert (IDLE.left, SETTLING.left, LESSON.left) == (36, 26, 26)


def test_the_last_step_of_all_is_tested() -> None:
    assert LAST.test
    assert not IDLE.test
    assert Rehearsal.behind_a_lesson(4, 4, 100, anew=False, test=False).test
