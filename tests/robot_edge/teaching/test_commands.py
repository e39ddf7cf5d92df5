from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from broker.wire.bounds import MAX_EDITS
from broker.wire.messages import Action, Change, ClassEdit, Command, CommandResult
from robot_edge.learning.framing import WHOLE, Region
from robot_edge.sources.frames import Frame
from robot_edge.sources.paced import Paced
from robot_edge.sources.sim import SimulatedCamera
from robot_edge.teaching.commands import Commands
from robot_edge.teaching.lessons import Teaching


class Robot:
    """What commands are carried out on."""

    def __init__(self, *, live: bool = True) -> None:
        self.now = 0.0
        self.classes: tuple[str, ...] = ("mug", "car")
        self.others: set[tuple[str, int]] = set()
        self.edited = 0
        self.edits: list[tuple[Change, str, str, int]] = []
        self.everywhere: list[bool] = []
        self.regions: list[Region] = []
        self.uses: list[str] = []
        self.source = Paced(SimulatedCamera(frames=9))
        self.teaching = Teaching(lambda: self.now)
        self.commands = Commands(
            teaching=self.teaching if live else None,
            source=self.source,
            classes=lambda: self.classes,
            has_other=lambda name, session: (name, session) in self.others,
            edit=self._edit,
            edits=lambda: self.edited,
            look=self._look if live else None,
            use=self._use if live else None,
        )

    def obey(self, action: Action, name: str = "", to: str = "", *, seconds: float = 10.0) -> list[CommandResult]:
        return self.commands.obey(Command(id="a", action=action, name=name, to=to, seconds=seconds))

    def look(self, region: str) -> list[CommandResult]:
        return self.commands.obey(Command(id="a", action="look", region=region))

    def see(self, count: int) -> None:
        for number in range(count):
            image = np.full((8, 8, 3), 20 * number, np.uint8)
            self.teaching.see(Frame(image=image, label=None, scene=0, time=0.0))

    def _use(self, which: str) -> str:
        self.uses.append(which)
        return f"uses {which}"

    def _look(self, region: Region) -> Region:
        self.regions.append(region)
        return region

    def _edit(self, change: Change, name: str, to: str, session: int, *, everywhere: bool = False) -> ClassEdit:
        self.edits.append((change, name, to, session))
        self.everywhere.append(everywhere)
        edit = ClassEdit(boot="0" * 16, sequence=0, number=1, change=change, name=name, to=to, session=session)
        self.teaching.apply(edit)
        return edit


def said(results: list[CommandResult]) -> list[tuple[bool, bool, str]]:
    return [(one.ok, one.done, one.text) for one in results]


def test_a_lesson_is_reported_when_it_begins_and_when_it_ends() -> None:
    robot = Robot()
    assert said(robot.obey("teach", "cup")) == [(True, False, "teaching 'cup' for 10 s")]
    robot.see(3)
    assert robot.commands.ended() == []
    robot.now = 10.0
    assert said(robot.commands.ended()) == [(True, True, "saw 3 frames of 'cup' that differ")]
    assert robot.commands.ended() == []


def test_a_lesson_that_saw_nothing_says_so() -> None:
    robot = Robot()
    robot.obey("teach", "cup")
    results = robot.obey("stop")
    assert said(results)[0] == (False, True, "saw nothing to learn 'cup' from: is the camera there?")
    assert said(results)[1][:2] == (True, True)


@pytest.mark.parametrize("action", ["pause", "step"])
def test_a_paused_robot_says_so_instead_of_being_taught_nothing(action: Action) -> None:
    robot = Robot()
    assert "paused" in robot.obey(action)[0].text
    (result,) = robot.obey("teach", "cup")
    assert not result.ok
    assert "resume it first" in result.text
    robot.obey("resume")
    assert robot.obey("teach", "cup")[0].ok


def test_two_who_teach_at_once_both_hear_why() -> None:
    robot = Robot()
    robot.obey("teach", "cup")
    ((ok, done, text),) = said(robot.obey("teach", "car"))
    assert (ok, done) == (False, True)
    assert "'cup' is being taught" in text


@pytest.mark.parametrize(
    ("known_before", "other", "gone"), [(False, False, "cup"), (False, True, ""), (True, True, "")]
)
def test_an_undo_takes_the_class_along_only_where_it_began_with_the_lesson(
    known_before: bool, other: bool, gone: str
) -> None:
    robot = Robot()
    if known_before:
        robot.classes += ("cup",)
    robot.obey("teach", "cup")
    robot.see(2)
    robot.others = {("cup", 1)} if other else set()
    results = robot.obey("undo")
    assert said(results) == [(False, True, "taken back"), (True, True, "took back 2 frames of 'cup'")]
    assert robot.edits == [("undo", gone, "", 1)]
    assert said(robot.obey("undo"))[0][:2] == (False, True)


def test_who_teaches_hears_that_the_class_was_forgotten_meanwhile() -> None:
    robot = Robot()
    robot.obey("teach", "mug")
    robot.see(2)
    assert said(robot.obey("forget", "car")) == [(True, True, "'car' is forgotten")], "nobody teaches that"
    results = robot.obey("forget", "mug")
    assert said(results) == [(False, True, "'mug' was forgotten meanwhile"), (True, True, "'mug' is forgotten")]
    assert (robot.teaching.open, robot.teaching.last, robot.teaching.waiting) == (None, None, 0)


def test_a_class_is_forgotten_everywhere_also_where_the_fleet_alone_knows_it() -> None:
    robot = Robot()
    assert "shares what it knows with no fleet" in robot.obey("forget-everywhere", "mug")[0].text
    robot.commands.fleet_classes = lambda: ("mug", "cup")
    assert "no class 'pot'; there are: car, cup, mug" in robot.obey("forget-everywhere", "pot")[0].text
    for name in ("mug", "cup"):
        (result,) = robot.obey("forget-everywhere", name)
        assert result.ok
        assert "here and in the fleet's half" in result.text
    robot.obey("forget", "car")
    assert robot.edits == [("forget", "mug", "", 0), ("forget", "cup", "", 0), ("forget", "car", "", 0)]
    assert robot.everywhere == [True, True, False]


@pytest.mark.parametrize(("action", "to"), [("rename", "cup"), ("merge", "car")])
def test_a_lesson_goes_on_under_the_other_name_of_its_class(action: Action, to: str) -> None:
    robot = Robot()
    robot.obey("teach", "mug")
    assert len(robot.obey(action, "mug", to)) == 1
    robot.see(2)
    robot.now = 10.0
    assert said(robot.commands.ended()) == [(True, True, f"saw 2 frames of '{to}' that differ")]


def test_an_undo_takes_back_the_lesson_that_saw_nothing_yet_and_not_the_one_before() -> None:
    robot = Robot()
    robot.obey("teach", "cup")
    robot.see(2)
    robot.obey("stop")
    robot.obey("teach", "car")
    assert said(robot.obey("undo")) == [(False, True, "taken back"), (True, True, "took back 0 frames of 'car'")]
    assert robot.edits == []
    assert said(robot.obey("undo")) == [(True, True, "took back 2 frames of 'cup'")]


@pytest.mark.parametrize(
    ("arguments", "edit"),
    [
        (("rename", "mug", "cup"), ("rename", "mug", "cup", 0)),
        (("merge", "mug", "car"), ("rename", "mug", "car", 0)),
        (("forget", "mug"), ("forget", "mug", "", 0)),
        (("rename", " mug ", " cup "), ("rename", "mug", "cup", 0)),
    ],
)
def test_classes_change(arguments: Any, edit: Any) -> None:
    robot = Robot(live=False)
    (result,) = robot.obey(*arguments)
    assert (result.ok, result.done) == (True, True)
    assert robot.edits == [edit]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("rename", "cup", "mug"), "no class 'cup'; there are: car, mug"),
        (("rename", "mug", "car"), "there is a class 'car' already: merge"),
        (("rename", "mug", ""), "class name ''"),
        (("rename", "mug", "?"), "forgotten samples"),
        (("merge", "mug", "mug"), "one class already"),
        (("merge", "mug", "cup"), "no class 'cup'"),
        (("forget", "cup"), "no class 'cup'"),
        (("teach", "x" * 70), "class name"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(arguments: Any, reason: str) -> None:
    robot = Robot()
    (result,) = robot.obey(*arguments)
    assert (result.ok, result.done) == (False, True)
    assert reason in result.text
    assert robot.edits == []


def test_a_robot_that_replays_is_not_taught() -> None:
    robot = Robot(live=False)
    for action in ("teach", "stop", "undo"):
        (result,) = robot.obey(action, "cup")
        assert not result.ok
        assert "--live" in result.text
    assert robot.commands.ended() == []


def test_a_replay_is_paused_stepped_and_resumed() -> None:
    robot = Robot(live=False)
    assert robot.obey("pause")[0].ok
    assert robot.source.next(0.0) is None
    assert robot.obey("step")[0].ok
    assert robot.source.next(0.0) is not None
    assert robot.source.next(0.0) is None
    assert robot.obey("resume")[0].ok
    assert robot.source.next(0.0) is not None


@pytest.mark.parametrize("action", ["undo", "rename", "merge", "forget"])
def test_more_edits_than_a_trainer_takes_are_refused_and_change_nothing(action: Action) -> None:
    robot = Robot()
    robot.obey("teach", "cup")
    robot.see(1)
    robot.obey("stop")
    robot.edited = MAX_EDITS
    ((ok, done, text),) = said(robot.obey(action, "mug", "car"))
    assert (ok, done) == (False, True)
    assert "--weights" in text
    assert robot.edits == []
    robot.edited -= 1
    assert said(robot.obey("undo"))[-1][0], "the lesson is there to be taken back"


def test_a_live_robot_looks_where_it_is_told_to() -> None:
    robot = Robot()
    kept = "what was taught before stays as it was seen"
    assert said(robot.look("25%,10%,50%,80%")) == [
        (True, True, f"looks at 25%,10%,50%,80% of each frame from now on; {kept}")
    ]
    assert said(robot.look("whole")) == [(True, True, f"looks at the whole frame from now on; {kept}")]
    assert robot.regions == [Region(25, 10, 50, 80), WHOLE]


@pytest.mark.parametrize("region", ["", "mug", "0%,0%,1%,1%", "90%,0%,20%,20%", "nan%,0%,20%,20%", "1," * 199])
def test_where_no_frame_is_nobody_looks(region: str) -> None:
    robot = Robot()
    (result,) = robot.look(region)
    assert not result.ok
    assert "region" in result.text
    assert robot.regions == []


def test_a_replay_looks_where_it_looked_at_first() -> None:
    (result,) = Robot(live=False).look("whole")
    assert not result.ok
    assert "a replay is given --look when it starts" in result.text


def test_a_robot_of_a_fleet_uses_the_exit_that_it_is_told_to() -> None:
    robot = Robot()
    assert said(robot.obey("use-own")) == [(True, True, "uses own")]
    assert said(robot.obey("use-fleet")) == [(True, True, "uses fleet")]
    assert robot.uses == ["own", "fleet"]
    (result,) = Robot(live=False).obey("use-own")
    assert not result.ok
    assert "start it with --fleet NAME" in result.text
