"""What people ask of a running robot: lessons, other names for classes, the pace of a replay. No I/O of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from broker.errors import ConfigError, MalformedMessage
from broker.program.plain_text import counted
from broker.wire.bounds import MAX_EDITS, MAX_TEACH_SECONDS, check_class_name
from broker.wire.messages import Action, Change, ClassEdit, Command, CommandResult
from hierarchy.runtime.command_line import check_range
from robot_edge.learning.framing import WHOLE, Region, parse_region
from robot_edge.sources.frames import PacedSource
from robot_edge.teaching.lessons import Lesson, Teaching

# What changes classes that there are.
EDITING: frozenset[Action] = frozenset({"undo", "rename", "merge", "forget", "forget-everywhere"})


class Edit(Protocol):
    """Makes a class edit known to everybody who has to do with the class, and to the cloud."""

    def __call__(self, change: Change, name: str, to: str, session: int, *, everywhere: bool = False) -> ClassEdit: ...


@dataclass(kw_only=True, eq=False)
class Commands:
    """Does what a command says, or says why not.

    teaching: None for a robot that only replays. classes: returns the classes known. has_other: whether frames of a
    class are kept that another session taught. edit: carries out a class edit. edits: returns how many there were.
    look: looks at that region of each frame from now on, and returns it in percent; None where that cannot change.
    use: lets the robot's own exit answer alone from now on, or its fleet's beside it; None where it has no fleet.
    fleet_classes: returns the classes of its fleet's exit, as far as it is here; None where it shares nothing with one.
    check_name: raises MalformedMessage for what no class of this robot may be called.
    """

    teaching: Teaching | None
    source: PacedSource
    classes: Callable[[], tuple[str, ...]]
    has_other: Callable[[str, int], bool]
    edit: Edit
    edits: Callable[[], int]
    look: Callable[[Region], Region] | None = None
    use: Callable[[Literal["own", "fleet"]], str] | None = None
    fleet_classes: Callable[[], tuple[str, ...] | None] = lambda: None
    check_name: Callable[[str], object] = check_class_name
    _asked: dict[int, list[str]] = field(default_factory=dict)  # who asked for a lesson, by its number

    def obey(self, command: Command) -> list[CommandResult]:
        """Do what the command says. Return what there is to say about it, and about lessons that it ended."""
        try:
            return self._obey(command)
        except (ConfigError, MalformedMessage) as error:
            return [CommandResult(id=command.id, ok=False, done=True, text=str(error)[:400])]

    def ended(self) -> list[CommandResult]:
        """Return what there is to say of a lesson whose time is over."""
        lesson = self.teaching.ended() if self.teaching else None
        return self._reports(lesson) if lesson else []

    def _obey(self, command: Command) -> list[CommandResult]:
        name, to = command.name.strip(), command.to.strip()
        if command.action in EDITING and self.edits() >= MAX_EDITS:
            raise ConfigError(
                f"this run's classes were edited {MAX_EDITS:,} times, a trainer takes no more: begin another run, with "
                "--weights of this one"
            )
        match command.action:
            case "teach":
                return self._teach(command.id, name, command.seconds)
            case "stop":
                lesson = self._must_teach().end()
                reports = self._reports(lesson) if lesson else []
                return [*reports, _done(command, "teaching has stopped" if lesson else "nothing was being taught")]
            case "undo":
                return self._undo(command)
            case "rename":
                self._must_know(name)
                self._must_be_free(to)
                self.edit("rename", name, to, 0)
                return [_done(command, f"{name!r} is called {to!r} now")]
            case "merge":
                self._must_know(name)
                self._must_know(to)
                if name == to:
                    raise ConfigError(f"{name!r} is one class already")
                self.edit("rename", name, to, 0)
                return [_done(command, f"what was {name!r} is {to!r} now")]
            case "forget":
                self._must_know(name)
                return self._forget(command, name)
            case "forget-everywhere":
                others = self.fleet_classes()
                if others is None:
                    raise ConfigError(
                        "this robot shares what it knows with no fleet now: forget the class without --everywhere"
                    )
                self._must_know(name, others)
                return self._forget(command, name, everywhere=True)
            case "pause":
                self.source.pause()
                return [_done(command, "paused")]
            case "resume":
                self.source.resume()
                return [_done(command, "going on")]
            case "step":
                self.source.step()
                return [_done(command, "one frame further, and paused: resume lets it go on")]
            case "look":
                return [_done(command, self._look(parse_region(command.region)))]
            case "use-own":
                return [_done(command, self._use("own"))]
            case "use-fleet":
                return [_done(command, self._use("fleet"))]

    def _teach(self, id_: str, name: str, seconds: float) -> list[CommandResult]:
        teaching = self._must_teach()
        if self.source.paused:
            raise ConfigError("this robot is paused, so it sees nothing that it could learn: resume it first")
        reports = self.ended()
        lesson = teaching.begin(name, seconds, known=name in self.classes())
        asked = self._asked.setdefault(lesson.number, [])
        if id_ and id_ in asked:  # a button that is held says so all the time
            return reports
        asked.append(id_)
        text = f"teaching {name!r} for {teaching.seconds_left:.0f} s"
        return [*reports, CommandResult(id=id_, ok=True, done=False, text=text)]

    def _undo(self, command: Command) -> list[CommandResult]:
        lesson = self._must_teach().undo()
        if lesson is None:
            raise ConfigError("nothing was taught that could be taken back")
        if lesson.frames:
            begun = lesson.began and not self.has_other(lesson.name, lesson.number)
            self.edit("undo", lesson.name if begun else "", "", lesson.number)
        text = f"took back {counted(lesson.frames, 'frame')} of {lesson.name!r}"
        return [*self._refusals(lesson, "taken back"), _done(command, text)]

    def _forget(self, command: Command, name: str, *, everywhere: bool = False) -> list[CommandResult]:
        lesson = self.teaching.end(name) if self.teaching else None
        self.edit("forget", name, "", 0, everywhere=everywhere)
        reports = self._refusals(lesson, f"{name!r} was forgotten meanwhile") if lesson else []
        where = ", here and in the fleet's half; robots that were taught it themselves are told" if everywhere else ""
        return [*reports, _done(command, f"{name!r} is forgotten{where}")]

    def _look(self, region: Region) -> str:
        if self.look is None:
            raise ConfigError(
                "where to look cannot change here: a replay is given --look when it starts, and a recording keeps "
                "whole frames"
            )
        region = self.look(region)
        where = "the whole frame" if region == WHOLE else f"{region} of each frame"
        return f"looks at {where} from now on; what was taught before stays as it was seen"

    def _use(self, which: Literal["own", "fleet"]) -> str:
        if self.use is None:
            raise ConfigError(
                "this robot has its own exit alone: a fleet makes exits for live robots whose network stands still; "
                "start it with --fleet NAME"
            )
        return self.use(which)

    def _reports(self, lesson: Lesson) -> list[CommandResult]:
        differ = "differs" if lesson.frames == 1 else "differ"
        text = f"saw {counted(lesson.frames, 'frame')} of {lesson.name!r} that {differ}"
        if not lesson.frames:
            text = f"saw nothing to learn {lesson.name!r} from: is the camera there?"
        asked = self._asked.pop(lesson.number, [])
        return [CommandResult(id=id_, ok=lesson.frames > 0, done=True, text=text) for id_ in asked]

    def _refusals(self, lesson: Lesson, text: str) -> list[CommandResult]:
        """Return what those hear who asked for a lesson of which nothing is left."""
        asked = self._asked.pop(lesson.number, [])
        return [CommandResult(id=id_, ok=False, done=True, text=text) for id_ in asked]

    def _must_teach(self) -> Teaching:
        if self.teaching is None:
            raise ConfigError("this robot replays a recording, which has its own labels: start it with --live to teach")
        return self.teaching

    def _must_know(self, name: str, others: Sequence[str] = ()) -> None:
        if name not in (*self.classes(), *others):
            known = ", ".join(sorted({*self.classes(), *others})) or "none so far"
            raise ConfigError(f"there is no class {name!r}; there are: {known}")

    def _must_be_free(self, name: str) -> None:
        self.check_name(name)
        if name in self.classes():
            raise ConfigError(f"there is a class {name!r} already: merge makes one of both")


def new_command(
    action: Action, *, id_: str, name: str = "", to: str = "", seconds: float = 0.0, region: str = ""
) -> Command:
    """Return a command that somebody at this robot gives.

    Raises ConfigError or MalformedMessage for one that would not be let in from elsewhere either.
    """
    name, to = name.strip(), to.strip()
    for one in filter(None, (name, to)):
        check_class_name(one)
    check_range("seconds", seconds, 0, MAX_TEACH_SECONDS)
    region = str(parse_region(region)) if action == "look" else ""
    return Command(id=id_, action=action, name=name, to=to, seconds=seconds, region=region)


def _done(command: Command, text: str) -> CommandResult:
    return CommandResult(id=command.id, ok=True, done=True, text=text)
