from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from hierarchy.encoding import Encoding
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

    def see(
        self,
        number: int,
        guess: str = "",
        *,
        later: float = LOOK_SECONDS,
        image: Pixels | None = None,
        angle: float | None = None,
    ) -> bool:
        """angle: of its features, of a network that stands still."""
        self.clock.now += later
        image, encoding = noise(number) if image is None else image, None
        if angle is not None:
            encoding = Encoding(features=np.array([[np.cos(angle), np.sin(angle)]], np.float16), crossing=None)
        frame = Frame(image=image, label=None, scene=0, time=float(number), encoding=encoding)
        return self.offer(frame, lambda: image, guess=guess, confidence=0.3)

    @property
    def shown(self) -> list[int]:
        return [int(one.frame.time) for one in self.open]


def noise(number: int) -> Pixels:
    return np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def flat(shade: int) -> Pixels:
    return np.full((SIZE, SIZE, 3), shade, np.uint8)


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


def test_beyond_what_fits_goes_what_is_most_like_an_older_one_of_the_most_common_guess(asked: Asked) -> None:
    for shade, guess in ((0, "mug"), (103, "star"), (100, "mug"), (106, "mug")):
        assert asked.see(shade, guess, image=flat(shade))
    assert asked.see(200, "star", image=flat(200))
    assert asked.shown == [0, 103, 100, 200], "the star beside them is no mug"
    assert not asked.see(204, "star", image=flat(204)), "it adds nothing"
    assert asked.see(50, "", image=flat(50))
    assert asked.shown == [0, 103, 200, 50]


def test_what_is_unlike_by_its_features_is_kept_where_a_network_stands_still(asked: Asked) -> None:
    for number, angle in enumerate((0.0, 0.5, 0.7, 1.5)):
        assert asked.see(number, angle=angle)
    assert asked.see(4, angle=1.0)
    assert asked.shown == [0, 1, 3, 4]


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
