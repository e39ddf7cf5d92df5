from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from robot_edge.sources.frames import Frame, Pixels
from robot_edge.teaching.questions import LOOK_SECONDS, MAX_CLOSED, MAX_QUESTIONS, OLDEST_SECONDS, Questions

SIZE = 16


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


class Asked(Questions):
    """Questions, and what they are offered: frame N shows noise of its own."""

    def __init__(self, most: int = MAX_QUESTIONS) -> None:
        self.clock = Clock()
        super().__init__(self.clock, most)

    def see(self, number: int, guess: str = "", confidence: float = 0.3, *, later: float = LOOK_SECONDS) -> bool:
        self.clock.now += later
        image = noise(number)
        frame = Frame(image=image, label=None, scene=0, time=float(number))
        return self.offer(frame, lambda: image, guess=guess, confidence=confidence)

    @property
    def shown(self) -> list[int]:
        return [int(one.frame.time) for one in self.open]


def noise(number: int) -> Pixels:
    return np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


@pytest.fixture(name="asked")
def _asked() -> Asked:
    return Asked(most=4)


def test_what_differs_is_asked_once_and_not_again_when_it_was_named_or_dismissed(asked: Asked) -> None:
    assert asked.see(1)
    assert not asked.see(1), "it waits already"
    assert asked.see(2)
    assert asked.shown == [1, 2]
    assert len({one.mark for one in asked.open}) == 2
    first = asked.open[0]
    assert asked.close([first.number, 99]) == 1
    assert asked.shown == [2]
    assert not asked.see(1), "it was answered"
    assert asked.close([first.number]) == 0
    assert asked.chosen([first.number]) == []


def test_what_was_learned_meanwhile_may_be_asked_again(asked: Asked) -> None:
    asked.see(1)
    asked.drop([asked.open[0].number])
    assert asked.shown == []
    assert asked.see(1)


def test_a_class_edit_leaves_no_frame_of_a_class_that_is_gone_and_lets_answers_be_taken_back(asked: Asked) -> None:
    for number, guess in enumerate(("mug", "star", "", "mug")):
        asked.see(number, guess)
    asked.close([asked.open[3].number])
    asked.classes_changed(("star",))
    assert asked.shown == [1, 2]
    assert asked.see(3, "star"), "its answer may have been taken back"


def test_frames_are_compared_no_more_than_twice_a_second(asked: Asked) -> None:
    assert asked.see(1)
    assert not asked.see(2, later=LOOK_SECONDS / 2)
    assert asked.see(3, later=LOOK_SECONDS / 2)


def test_a_full_queue_gives_up_the_surest_of_the_most_common_guess(asked: Asked) -> None:
    for number, (guess, confidence) in enumerate([("mug", 0.1), ("mug", 0.7), ("", 0.0), ("", 0.0)]):
        assert asked.see(number, guess, confidence)
    assert not asked.see(4, "mug", 0.75), "the robot is surer of it than of all others like it"
    assert asked.see(5, "mug", 0.5)
    assert asked.shown == [0, 2, 3, 5], "the one of 0.7 went"
    assert not asked.see(6, "mug", 0.5), "what somebody looks at stays"
    assert asked.see(7, "star", 0.79)
    assert asked.shown == [0, 2, 3, 7], "one of its own kind stays, however sure"


def test_questions_age_and_hold_no_camera_frame(asked: Asked) -> None:
    large = np.zeros((4 * SIZE, 4 * SIZE, 3), np.uint8)
    part = large[:SIZE, :SIZE]
    part[:] = noise(1)
    frame = Frame(image=part, label=None, scene=0, time=1.0)
    assert asked.offer(frame, lambda: part.copy(), guess="", confidence=0.0)
    assert asked.open[0].frame.image.base is None
    asked.clock.now += OLDEST_SECONDS - 1
    assert asked.see(2, later=0.5)
    asked.clock.now += 1
    assert asked.shown == [2]
    assert asked.see(1), "it is asked anew"


def test_what_waits_and_what_is_remembered_is_bounded() -> None:
    asked = Asked()
    for number in range(MAX_QUESTIONS + 2 * MAX_CLOSED + 21):
        asked.see(number)
        if number % 2:
            asked.close([asked.open[-1].number])
    assert len(asked.open) == MAX_QUESTIONS
    assert len(asked._closed) == MAX_CLOSED
