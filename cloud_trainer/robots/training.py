"""The trainer's training thread: steps, preparing networks, idle rehearsal, checkpoints, each in turns.

A step of a large network takes seconds, so messages are taken in, receipted and answered for on another thread, which
is `node.py`. The log is between the two: one appends what came and commits it, the other trains on what it reads there.
Everything of a robot's session belongs to this thread; what others are told of it is a `Standing`, which is replaced as
a whole. What this thread finds out goes back through two queues.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque

import torch

from broker.errors import StorageError
from broker.link.base import Link
from broker.program.threads import LoudThread
from broker.wire.messages import RobotState
from cloud_trainer.answering.answers import Answerer
from cloud_trainer.answering.probes import Probes
from cloud_trainer.config import TrainerConfig
from cloud_trainer.exits.publisher import ExitPublisher
from cloud_trainer.logs import is_shared
from cloud_trainer.robots.contradictions import Contradictions
from cloud_trainer.robots.entry import Preparation, Verdict, goes_on
from cloud_trainer.robots.fleet import Fleet
from cloud_trainer.robots.robot import SILENCE_SECONDS
from cloud_trainer.session.session import Session
from hierarchy.device import choose_device
from hierarchy.runtime.run_folder import RunFolder

# After Ctrl-C, no robot's idle rehearsal is brought to an end later than this: people wait, and checkpoints take time.
SETTLING_SECONDS = 10.0
# How often it is seen to that the store has room.
ROOM_SECONDS = 5.0
# How often robots' accuracies by class are counted anew, for pages.
DETAILS_SECONDS = 1.0
# Without work, how long until it is looked again whether a robot has fallen silent.
IDLE_SECONDS = 0.2
# A step is refused if it takes a minute at best (cost.py). A turn that has gone on for so long will not end.
HELD_UP_SECONDS = 600.0

log = logging.getLogger("cloud-trainer")


class Training:
    """All robots' training. ``turn`` is called by the thread that start() begins, all else by the node's.

    reports: robots with what was wrong with an event of theirs, for the node to take out. verdicts: robots whose
    samples contradict those of their fleet, likewise. prepared: networks that robots may begin, or reasons why not,
    likewise. full: why the store takes no more, empty where it does.
    """

    def __init__(self, config: TrainerConfig, link: Link, folder: RunFolder, fleet: Fleet, boot: str) -> None:
        """boot: of this trainer's process."""
        self.fleet = fleet
        self.exits = ExitPublisher(link, boot)
        self.reports: deque[tuple[str, str]] = deque()
        self.verdicts: deque[Verdict] = deque()
        self.prepared: deque[Preparation] = deque()
        self.full = ""
        self.answerer = Answerer(link)
        self.probes = Probes(link, config.batch, choose_device(config.device))
        self.thread = LoudThread("training", self._run, restarts=False)
        self._contradictions = Contradictions()
        self._folder = folder
        self._practice = config.practice
        self._wanted: dict[str, RobotState] = {}  # networks to prepare
        self._urgent: set[str] = set()  # robots that have sent what waits for theirs
        self._asked: dict[str, RobotState] = {}  # those, and the one at work, until it is taken; the node's
        self._saves: deque[threading.Event] = deque()  # set when all is saved
        self._more = threading.Event()
        self._threads = torch.get_num_threads()
        self._began: float | None = None  # the present turn
        self._noted: dict[str, int] = {}  # images of each robot at the last line of metrics
        self._rest_until = self._next_look = self._next_details = 0.0
        for robot in fleet.robots.values():
            robot.feed(time.monotonic())  # time to come back before what waits is trained on

    def start(self) -> None:
        """Begin to train, and to answer."""
        self.answerer.start()
        self.probes.start()
        self.thread.start()

    def close(self, timeout: float | None = None) -> None:
        """Stop behind the present turn, waiting for that for so many seconds at most."""
        self._more.set()
        self.thread.close(timeout)
        self.probes.close()
        self.answerer.close()

    def prepare(self, robot: str, state: RobotState, *, urgent: bool) -> None:
        """Have a network prepared that a robot is about to begin, unless that is asked for already.

        urgent: messages of it wait for that. It comes before all that have said no more than a state, which costs
        nothing to say.
        """
        if urgent:
            self._urgent.add(robot)
        if self._asked.get(robot) != state:
            self._asked[robot] = self._wanted[robot] = state
            self._more.set()

    def take_prepared(self) -> Preparation | None:
        """Return what came of the oldest state that is prepared, once; None where there is none."""
        if not self.prepared:
            return None
        prepared = self.prepared.popleft()
        if self._asked.get(prepared.robot) == prepared.state:
            del self._asked[prepared.robot]
        return prepared

    def expect(self, logs: set[str]) -> None:
        """Nothing: ``look`` follows."""

    def look(self) -> None:
        """Look into the log at once: something was committed."""
        self._more.set()

    def held_up(self) -> str:
        """Return why nothing is trained on, where a turn does not end; else nothing."""
        began = self._began
        seconds = time.monotonic() - began if began is not None else 0.0
        return f"training has not come on for {seconds:.0f} s" if seconds > HELD_UP_SECONDS else ""

    def settle(self) -> None:
        """Let no network be saved as idle rehearsal in the middle of it has bent it, as far as there is time.

        To be called when the thread has ended.
        """
        until = time.monotonic() + SETTLING_SECONDS
        for name in self.fleet.trainings:
            if (left := until - time.monotonic()) > 0:
                self.fleet.settle(name, left)

    def save(self) -> None:
        """Have all robots' checkpoints written, behind what is being trained on, and wait for that.

        Raises StorageError where the disk does not take one, and what ended the thread.
        """
        saved = threading.Event()
        self._saves.append(saved)
        self._more.set()
        while not saved.wait(IDLE_SECONDS):
            self.thread.check()
        if error := self.fleet.disk.error("What has a receipt is in the store all the same"):
            raise error

    # The training thread

    def _run(self, ending: threading.Event) -> None:
        torch.set_num_threads(self._threads)  # which counts for one thread only; weights depend on it
        while not ending.is_set():
            self._more.clear()
            try:
                if self.turn():
                    continue
            except StorageError as error:  # as the store is away, and the trainer is about to end
                log.warning("training does not go on: %s", error)
            self._more.wait(IDLE_SECONDS)

    def turn(self) -> bool:
        """Do a second's worth of all that is due; whether there is more to do now."""
        self._began = time.monotonic()
        self._save_if_asked()
        if name := self.fleet.next_to_train():
            self._train(name)
        self.answerer.update(self._who_may_be_answered)
        self._prepare()
        now = time.monotonic()
        trainings, fed = dict(self.fleet.trainings), self.fleet.fed()
        training = any(trainings[name].session and now < at + SILENCE_SECONDS for name, at in fed.items())
        timed = self.probes.time_next(self.fleet.room.left, training=training, may_ask=self._may_ask)
        for name, one in trainings.items():
            silent = now > fed.get(name, -math.inf) + SILENCE_SECONDS
            one.finish_idle(lambda: not self.fleet.next_to_train(), silent=silent, deserted=name not in fed)
        if now >= self._next_look:
            self._next_look = now + ROOM_SECONDS
            self.full = self.fleet.make_room()
            self.fleet.disk.remind()
            self._folder.disk.remind()
        if now >= self._next_details:
            self._next_details = now + DETAILS_SECONDS
            for one in trainings.values():
                one.note_details()
        shared = self._sessions()
        if verdict := self._contradictions.turn(session for session, _ in shared):
            self.verdicts.append(verdict)
        more = not self.fleet.next_to_train() and self.exits.turn(shared, self._exit_of)
        self._began = None
        return timed or more or self._contradictions.at_work or bool(self.fleet.next_to_train())

    def _sessions(self) -> list[tuple[Session, bool]]:
        """Return the sessions that robots of a fleet share, each with whether it has learned all that came."""
        found = list[tuple[Session, bool]]()
        for training in dict(self.fleet.trainings).values():
            session = training.session
            if session and is_shared(session.log):
                is_behind = training.has_work or session.network.is_behind
                found.append((session, not (is_behind or session.network.idle_steps_due(self._practice))))
        return found

    def _exit_of(self, robot: str) -> int:
        """Return the version of its fleet's exit that a robot has said it has."""
        its = self.fleet.robots.get(robot)
        return its.metrics.exit_version if its and its.metrics else 0

    def _save_if_asked(self) -> None:
        if not self._saves:
            return
        for name, training in dict(self.fleet.trainings).items():
            training.finish_event()
            self.fleet.save(name)
        while self._saves:
            self._saves.popleft().set()

    def _prepare(self) -> None:
        now = time.monotonic()
        if not self._wanted or now < self._rest_until:
            return
        names = list(self._wanted)
        robot = next((name for name in names if name in self._urgent), names[0])
        state = self._wanted.pop(robot)
        self._urgent.discard(robot)
        # It measures, too, and its first activations come seconds later.
        self.prepared.append(self.fleet.preparer.prepare(robot, state))
        self._rest_until = 2 * time.monotonic() - now  # half of the time for all else

    @property
    def waits(self) -> bool:
        """Whether there is anything to train on, to prepare now, or to tell."""
        due = self._wanted and time.monotonic() >= self._rest_until
        return bool(
            due
            or self.prepared
            or self.reports
            or self.verdicts
            or self._contradictions.at_work
            or self.fleet.next_to_train()
        )

    def _train(self, name: str) -> None:
        training = self.fleet.trainings[name]
        steps = training.steps
        if problem := self.fleet.train(name):
            self.reports.append((problem.robot, problem.reason))
        if training.session and training.steps > steps:
            self._note(training.session)

    def _note(self, session: Session) -> None:
        """Write down how training on each robot's samples stands, where any were learned from."""
        for robot, member in session.members.items():
            its = member.prequential
            if is_shared(session.log) and its.count == self._noted.get(robot):
                continue
            self._noted[robot] = its.count
            self._folder.add_metrics(
                robot=robot,
                images=its.count,
                classes=len(session.trainer.classes),
                cloud_loss=session.network.loss,
                cloud_prequential=its.overall,
                cloud_recent=its.recent,
            )

    def _who_may_be_answered(self, robot: str) -> tuple[Session, frozenset[str]] | None:
        """Return the session that answers a robot's asks, and the boots whose front belongs to it; None for neither."""
        its = self.fleet.robots.get(robot)
        if its is None or its.state is None or its.is_shut_out(time.monotonic()):
            return None
        # A robot that only asks enters nothing into a log.
        shared = self.fleet.trainings.get(its.log) if is_shared(its.log) else None
        session = (shared or self.fleet.training_of(robot)).session
        if session is None:
            return None
        member = session.members.get(robot)
        belongs = shared or (member and goes_on(its.state, member.state))
        newest = {its.state.boot} if belongs else set()
        return session, frozenset(newest | ({member.state.boot} if member else set()))

    def _may_ask(self, robot: str) -> bool:
        its = self.fleet.robots.get(robot)
        return its is None or not its.quarantine.reason(time.monotonic())
