"""One robot of a trainer: what it said of itself, whether its messages are taken, and its training."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from broker.errors import MalformedMessage, StorageError
from broker.wire.codec import pack
from broker.wire.messages import RobotMetrics, RobotState, TrainerMetrics
from cloud_trainer.logs import belongs_to, is_shared, is_taken_out, log_of
from cloud_trainer.robots.entry import Preparation, goes_on
from cloud_trainer.robots.intake import Intake
from cloud_trainer.robots.log_training import LogTraining
from cloud_trainer.robots.quarantine import Quarantine, doubt
from cloud_trainer.robots.standing import Standing
from cloud_trainer.robots.told import Told, no_metrics
from cloud_trainer.store.log import Store

# Rejected messages of a robot that are remembered, with reasons, for people to see.
MAX_REJECTIONS = 20

# Samples that wait for a full step are trained on when a robot has been silent for this long.
SILENCE_SECONDS = 3.0

# known: from the store only, it has said nothing to this process. preparing: its network is, or it waits for what that
# takes. waiting: it is let in, or would be, and nothing of it was trained on. refused, stuck, too costly, quarantined:
# nothing of it is taken now.
Phase = Literal["known", "preparing", "waiting", "training", "refused", "stuck", "too costly", "quarantined"]


log = logging.getLogger("cloud-trainer")


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """A message that was not taken. time: Unix seconds."""

    time: float
    robot: str
    reason: str


class Robot:
    """Belongs to the thread that takes messages in; ``training`` belongs to the one that trains. Others only read.

    state: the last that the robot said of itself; None before it said anything. online: whether it is there, as it said
    last. entered: the last state in its log. boots: of all states in its log. intake: what its batches are held
    against. prepared: how a session for ``state`` starts, which is not entered yet. start_entered: the last start that
    this process entered, which the session may not have come to. refused: why this state cannot be trained for. waits:
    what preparing waits for. since, heard, fed: monotonic time of the first message, of the last one, and of the last
    one that had anything to train on. dropped: messages that were dropped unread. apart: as in `why_apart`. told: what
    others were. joined: the last state in each log that it shared, until its samples were taken out; out: the run in
    which they were, by log. why_out: what a person reads of that, empty where it asked for it itself.
    """

    def __init__(self, name: str, trainings: Mapping[str, LogTraining], since: float = 0.0) -> None:
        """trainings: of all logs, by name, the robot's own among them."""
        self.name = name
        self.training = trainings[name]
        self.state: RobotState | None = None
        self.online = False
        self.entered: RobotState | None = None
        self.boots: set[str] = set()
        self.intake: Intake | None = None
        self.prepared: Preparation | None = None
        self.start_entered = b""
        self.refused = ""
        self.waits = ""
        self.quarantine = Quarantine()
        self.rejections: deque[Rejection] = deque(maxlen=MAX_REJECTIONS)
        self.since = since
        self.heard = 0.0
        self.fed = 0.0
        self.dropped = 0
        self.metrics: RobotMetrics | None = None
        self.apart = ""
        self.told = Told()
        self.joined: dict[str, RobotState] = {}
        self.out: dict[str, str] = {}
        self.why_out = ""
        self._trainings = trainings

    # What it says

    def say(self, state: RobotState) -> None:
        """Take in a state of another process of the robot."""
        self.state, self.refused, self.waits = state, "", ""

    def hear_state(self, state: RobotState, now: float) -> bool:
        """Take in a state; return whether it is of another process. Raises MalformedMessage for another split."""
        if state.boot in self.boots and self.entered and state.boot != self.entered.boot:
            return False  # of a former start, come late: going back to it would throw away what was learned since
        self.heard, self.online = now, True
        if self.state is None or self.state.boot != state.boot:
            self.say(state)
            return True
        if (self.state.split, self.state.front) != (state.split, state.front):
            raise MalformedMessage("it changed its split while it ran")
        if self.entered != state:
            self.state = state  # more of its edits may have been taken meanwhile, by the trainer before this one
        return False

    def leave(self, now: float) -> None:
        """Note that it has gone, so that nothing more to train on is coming."""
        self.online, self.fed = False, now - SILENCE_SECONDS
        self.training.save_soon()

    def feed(self, now: float) -> None:
        """Note that something to train on came, or that it has time to send some."""
        self.heard = self.fed = now

    def hear_metrics(self, metrics: RobotMetrics) -> bool:
        """Take in what it says of how it is doing; whether that is of its present process."""
        if self.state is None or self.state.boot != metrics.boot:
            return False
        self.metrics = metrics
        return True

    # Whether it is let in

    def phase(self, now: float) -> Phase:
        """Return what its training is at. now: monotonic seconds."""
        if self.training.stuck:
            return "too costly" if self.training.too_costly else "stuck"
        if self.refused:
            return "refused"
        if self.quarantine.reason(now):
            return "quarantined"
        if self.waits or self.must_prepare:
            return "preparing"
        if self.training.steps:
            return "training"
        return "known" if self.state is None else "waiting"

    def problem(self, now: float) -> str:
        """Return why its messages are not taken; empty where they are."""
        return self.training.stuck or self.refused or self.quarantine.reason(now) or self.waits

    def is_shut_out(self, now: float) -> bool:
        """Whether nothing of it is taken, and nothing answered, however long it waits."""
        return bool(self.training.stuck or self.refused or self.quarantine.reason(now))

    @property
    def has_trained(self) -> bool:
        """Whether it has anything in the store."""
        return self.entered is not None

    @property
    def must_prepare(self) -> bool:
        """Whether a network has to be prepared for its state before that may enter its log."""
        if self.state is None or self.refused or self.entered == self.state or not self._may_enter:
            return False
        return not self._goes_on and (self.prepared is None or self.prepared.state != self.state)

    @property
    def log(self) -> str:
        """The name of the log that its state belongs to: its own where its samples were taken out in the same run."""
        log = log_of(self.name, self.state) if self.state else self.training.log
        return self.name if self.state and self.out.get(log) == self.state.run else log

    @property
    def taken_out(self) -> str:
        """Why it has a half of its own though it wants to share; empty where its samples were not taken out."""
        if not self.state or self.state.run != self.out.get(log_of(self.name, self.state)):
            return ""
        return (
            f"{self.why_out or f'what it taught was taken out of fleet {self.state.fleet}'}; it has a half of its own "
            "until it begins another run (another --run-dir)"
        )

    def training_of(self, log: str) -> LogTraining | None:
        """Return a log's training, where that is known here."""
        return self._trainings.get(log)

    @property
    def wants_back(self) -> list[str]:
        """The logs that it shared, where it wants its samples taken out."""
        return list(self.joined) if self.state and self.state.share == "withdraw" else []

    @property
    def _goes_on(self) -> bool:
        """Whether there is the network that its state belongs to, and it is at work."""
        if self.state is None:
            return False
        if is_shared(self.log):
            shared = self._trainings.get(self.log)
            return shared is not None and shared.has_begun and not shared.rests
        return self.entered is not None and self.training.log == self.name and goes_on(self.state, self.entered)

    @property
    def _may_enter(self) -> bool:
        """Whether its state may enter its log: not behind what cannot be trained on, unless it begins anew."""
        its = self._trainings.get(self.log)
        return its is None or not its.stuck or (its.too_costly and not self._goes_on)

    @property
    def enters(self) -> bool:
        """Whether its state may enter its log now."""
        return not (self.must_prepare or self.refused) and self._may_enter

    @property
    def is_prepared(self) -> bool:
        """Whether its state begins a network, or wakes one."""
        return self.prepared is not None and self.prepared.state == self.state

    def note(self, prepared: Preparation) -> None:
        """Let it begin a network, or refuse it, unless it has said another state meanwhile."""
        if self.state != prepared.state:
            return
        if prepared.refused:
            self.refuse(prepared.refused)
        else:
            self.prepared, self.waits = prepared if prepared.cost else None, prepared.waits

    def refuse(self, reason: str) -> None:
        """Take nothing of it, in this state of it, for a reason."""
        log.warning("robot %s cannot be trained for: %s", self.name, reason)
        self.prepared, self.refused, self.waits = None, reason, ""

    @contextmanager
    def entering(self) -> Iterator[None]:
        """Stay at the former entry where the disk does not take a new one."""
        before = self.entered, self.intake, self.training, dict(self.joined), dict(self.out)
        try:
            yield
        except StorageError:
            self.entered, self.intake, self.training, self.joined, self.out = before
            raise
        if self.entered:
            self.boots.add(self.entered.boot)

    def rejoin(self, store: Store) -> int:
        """Enter that it goes on with the network that it has; return the event. Nothing is committed.

        Raises StorageError.
        """
        assert self.state is not None
        event = store.append(self.name, "rejoin", pack(self.state))
        self.entered = self.state
        return event

    def join(self, training: LogTraining, intake: Intake, store: Store) -> int:
        """Enter that it shares a network that others began, or itself; return the event. Nothing is committed.

        Raises StorageError.
        """
        assert self.state is not None
        self.prepared = None
        event = store.append(training.log, "join", pack(self.state), self.name)
        self.training, self.entered, self.intake = training, self.state, intake
        self._note_entered(training.log, self.state)
        return event

    def take_out(self, log: str, store: Store, why: str = "") -> int:
        """Enter into a log that it shared that its samples are taken out; return the event. Nothing is committed.

        why: where it did not ask for it. Raises StorageError.
        """
        state: RobotState = replace(self.joined[log], share="withdraw")
        event = store.append(log, "join", pack(state), self.name)
        self._note_entered(log, state)
        if self.training.log == log:  # what comes next begins a network of its own
            self.training, self.entered, self.intake, self.why_out = self._trainings[self.name], None, None, why
        return event

    def _note_entered(self, log: str, state: RobotState) -> None:
        if is_taken_out(log, state):
            self.joined.pop(log, None)
            self.out[log] = state.run
        elif is_shared(log):
            self.joined[log] = state
            self.out.pop(log, None)

    def begin(self, training: LogTraining, intake: Intake, store: Store) -> int:
        """Enter that it begins the network that is prepared; return the event. Nothing is committed.

        Raises StorageError.
        """
        assert self.state is not None
        assert self.prepared is not None
        assert self.prepared.start is not None
        self.start_entered = replace(self.prepared.start, state=self.state).pack()
        self.prepared = None
        event = store.append(training.log, "start", self.start_entered, self.name)
        if training.too_costly:  # until the event is committed there is nothing to train on
            training.begin_behind(event - 1)
            training.stored[self.name] = training.trained[self.name]
        self.training, self.entered, self.intake = training, self.state, intake
        self._note_entered(training.log, self.state)
        return event

    def resume(
        self,
        states: Sequence[tuple[str, RobotState]],
        training: LogTraining,
        intake: Intake | None,
        metrics: RobotMetrics | None,
    ) -> None:
        """Know what the store has of it.

        states: entered, and in which logs. training, intake: of the log that it belongs to; its own training, and None,
        where its samples were taken out and it has not entered another one. metrics: that it said last.
        """
        self.training, self.intake, self.metrics = training, intake, metrics
        for log, state in states:
            self._note_entered(log, state)
        belongs = belongs_to(states)
        self.entered, self.boots = belongs[1] if belongs else None, {state.boot for _, state in states}

    # What others are told

    def reject(self, reason: str, now: float, *, grave: bool = False) -> str:
        """Note a message that was not taken. Return why it is in quarantine, where that put it there."""
        self.rejections.append(Rejection(time=time.time(), robot=self.name, reason=reason))
        return self.quarantine.reason(now) if self.quarantine.bad(now, reason, grave=grave) else ""

    @property
    def refusal(self) -> str:
        """Why nothing is learned from it; empty where nothing speaks against it."""
        return self.refused or (self.rejections[-1].reason if self.rejections else "")

    @property
    def standing(self) -> Standing | None:
        """How its training stands; None before it began."""
        return self.training.standings.get(self.name)

    @property
    def messages_waiting(self) -> int:
        """How many batches in the log the session has not come to. Each side of it is counted by one thread."""
        return max(0, self.training.stored[self.name] - self.training.trained[self.name])

    @property
    def doubt(self) -> str:
        """Why what it sends seems to teach nothing; empty where it does."""
        if self.standing is None:
            return ""
        seen = self.standing.metrics
        return doubt(images=seen.images, recent=seen.cloud_recent, classes=seen.classes)

    def trainer_metrics(self, now: float) -> TrainerMetrics | None:
        """Return what others are told of its training; None where there is nothing to say."""
        problem, boot = self.problem(now), self.state.boot if self.state else ""
        # A robot looks for its own boot: one that is not let in must not be answered with the former one's metrics.
        standing = self.standing
        if standing is not None and not (problem and boot and boot != standing.metrics.boot):
            return replace(
                standing.metrics,
                messages_waiting=self.messages_waiting,
                messages_rejected=self.quarantine.rejected,
                quarantine=problem,
                apart=self.apart,
            )
        if not boot or not (problem or self.apart):
            return None
        its = no_metrics(self.name, boot, problem, waiting=self.messages_waiting, rejected=self.quarantine.rejected)
        return replace(its, apart=self.apart)
