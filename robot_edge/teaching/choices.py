"""What people want done with pictures that they chose on the page: frames to name, and taught ones to remove. No I/O.

A choice is no command on the wire: no picture leaves the robot, so nobody elsewhere could choose.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from broker.errors import ConfigError
from broker.program.plain_text import counted
from broker.wire.messages import CommandResult
from robot_edge.teaching.lessons import Teaching
from robot_edge.teaching.questions import Questions

ChoiceAction = Literal["name", "dismiss", "remove", "keep"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is wanted. id: as of a Command. numbers: of questions, or of taught frames. name: for questions.

    action: "name" makes a lesson of questions, "dismiss" asks them no more. Of taught frames in doubt, "remove" forgets
    them, and "keep" doubts them no more.
    """

    id: str
    action: ChoiceAction
    numbers: frozenset[int]
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Does what was chosen, or says why not.

    classes: returns those known. remove, keep: forget taught frames by their numbers, or doubt them no more, and
    return how many there were. remove raises ConfigError where a class would be left without any.
    """

    teaching: Teaching
    questions: Questions
    classes: Callable[[], tuple[str, ...]]
    remove: Callable[[Collection[int]], int]
    keep: Callable[[Collection[int]], int]

    def obey(self, choice: Choice) -> CommandResult:
        """Do what was chosen, and return what there is to say of it."""
        try:
            text = self._obey(choice)
        except ConfigError as error:
            return CommandResult(id=choice.id, ok=False, done=True, text=str(error)[:400])
        return CommandResult(id=choice.id, ok=True, done=True, text=text)

    def _obey(self, choice: Choice) -> str:
        match choice.action:
            case "name":
                return self._name(choice)
            case "dismiss":
                return f"{counted(self.questions.close(choice.numbers), 'frame')} dismissed"
            case "remove":
                return f"{counted(self.remove(choice.numbers), 'taught frame')} forgotten on this robot"
            case "keep":
                return f"{counted(self.keep(choice.numbers), 'taught frame')} kept as taught"

    def _name(self, choice: Choice) -> str:
        frames = [one.frame for one in self.questions.chosen(choice.numbers)]
        if not frames:
            raise ConfigError("these frames are not there any more: others came, or somebody has named them")
        lesson = self.teaching.give(choice.name, frames, known=choice.name in self.classes())
        self.questions.close(choice.numbers)
        return f"learning {counted(lesson.frames, 'frame')} of {lesson.name!r}"
