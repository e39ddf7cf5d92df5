"""What trains, as ingest sees it: actors in other processes, through the board. No torch."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import replace

from broker.wire.codec import unpack_as
from broker.wire.messages import ClassEdit, RobotMetrics, RobotState
from cloud_trainer.cluster.board import Board, News
from cloud_trainer.cluster.reports import Report
from cloud_trainer.config import TrainerConfig
from cloud_trainer.logs import is_shared, log_of
from cloud_trainer.robots.entry import Preparation, Verdict, why_apart
from cloud_trainer.robots.intake import Intake
from cloud_trainer.robots.robot import Robot
from cloud_trainer.robots.standing import Standing
from cloud_trainer.session.batches import InflatedBatch
from cloud_trainer.store.log import Store

# How often the board is asked what is new.
LOOK_SECONDS = 0.2
# A log that messages are stored in is to be looked at, and this is said again so often. An actor looks for longer.
WAKE_SECONDS = 10.0
# A robot that has gone, or fell silent, is no longer known here after so long. What it sends then makes it known again.
FORGET_SECONDS = 60.0


class RemoteLog:
    """The training of one log, which an actor does; the members are described at `NetworkTraining`."""

    def __init__(self, log: str) -> None:
        self.log = log
        self.start = b""
        self.standings: Mapping[str, Standing] = {}
        self.stored = Counter[str]()
        self.trained = Counter[str]()
        self.stuck = ""
        self.too_costly = False
        self.rests = False
        self.has_begun = True
        self.steps = 0
        self.saved_at = 0
        self._since: dict[str, deque[int]] = {}  # batches stored from here that no report knows of yet

    def knows_edit(self, _robot: str, _edit: ClassEdit) -> bool:
        return False  # one that is stored once more does nothing

    def note_grown(self, event: int) -> None:
        pass  # its actor was woken before the event was committed

    def note_stored(self, robot: str, event: int) -> None:
        """Note that a batch was stored from here."""
        self._since.setdefault(robot, deque()).append(event)

    def save_soon(self) -> None:
        pass  # the actor is told that the robot has gone

    def begin_behind(self, event: int) -> None:
        raise NotImplementedError("only an actor enters starts")

    def take(self, robot: str, report: Report) -> None:
        """Take in how its training stands."""
        if report.standing:
            self.standings = {**self.standings, robot: report.standing}
        since = self._since.setdefault(robot, deque())
        while since and since[0] <= report.up_to:
            since.popleft()
        self.stored[robot], self.trained[robot] = report.waiting + len(since), 0
        self.stuck, self.steps, self.saved_at = report.stuck, report.steps, report.saved_at


class RemoteRobot(Robot):
    """A robot whose states others enter: each is put up, and waited for."""

    @property
    def _goes_on(self) -> bool:
        return False


class StoredBatches:
    """Keeps no batch: actors read them from the store. It tells logs what was stored in them."""

    def __init__(self, robots: Mapping[str, Robot]) -> None:
        self._robots = robots

    def keep(self, robot: str, event: int, _batch: InflatedBatch) -> None:
        training = self._robots[robot].training
        assert isinstance(training, RemoteLog)
        training.note_stored(robot, event)

    def drop(self, _robot: str) -> None:
        pass


class RemoteRobots:
    """The robots that have said something lately. The members are described at `Fleet`."""

    def __init__(self, config: TrainerConfig, board: Board, store: Store) -> None:
        self.robots: dict[str, Robot] = {}
        self.batches = StoredBatches(self.robots)
        self._config = config
        self._board = board
        self._store = store
        self._logs: dict[str, RemoteLog] = {}
        self._intakes: dict[str, Intake] = {}

    def meet(self, name: str, now: float = 0.0) -> Robot:
        """Return a robot that has said something, with what is known of it."""
        self._log(name)
        robot = self.robots[name] = RemoteRobot(name, self._logs, since=now)
        if known := self._board.known(name):
            self.hear(known)
            if metrics := self._store.metrics(name):
                robot.metrics = unpack_as(RobotMetrics, metrics)
        return robot

    def give_up(self, name: str) -> None:
        """Know a robot no more."""
        robot = self.robots.pop(name)
        logs = {one.training.log for one in self.robots.values()} | set(self.robots)
        for log in {name, robot.training.log} - logs:
            self._logs.pop(log, None)
            self._intakes.pop(log, None)

    def give_up_classes(self, name: str, log: str) -> None:
        """Let classes that a robot alone taught in a log make room: its samples were taken out."""
        if log in self._intakes:
            self._intakes[log].leave(name)

    def enter(self, _name: str, _store: Store) -> int:
        """Enter nothing: that is for the actor."""
        return 0

    def hear(self, news: News) -> None:
        """Take in what is new of a robot's training."""
        if (robot := self.robots.get(news.robot)) is None:
            return
        if news.entered:
            robot.training = self._log(news.log)
            robot.entered = news.entered
            robot.boots.add(news.entered.boot)
            robot.intake = self._intake(news.log, news.entered)
        if news.report:
            report = Report.unpack(news.report)
            self._log(robot.training.log).take(news.robot, report)
            if robot.intake and report.standing:
                robot.intake.know(report.standing.classes)

    def _log(self, log: str) -> RemoteLog:
        return self._logs.setdefault(log, RemoteLog(log))

    def _intake(self, log: str, state: RobotState) -> Intake:
        before = self._intakes.get(log)
        if before is None or before.split != state.split:
            before = Intake(state.split, most_classes=self._config.most_classes, shared=is_shared(log))
            self._intakes[log] = before
        return before

    def tell_apart(self) -> None:
        """As `Fleet` does; and let go of robots that have gone, or fell silent."""
        now = time.monotonic()
        for name, robot in list(self.robots.items()):
            if now > max(robot.heard, robot.fed, robot.since) + FORGET_SECONDS and not robot.messages_waiting:
                self.give_up(name)
        there = {name: robot.state for name, robot in self.robots.items() if robot.online and robot.state}
        for name, state in there.items():
            if state.fleet:
                self.robots[name].apart = why_apart(name, state, there)


class ClusterSide:
    """Puts up what robots say, and takes in what their actors answer. The members are described at `Training`."""

    def __init__(self, config: TrainerConfig, board: Board, store: Store, number: int = 0) -> None:
        """Begin. number: of this ingest."""
        self.fleet = RemoteRobots(config, board, store)
        self._number = number
        self.reports: deque[tuple[str, str]] = deque()
        self.verdicts: deque[Verdict] = deque()  # actors act on theirs themselves
        self._board = board
        self._prepared: deque[Preparation] = deque()
        self._asked: dict[str, RobotState] = {}
        self._gone: set[str] = set()  # robots of which it was said that they have gone
        self._woken: dict[str, float] = {}
        self._next_look = 0.0

    def prepare(self, robot: str, state: RobotState, *, urgent: bool) -> None:
        """Put a state up, unless it is there already."""
        if self._asked.get(robot) != state:
            self._say(robot, state, online=True)
            self._asked[robot] = state

    def _say(self, robot: str, state: RobotState, *, online: bool) -> None:
        self._board.say(robot, log_of(robot, state), state, online=online, ingest=self._number)
        (self._gone.discard if online else self._gone.add)(robot)

    def take_prepared(self) -> Preparation | None:
        """Return an actor's oldest answer, once."""
        return self._prepared.popleft() if self._prepared else None

    def look(self) -> None:
        """Nothing: actors were told before the commit."""

    def expect(self, logs: set[str]) -> None:
        """Have actors look at logs for a while, as something is about to be committed to them. Raises StorageError."""
        now = time.monotonic()
        if due := [log for log in logs if now >= self._woken.get(log, -WAKE_SECONDS) + WAKE_SECONDS]:
            self._board.wake(due)
            self._woken |= dict.fromkeys(due, now)

    def turn(self, now: float) -> None:
        """Ask the board what is new, where that is due. Raises StorageError."""
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        for news in self._board.news(self._number):
            self._hear(news)
        for name, robot in self.fleet.robots.items():
            if robot.state and robot.entered and robot.online == (name in self._gone):
                self._say(name, robot.state, online=robot.online)
        self._woken = {log: at for log, at in self._woken.items() if now < at + WAKE_SECONDS}
        for name in [name for name in self._asked if name not in self.fleet.robots]:
            del self._asked[name]

    def _hear(self, news: News) -> None:
        self.fleet.hear(news)
        robot, state = self.fleet.robots.get(news.robot), self._asked.get(news.robot)
        if robot is None or state is None or news.answers < news.said:
            return
        del self._asked[news.robot]
        done = Preparation(robot=news.robot, state=state)
        if news.refused or news.waits:
            done = replace(done, refused=news.refused, waits=news.waits)
        self._prepared.append(done)
