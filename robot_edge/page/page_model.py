"""What a robot's loop and its page tell each other. No browser, no network being trained: values and a queue."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from broker.link.mailbox import Mailbox
from broker.wire.bounds import check_class_name
from broker.wire.messages import Action, Command, CommandResult
from hierarchy.runtime.page.history import Point
from robot_edge.inference.seeing_thread import View
from robot_edge.learning.framing import Framing
from robot_edge.sources.frames import Pixels
from robot_edge.teaching.choices import Choice, ChoiceAction
from robot_edge.teaching.commands import new_command
from robot_edge.teaching.questions import Questions

# Results of the last commands, for pages that are slow to fetch them; people give one at a time.
MAX_RESULTS = 200
# Choices that wait for the loop, which looks for them between two steps.
MAX_CHOICES = 100

# Returns the newest view beyond a number, waiting up to so many seconds for one: as SeeingThread.wait.
NextView = Callable[[int, float], View | None]


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """A class. frames: kept of it on the robot. accuracy: of the exit, on held-out frames; None before a test."""

    name: str
    frames: int
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class LessonRow:
    """A lesson that is being given. frames: kept of what was shown. seconds_left: until it ends by itself."""

    name: str
    frames: int
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class FleetRow:
    """The exit of the robot's fleet. text: what people read of it. use: which exits answer.

    forgotten: classes that the fleet has forgotten and that are known here.
    """

    text: str
    use: Literal["fleet", "own"]
    forgotten: tuple[str, ...] = ()


@dataclass(frozen=True)
class Thumbnail:
    """A frame of a class, uint8 (H, W, 3). mark: stands for it in URLs, so that no class name has to."""

    image: Pixels
    mark: str

    @classmethod
    def of(cls, image: Pixels) -> Thumbnail:
        """Return the thumbnail of a frame; the same mark for the same frame, so that browsers keep what stays."""
        return cls(image, hashlib.blake2b(image.tobytes(), digest_size=12).hexdigest())


@dataclass(frozen=True, kw_only=True)
class DoubtRow:
    """A taught frame of the class of that name whose label is in doubt. number: of the frame. why: for people."""

    number: int
    name: str
    why: str
    thumbnail: Thumbnail


@dataclass(frozen=True, kw_only=True)
class PageState:
    """What a page shows of a robot at one moment. Shares are of 1; None where not known yet.

    live: whether it can be taught. camera, link, outbox, quarantine: what is wrong with each, empty where nothing is.
    held_back: what to know of frames that may not go up yet, empty for nothing. undoable: the class of the lesson that
    an undo would take back, empty for none. goodput: bytes a second, None where not known. framing: what of a frame the
    network sees. history: Unix times with exit loss, cloud loss, exit and cloud prequential accuracy.
    """

    live: bool = True
    paused: bool = False
    camera: str = ""
    lesson: LessonRow | None = None
    undoable: str = ""
    classes: tuple[ClassRow, ...] = ()
    trainer_online: bool = False
    link: str = ""
    outbox: str = ""
    quarantine: str = ""
    held_back: str = ""
    goodput: float | None = None
    queued: int = 0
    dropped: int = 0
    images: int = 0
    images_per_second: float = 0.0
    bytes_per_image: float | None = None
    exit_accuracy: float | None = None
    cloud_accuracy: float | None = None
    framing: Framing | None = None
    fleet: FleetRow | None = None
    history: tuple[Point, ...] = ()


@dataclass
class PageModel:
    """Where the robot's loop pins up what is so, and where pages leave what they want done.

    robot: its name. commands: those that the loop obeys. state is replaced as a whole, so any thread may read it.
    next_view: None for a robot that only replays. thumbnails: by class. choices: what is chosen among pictures.
    questions: frames to be named; None for a robot that only replays. doubts: taught frames in doubt, replaced as a
    whole.
    """

    robot: str
    commands: Mailbox[Command]
    choices: Mailbox[Choice] = field(default_factory=lambda: Mailbox(MAX_CHOICES))
    questions: Questions | None = None
    doubts: tuple[DoubtRow, ...] = ()
    state: PageState = field(default_factory=PageState)
    next_view: NextView | None = None
    thumbnails: Mapping[str, Thumbnail] = field(default_factory=dict)
    _results: deque[tuple[int, CommandResult]] = field(default_factory=lambda: deque(maxlen=MAX_RESULTS))
    _told: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def give(
        self,
        action: Action,
        *,
        name: str = "",
        to: str = "",
        seconds: float = 0.0,
        region: str = "",
        id_: str = "",
    ) -> str:
        """Have a command obeyed, and return its id. id_: of a command that is given again.

        Before anybody is bothered with it, raises MalformedMessage for a name that no class can have, and ConfigError
        for a region that no frame has.
        """
        command = new_command(action, id_=id_ or new_id(), name=name, to=to, seconds=seconds, region=region)
        self.commands.put(command)
        return command.id

    def choose(self, action: ChoiceAction, numbers: Collection[int], *, name: str = "") -> str:
        """Have something done with pictures, and return the id of what comes of it.

        numbers: of questions, or of taught frames. Raises MalformedMessage for a name that no class can have.
        """
        name = name.strip()
        if action == "name":
            check_class_name(name)
        choice = Choice(id=new_id(), action=action, numbers=frozenset(numbers), name=name)
        self.choices.put(choice)
        return choice.id

    def picture(self, mark: str) -> Pixels | None:
        """Return the picture that a mark stands for, uint8 (H, W, 3); None where it is gone."""
        for thumbnail in (*self.thumbnails.values(), *(one.thumbnail for one in self.doubts)):
            if thumbnail.mark == mark:
                return thumbnail.image
        asked = self.questions.open if self.questions else ()
        return next((one.picture for one in asked if one.mark == mark), None)

    def tell(self, result: CommandResult) -> None:
        """Let pages know what came of a command, whoever gave it."""
        with self._lock:
            self._told += 1
            self._results.append((self._told, result))

    def results(self, after: int) -> tuple[int, list[CommandResult]]:
        """Return the number of the newest result, and those after the one with that number."""
        with self._lock:
            return self._told, [result for number, result in self._results if number > after]


class OwnResults:
    """The results of what one page asked for, out of all of them."""

    def __init__(self, page_model: PageModel, most: int = MAX_RESULTS) -> None:
        self._page_model = page_model
        self._seen = page_model.results(0)[0]
        self._most = most
        self._mine: OrderedDict[str, None] = OrderedDict()

    def expect(self, id_: str) -> None:
        """Wait for the results of that command."""
        self._mine[id_] = None
        if len(self._mine) > self._most:
            self._mine.popitem(last=False)

    def new(self) -> list[CommandResult]:
        """Return what came since the last time."""
        self._seen, results = self._page_model.results(self._seen)
        return [result for result in results if result.id in self._mine]


def new_id() -> str:
    """Return an id for a command that no other one has."""
    return f"page-{secrets.token_hex(8)}"
