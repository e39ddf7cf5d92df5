from __future__ import annotations

from collections.abc import Collection

import pytest

from broker.errors import ConfigError
from broker.wire.messages import CommandResult
from robot_edge.teaching.choices import Choice, ChoiceAction, Choices
from robot_edge.teaching.lessons import LEARNED_SCENE, Teaching
from tests.robot_edge.teaching.test_questions import Asked


class World:
    """Three questions, and what is done with them."""

    def __init__(self) -> None:
        self.asked = Asked()
        for number in (1, 2, 3):
            self.asked.see(number)
        self.over = 0
        self.teaching = Teaching(self.asked.clock, over=self._over)
        self.removed: list[Collection[int]] = []
        self.choices = Choices(
            teaching=self.teaching,
            questions=self.asked,
            classes=lambda: ("mug",),
            remove=self._remove,
            keep=len,
        )

    def choose(self, action: ChoiceAction, *numbers: int, name: str = "") -> CommandResult:
        return self.choices.obey(Choice(id="c", action=action, numbers=frozenset(numbers), name=name))

    def _over(self) -> None:
        self.over += 1

    def _remove(self, numbers: Collection[int]) -> int:
        if 9 in numbers:
            raise ConfigError("these are all frames")
        self.removed.append(numbers)
        return len(numbers)


@pytest.fixture(name="world")
def _world() -> World:
    return World()


def test_frames_that_are_named_at_once_are_a_lesson_that_can_be_taken_back(world: World) -> None:
    result = world.choose("name", 1, 3, name="star")
    assert (result.ok, result.done, result.text) == (True, True, "learning 2 frames of 'star'")
    assert world.asked.shown == [2]
    assert world.over == 1
    taught = [world.teaching.next_frame() for _ in range(2)]
    assert [(one.label, one.session, one.time, one.scene) for one in taught if one] == [
        ("star", 1, 1.0, LEARNED_SCENE),
        ("star", 1, 3.0, LEARNED_SCENE),
    ]
    assert world.teaching.open is None
    last = world.teaching.last
    assert last is not None
    assert (last.frames, last.began) == (2, True)
    assert world.choose("name", 2, name="mug").ok
    undone = world.teaching.undo()
    assert undone is not None
    assert (undone.name, undone.began, world.teaching.waiting) == ("mug", False, 0)


def test_what_cannot_be_named_stays_a_question(world: World) -> None:
    assert not world.choose("name", 1, name="x" * 65).ok
    world.teaching.begin("cup", 10, known=False)
    refused = world.choose("name", 1, name="mug")
    assert not refused.ok
    assert refused.text == "'cup' is being taught for 10 more seconds: wait, or stop it"
    assert world.asked.shown == [1, 2, 3]
    world.asked.close([1])
    gone = world.choose("name", 1, name="mug")
    assert not gone.ok
    assert "not there any more" in gone.text


def test_questions_are_dismissed_and_taught_frames_forgotten_or_kept(world: World) -> None:
    assert world.choose("dismiss", 1, 2, 7).text == "2 frames dismissed"
    assert world.asked.shown == [3]
    assert not world.asked.see(1)
    assert world.choose("remove", 4, 5).text == "2 taught frames forgotten on this robot"
    assert world.removed == [{4, 5}]
    assert world.choose("keep", 4).text == "1 taught frame kept as taught"
    refused = world.choose("remove", 9)
    assert (refused.ok, refused.text) == (False, "these are all frames")
