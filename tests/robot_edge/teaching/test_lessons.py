from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from broker.errors import MalformedMessage
from broker.wire.messages import Change, ClassEdit
from robot_edge.sources.frames import Frame
from robot_edge.teaching.lessons import MAX_WAITING, Teaching, TeachingRefused
from tests.saved_state import read_again


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def teaching(clock: Clock) -> Teaching:
    return Teaching(clock)


def frame(grey: int) -> Frame:
    return Frame(image=np.full((16, 16, 3), grey, np.uint8), label=None, scene=1, time=float(grey))


def edit(change: Change, name: str, to: str = "") -> ClassEdit:
    return ClassEdit(boot="0" * 16, sequence=0, number=1, change=change, name=name, to=to, session=0)


def show(teaching: Teaching, count: int, first: int = 0) -> list[bool]:
    return [teaching.see(frame(10 * number)) for number in range(first, first + count)]


def test_frames_are_called_by_the_name_while_the_lesson_lasts(teaching: Teaching, clock: Clock) -> None:
    assert not teaching.see(frame(0)), "nobody teaches"
    lesson = teaching.begin("mug", 10, known=False)
    assert (lesson.number, lesson.name, lesson.began) == (1, "mug", True)
    assert show(teaching, 3) == [True] * 3
    assert not teaching.see(frame(10)), "it was seen before"
    clock.now += 9.9
    assert teaching.seconds_left == pytest.approx(0.1)
    assert show(teaching, 1, first=5) == [True]
    clock.now += 0.1
    assert not teaching.see(frame(90))
    assert teaching.open is None
    ended = teaching.ended()
    assert ended is not None
    assert ended.frames == 4
    assert teaching.ended() is None, "it is said once"
    taught = list(iter(teaching.next_frame, None))
    assert [(one.label, one.session, one.time) for one in taught] == [("mug", 1, time) for time in (0, 10, 20, 50)]


def test_a_source_with_labels_teaches_where_it_is_trusted(clock: Clock) -> None:
    labelled = replace(frame(50), label="car")
    assert not Teaching(clock).see(labelled)
    teaching = Teaching(clock, trusts_source=True)
    assert teaching.see(labelled)
    assert not teaching.see(labelled), "it was seen before"
    assert not teaching.see(frame(90))
    teaching.begin("mug", 10, known=False)
    assert teaching.see(labelled), "who teaches knows better"
    taught = list(iter(teaching.next_frame, None))
    assert [(one.label, one.session) for one in taught] == [("car", 0), ("mug", 1)]


def test_what_no_class_may_be_called_is_not_learned(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    def check(name: str) -> None:
        if len(name) > 3:
            raise MalformedMessage(f"{name} is too long")

    teaching = Teaching(clock, trusts_source=True, check_name=check)
    assert not teaching.see(replace(frame(50), label="lorry"))
    assert "not learning what the source names: lorry is too long" in caplog.text
    with pytest.raises(TeachingRefused, match="lorry is too long"):
        teaching.begin("lorry", 10, known=False)
    assert teaching.see(replace(frame(50), label="car"))


def test_a_second_teacher_is_refused_unless_it_is_the_same_class(teaching: Teaching, clock: Clock) -> None:
    teaching.begin("mug", 10, known=False)
    with pytest.raises(TeachingRefused, match="'mug' is being taught for 10 more seconds"):
        teaching.begin("car", 10, known=False)
    clock.now += 6
    assert teaching.begin("mug", 10, known=True).number == 1
    assert teaching.seconds_left == 10
    clock.now += 10
    assert teaching.begin("car", 5, known=True).number == 2


@pytest.mark.parametrize("name", ["", " mug", "x" * 65, "x" * 10_000, "mug\n", "?"])
def test_what_no_class_can_be_called_is_refused(teaching: Teaching, name: str) -> None:
    with pytest.raises(TeachingRefused):
        teaching.begin(name, 10, known=False)
    assert teaching.open is None


@pytest.mark.parametrize("seconds", [0.0, -1.0, 3601.0, float("nan"), float("inf")])
def test_a_lesson_has_an_end(teaching: Teaching, seconds: float) -> None:
    with pytest.raises(TeachingRefused, match="teach for more than 0"):
        teaching.begin("mug", seconds, known=False)


def test_lessons_are_taken_back_from_the_last_one_on(teaching: Teaching) -> None:
    teaching.begin("mug", 10, known=False)
    show(teaching, 2)
    teaching.end()
    teaching.begin("car", 10, known=False)
    show(teaching, 3)
    undone = teaching.undo()
    assert undone is not None
    assert (undone.name, undone.frames, undone.number) == ("car", 3, 2)
    assert {one.label for one in iter(teaching.next_frame, None)} == {"mug"}
    assert teaching.undo() is not None
    assert teaching.undo() is None
    assert teaching.begin("star", 10, known=False).number == 3, "a number is never given twice"


def test_a_lesson_without_frames_leaves_nothing_to_take_back(teaching: Teaching) -> None:
    teaching.begin("mug", 10, known=False)
    assert teaching.end() is not None
    assert teaching.undo() is None


def test_other_names_and_forgetting_reach_what_waits(teaching: Teaching) -> None:
    teaching.begin("mug", 10, known=False)
    show(teaching, 2)
    teaching.apply(edit("rename", "mug", "cup"))
    assert teaching.open is not None
    assert teaching.open.name == "cup"
    show(teaching, 1, first=7)
    assert teaching.end() == teaching.last
    assert teaching.last is not None
    assert teaching.last.name == "cup"
    teaching.begin("car", 10, known=False)
    show(teaching, 1)
    teaching.apply(edit("forget", "cup"))
    assert [one.label for one in iter(teaching.next_frame, None)] == ["car"]
    teaching.apply(edit("forget", "car"))
    assert teaching.open is None


def test_frames_that_nobody_learns_from_are_bounded(teaching: Teaching) -> None:
    teaching.begin("mug", 10, known=False)
    rng = np.random.default_rng(0)
    for _ in range(MAX_WAITING + 50):
        image = rng.integers(0, 256, (4, 4, 3), np.uint8).repeat(4, 0).repeat(4, 1)
        teaching.see(Frame(image=image, label=None, scene=0, time=0.0))
    assert teaching.waiting == MAX_WAITING


def test_lessons_outlast_the_process(teaching: Teaching, clock: Clock) -> None:
    teaching.begin("mug", 10, known=False)
    show(teaching, 2)
    teaching.end()
    again = Teaching(clock)
    again.restore(read_again(teaching.state()))
    assert again.last == teaching.last
    assert again.begin("car", 10, known=False).number == 2


def test_an_open_lesson_can_be_taken_back_by_the_next_process(teaching: Teaching, clock: Clock) -> None:
    teaching.begin("mug", 10, known=False)
    show(teaching, 2)
    clock.now += 10
    teaching.begin("star", 10, known=False)
    show(teaching, 3)
    again = Teaching(clock)
    again.restore(read_again(teaching.state()))
    undone = again.undo()
    assert undone is not None
    assert (undone.number, undone.name, undone.frames) == (2, "star", 3)
    assert again.begin("ball", 10, known=False).number == 3
