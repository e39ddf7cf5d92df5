"""What a trainer knows of one robot, apart from its training."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from broker.wire.messages import RobotMetrics, RobotState, SplitSpec, TrainerMetrics
from cloud_trainer.conduct import Conduct, doubt
from cloud_trainer.cost import Cost
from cloud_trainer.intake import Intake
from cloud_trainer.session import RobotSession, Work
from cloud_trainer.session_start import SessionStart
from cloud_trainer.store import Event

# Rejected messages of a robot that are remembered, with reasons, for people to see.
MOST_REJECTIONS = 20


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """A message that was not taken. time: Unix seconds."""

    time: float
    robot: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What came of a state: how its session starts and what that costs, why there can be none, or what it waits for."""

    robot: str
    state: RobotState
    start: SessionStart | None = None
    cost: Cost | None = None
    refused: str = ""
    waits: str = ""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a robot's training stands, for other threads than the one that trains.

    figures: without what only the record knows. split: of its network. by_class, confusion: of held-out frames.
    """

    figures: TrainerMetrics
    split: SplitSpec
    classes: tuple[str, ...]
    by_class: Mapping[str, float] = field(default_factory=dict)
    confusion: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(kw_only=True)
class RobotRecord:
    """One robot's record.

    state: the last that it said of itself; None for one that is only known from the store. online: what it said last,
    that it is there or that it is gone. entered: the last state in its log. boots: of all states in its log. intake:
    what its batches are held against, of that state. prepared: the start of a session for ``state`` that is not entered
    yet. start: the event that its session began with. start_entered: the last such event that this process entered,
    which its session may not have come to. session: its training, which may be events behind the log. refused: why this
    state of it cannot be trained for. stuck: why its log cannot be trained on any further, until this trainer is
    started again. since: monotonic time of its first message. dropped: messages that were dropped unread, as it sent
    too many. heard: monotonic time of its last message. fed: of the last one that had anything to train on.
    stored, trained: batches in the log, and those of them that the session has come to. standing: of the session. cost:
    of its network, None before there is one. too_costly: it is stuck as this trainer has no room for that, so another
    network may begin. skipped: the event up to which the log is not trained on, as it is of such a network, and a start
    behind it begins another one.
    cursor_saved, steps_saved: of the last checkpoint. save_when_idle: a checkpoint is due once the session has caught
    up with the log. forget_up_to: event up to which batches are deleted with the next checkpoint; 0 for none.
    forgetting: such a decision is in the log, and what it gives up is not deleted yet. event: that the session is at
    work on, and work: what is left of it, or of tidying the store. work_seconds: that it took by now. tidy: what no
    checkpoint needs is to be deleted. doubt_said: its last doubt in the log. idle_seconds: that a step of
    idle rehearsal took last; 0 before the first.
    """

    state: RobotState | None = None
    online: bool = False
    entered: RobotState | None = None
    boots: set[str] = field(default_factory=set)
    intake: Intake | None = None
    prepared: Preparation | None = None
    start: bytes = b""
    start_entered: bytes = b""
    session: RobotSession | None = None
    refused: str = ""
    waits: str = ""
    stuck: str = ""
    conduct: Conduct = field(default_factory=Conduct)
    rejections: deque[Rejection] = field(default_factory=lambda: deque(maxlen=MOST_REJECTIONS))
    since: float = 0.0
    dropped: int = 0
    heard: float = 0.0
    fed: float = 0.0
    stored: int = 0
    trained: int = 0
    standing: Standing | None = None
    cost: Cost | None = None
    too_costly: bool = False
    skipped: int = 0
    cursor_saved: int = 0
    steps_saved: int = 0
    save_when_idle: bool = False
    forget_up_to: int = 0
    forgetting: bool = False
    event: Event | None = None
    work: Work | None = None
    work_seconds: float = 0.0
    tidy: bool = False
    _detailed: int = -1
    images_reported: int = 0
    doubt_said: str = ""
    idle_seconds: float = 0.0
    metrics: RobotMetrics | None = None
    published: TrainerMetrics | None = None

    @property
    def has_trained(self) -> bool:
        """Whether it has a network, or anything in the store."""
        return self.session is not None or self.entered is not None

    @property
    def doubt(self) -> str:
        """Why what it sends seems to teach nothing; empty where it does."""
        if self.standing is None:
            return ""
        seen = self.standing.figures
        return doubt(images=seen.images, recent=seen.cloud_recent, classes=seen.classes)

    @property
    def cursor(self) -> int:
        """The id of the last event that was trained on."""
        return self.session.cursor if self.session else self.skipped

    @property
    def steps(self) -> int:
        """How many steps its network has taken."""
        return self.session.trainer.steps if self.session else 0

    @property
    def messages_waiting(self) -> int:
        """How many batches in the log the session has not come to. Each side of it is counted by one thread."""
        return self.stored - self.trained

    def note_standing(self) -> None:
        """Say how training stands; called by the thread that trains, behind each turn."""
        session, before = self.session, self.standing
        if session is None:
            self.standing = None
            return
        self.standing = Standing(
            figures=session.figures(messages_waiting=0, rejected=0, quarantine=""),
            split=session.state.split,
            classes=session.trainer.classes,
            by_class=before.by_class if before else {},
            confusion=before.confusion if before else {},
        )

    def note_details(self) -> None:
        """Add how well classes are told apart, which takes as long as there are pairs of them."""
        if self.session and self.standing and self.session.cursor != self._detailed:
            self._detailed = self.session.cursor
            held_out = self.session.held_out
            self.standing = replace(self.standing, by_class=held_out.by_class, confusion=held_out.confusion)

    def figures(self, robot: str, now: float) -> TrainerMetrics | None:
        """Return what others are told of the robot's training; None where there is nothing to say."""
        quarantine = self.stuck or self.refused or self.conduct.quarantine(now) or self.waits
        boot = self.state.boot if self.state else ""
        # A robot looks for its own boot: one that is not let in must not be answered with the former one's figures.
        standing = self.standing
        if standing is not None and not (quarantine and boot and boot != standing.figures.boot):
            return replace(
                standing.figures,
                messages_waiting=self.messages_waiting,
                messages_rejected=self.conduct.rejected,
                quarantine=quarantine,
            )
        if not boot or not quarantine:
            return None
        return TrainerMetrics(
            robot=robot,
            boot=boot,
            images=0,
            classes=0,
            cloud_loss=None,
            cloud_prequential=None,
            cloud_recent=None,
            cloud_accuracy=None,
            evaluation=0,
            evaluated=0,
            messages_trained=0,
            messages_waiting=self.messages_waiting,
            messages_rejected=self.conduct.rejected,
            quarantine=quarantine,
        )
