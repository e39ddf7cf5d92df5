"""An actor: a process that trains on the logs that are its own, and has the networks of those in memory that are used.

An actor claims a log before it loads the log's network. So whoever trained on the log before writes nothing more into
it. A network that nobody uses is saved and let go of; its robots cost the disk only.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from broker.errors import ConfigError, MalformedMessage, StorageError, Superseded
from broker.link.connect import connect
from broker.program.threads import LoudThread
from broker.security.credentials import payload_keys_for
from broker.security.tls import credentials_for
from cloud_trainer.checkpoints import checkpoint_place
from cloud_trainer.cluster.asked import AskedLogs
from cloud_trainer.cluster.board import Board, Said
from cloud_trainer.cluster.config import ClusterConfig
from cloud_trainer.cluster.ingest import here
from cloud_trainer.cluster.reports import Report
from cloud_trainer.cluster.room import PagedRoom
from cloud_trainer.logs import log_of, title
from cloud_trainer.robots.fleet import Fleet
from cloud_trainer.robots.robot import Robot
from cloud_trainer.robots.training import Training
from cloud_trainer.store.opening import open_again
from hierarchy.device import choose_device, set_threads
from hierarchy.runtime.run_folder import RunFolder

# How often the board and the store are asked what is new.
LOOK_SECONDS = 0.2
REPORT_SECONDS = 0.5
# How often it says that it is there; a third of what makes it dead to others.
BEAT_SECONDS = 5.0
# A log that somebody wanted looked at is asked about for so long. Ingest says it anew each 10 s.
WATCH_SECONDS = 60.0
# A network that has nothing to do is let go of after so long: to load it again takes a part of a second.
RESIDENT_SECONDS = 30.0
# A log that another actor has not let go of yet is tried again so often.
RETRY_SECONDS = 1.0

# A log that cannot be gone on with, as its checkpoint is damaged, is tried again so often.
BROKEN_SECONDS = 60.0

LATE = "a later start of this robot is known"

log = logging.getLogger("cloud-trainer")


@dataclass(kw_only=True)
class Held:
    """A log whose network is in memory. newest: event that is known of. used: monotonic time."""

    newest: int = 0
    used: float = field(default_factory=time.monotonic)


class TrainingActor:
    """One of the processes. ``run`` is its loop; all but ``beat`` belongs to that thread."""

    def __init__(self, config: ClusterConfig, number: int, run_dir: Path) -> None:
        """Connect to broker and store. Raises ConfigError and StorageError."""
        self.name = f"{config.trainer}-{number}"
        self.replaced = False  # another process has this one's name by now
        self._config = config
        self._boot = secrets.token_hex(8)
        set_threads(config.threads)
        credentials = credentials_for(config.broker, config.credentials)
        keys = payload_keys_for(config.payload_key, credentials)
        device = choose_device(config.device)
        with ExitStack() as opened:
            self._store = opened.enter_context(closing(open_again(config.store, waits=True)))
            self._board = opened.enter_context(closing(Board(config.store)))
            self._beats = opened.enter_context(closing(Board(config.store)))
            folder = opened.enter_context(closing(self._folder(run_dir)))
            link = connect(config.broker, config.trainer, credentials=credentials, keys=keys)
            opened.callback(link.close)
            self._link = link
            plain = config.trainer_config
            self._fleet = Fleet(
                plain,
                self._store,
                run_dir,
                device,
                checkpoint_place(config.checkpoints or run_dir),
                room=lambda settings, batch, where: PagedRoom(settings, batch, where, self._make_room),
            )
            self.training = Training(plain, link, folder, self._fleet, self._boot)
            self._opened = opened.pop_all()
        self._asked = AskedLogs(self.training.answerer.asks, self._board, self.name)
        self._tells_costs = number == 0  # what networks would take: one answer is enough
        self._held: dict[str, Held] = {}
        self._watched: dict[str, float] = {}  # until when
        self._saved_at: dict[str, int] = {}  # of watched logs
        self._due: dict[str, None] = {}  # logs to load, one at a time
        self._retry_at: dict[str, float] = {}
        self._said: dict[str, Said] = {}  # not answered yet
        self._reported: dict[str, str] = {}
        self._next_look = self._next_report = 0.0
        self._beating = LoudThread("beats", self._beat, restarts=True)

    def _folder(self, run_dir: Path) -> RunFolder:
        """Return where this actor's metrics go. One that is taken for dead may still have the folder of its name."""
        about = {"trainer": self.name}
        try:
            return RunFolder(run_dir / self.name, about)
        except ConfigError:
            return RunFolder(run_dir / f"{self.name}-{self._boot}", about)

    # The loop

    def run(self, ending: threading.Event) -> None:
        """Train until it is told to end. Raises what ends it: its successor begins anew from the store."""
        with self._opened:
            self._begin()
            try:
                while not ending.is_set() and not self.replaced:
                    self._once(ending)
            finally:
                self._beating.close(BEAT_SECONDS)
                self.training.answerer.close()
                self.training.probes.close()
            if not self.replaced:
                self._finish()

    def _begin(self) -> None:
        self._board.join(self.name, "actor", self._boot, here())
        self._beating.start()
        self.training.answerer.start()
        if self._tells_costs:
            self.training.probes.start()
        owned, unsaved = self._board.owned(self.name), self._board.held(self.name)
        last = self._store.last_events(list(owned))
        behind = [one for one, saved in owned.items() if last.get(one, 0) > saved or one in unsaved]
        self._due |= dict.fromkeys(behind)
        log.info("actor %s: %d robots' logs, %d of them to go on with", self.name, len(owned), len(behind))

    def _once(self, ending: threading.Event) -> None:
        try:
            self.turn()
            self._train(ending)
        except Superseded as error:
            log.warning("%s", error)
            own = self._board.held(self.name)
            self._drop([name for name in self._held if name not in own])
        except StorageError as error:  # what was not committed comes once more
            log.warning("actor %s waits: %s", self.name, error)
            ending.wait(RETRY_SECONDS)

    def _train(self, ending: threading.Event) -> None:
        try:
            if not self.training.turn():
                ending.wait(LOOK_SECONDS)
        except StorageError:
            self._drop_torn()
            raise

    def turn(self) -> None:
        """Look at what is new, and say what is, as far as that is due. Raises StorageError and Superseded."""
        self._link.receive(0.0)  # raises what is wrong with the link
        self.training.exits.listen()
        if lost := [name for name in self._held if self._fleet.trainings[name].lost]:
            self._drop(lost)
        self._take_prepared()
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._look(now)
        if now >= self._next_report:
            self._next_report = now + REPORT_SECONDS
            self._report()
            self._let_idle_go(now)

    def _look(self, now: float) -> None:
        for one in self._board.moved(self.name):
            self._let_go(one)
        self._watch(self._board.woken(self.name))
        for said in self._board.said(self.name):
            self._hear(said, now)
        self._watched = {one: until for one, until in self._watched.items() if now < until}
        last = self._store.last_events([*self._held, *self._watched])
        for one, event in last.items():
            if held := self._held.get(one):
                if event > held.newest:
                    self._grow(one, held, event, now)
            elif event > self._saved_at.get(one, -1):
                self._due[one] = None
        self._due |= dict.fromkeys(self._asked.to_load(self._fleet.robots, now))
        for one in list(self._due):
            if self._hold(one, now):
                del self._due[one]
                break  # the others wait for their turns: each takes half a second
            if not self._board.is_of(one, self.name):
                del self._due[one]

    def _watch(self, logs: dict[str, int]) -> None:
        until = time.monotonic() + WATCH_SECONDS
        self._watched |= dict.fromkeys(logs, until)
        self._saved_at |= logs

    def _grow(self, name: str, held: Held, event: int, now: float) -> None:
        training = self._fleet.trainings[name]
        training.stored.update(self._store.count_batches(name, held.newest, event))
        training.note_grown(event)
        held.newest, held.used = event, now
        for robot in self._robots_of(name):
            robot.feed(now)

    def _robots_of(self, name: str) -> list[Robot]:
        return [robot for robot in self._fleet.robots.values() if robot.training.log == name]

    # Whose log it is

    def _hold(self, name: str, now: float) -> bool:
        """Claim a log and load its network; whether it is held now. Raises StorageError, and ConfigError."""
        if name in self._held:
            return True
        if now < self._retry_at.get(name, 0.0):
            return False
        if not self._board.hold(name, self.name, self._boot):
            self._retry_at[name] = now + RETRY_SECONDS
            return False
        try:
            self._fleet.take_up(name)
        except ConfigError as error:
            log.error("%s cannot be gone on with: %s", title(name), error)
            self._retry_at[name] = now + BROKEN_SECONDS
            self._fleet.drop(name)
            return False
        training, newest = self._fleet.trainings[name], self._store.last_event(name)
        training.stored.clear()  # more may have come meanwhile
        training.stored.update(self._store.count_batches(name, training.cursor, newest))
        training.note_grown(newest)
        self._held[name] = Held(newest=newest)
        for robot in self._robots_of(name):
            robot.feed(now)
            if robot.entered:  # what it asks belongs to that, until it says another state
                robot.say(robot.entered)
        self._retry_at.pop(name, None)
        return True

    def _let_go(self, name: str) -> bool:
        """Save a log's network, and let go of it; whether the disk took it. Raises StorageError and Superseded."""
        if name not in self._held:
            self._board.let_go(name, self.name, self._boot, -1)
            return True
        training = self._fleet.trainings[name]
        training.finish_event()
        if not training.save():
            return False
        if training.lost:
            self._drop([name])
            return True
        self._report()
        saved_at = training.saved.cursor if training.session else training.cursor
        self._saved_at[name] = saved_at
        self._forget(name)
        self._board.let_go(name, self.name, self._boot, saved_at)
        return True

    def _forget(self, name: str) -> None:
        self._held.pop(name, None)
        for robot in self._robots_of(name):
            self._reported.pop(robot.name, None)
        self._said = {robot: said for robot, said in self._said.items() if self._of(said) != name}  # heard once more
        self._fleet.drop(name)
        self._store.claims.pop(name, None)

    def _drop(self, names: list[str]) -> None:
        """Drop logs that another process has claimed: nothing of them is written.

        What is still its own is claimed anew. Where another process has this one's name, this one ends.
        """
        if not self._board.beat(self.name, self._boot):
            self.replaced = True
            log.warning("actor %s: another process has its name: this one ends", self.name)
            return
        for name in names:
            log.warning("actor %s drops %s", self.name, title(name))
            self._forget(name)
            self._due[name] = None

    def _drop_torn(self) -> None:
        """Drop what is in the middle of an event: it goes on from its checkpoint."""
        for name in list(self._held):
            session = self._fleet.trainings[name].session
            if session and session.is_torn:
                self._forget(name)
                self._due[name] = None

    def _let_idle_go(self, now: float) -> None:
        for name, held in list(self._held.items()):
            if not self._is_idle(name):
                held.used = now
            elif now > held.used + RESIDENT_SECONDS:
                self._let_go(name)

    def _is_idle(self, name: str) -> bool:
        training = self._fleet.trainings[name]
        if training.has_work or any(self._of(said) == name for said in self._said.values()):
            return False
        session = training.session
        if session is None:
            return not training.stuck
        is_asked = name in self._asked.loaded(self._fleet.robots, time.monotonic())
        return not (is_asked or session.network.is_behind or session.network.idle_steps_due(self._config.practice))

    @staticmethod
    def _of(said: Said) -> str:
        return log_of(said.robot, said.state)

    def _make_room(self, wanted: str) -> bool:
        """Let the network rest that was used longest ago, for another one; whether there was any."""
        resident = [
            (not self._is_idle(name), held.used, name)
            for name, held in self._held.items()
            if name != wanted and self._fleet.trainings[name].session
        ]
        return any(self._let_go(name) for _, _, name in sorted(resident)[:1])

    # What robots say

    def _hear(self, said: Said, now: float) -> None:
        name = self._of(said)
        if said.robot in self._said and self._said[said.robot].number == said.number:
            return  # its network is being prepared
        if not said.online:
            if robot := self._fleet.robots.get(said.robot):
                robot.leave(now)
            self._board.note(said)
            return
        if not self._hold(name, now):
            return
        robot = self._fleet.know(said.robot, now)
        try:
            robot.hear_state(said.state, now)
        except MalformedMessage as error:
            self._board.answer(said, log=name, entered=robot.entered, refused=str(error))
            return
        robot.feed(now)
        self._held[name].used = now
        self._said[said.robot] = said
        self._go_on(robot, said)

    def _go_on(self, robot: Robot, said: Said) -> None:
        """Have a robot's state entered, or its network prepared, or answer that it is."""
        for name in robot.wants_back:
            self._take_out(robot, name)
        if robot.entered == said.state:
            self._answer(said, robot)
        elif robot.state != said.state:
            self._answer(said, robot, refused=LATE)
        elif robot.refused or robot.waits:
            self._answer(said, robot)
        elif robot.must_prepare:
            self.training.prepare(robot.name, said.state, urgent=True)
        elif robot.enters:
            self._enter(robot)
            self._answer(said, robot)
        else:
            self._answer(said, robot, refused=self._fleet.trainings[self._of(said)].stuck or "it cannot enter its log")

    def _take_prepared(self) -> None:
        while prepared := self.training.take_prepared():
            robot, said = self._fleet.robots.get(prepared.robot), self._said.get(prepared.robot)
            if robot and said:
                robot.note(prepared)
                self._go_on(robot, said)
        while self.training.verdicts:
            verdict = self.training.verdicts.popleft()
            robot = self._fleet.robots.get(verdict.robot)
            if robot and verdict.log in robot.joined:
                self._take_out(robot, verdict.log, verdict.why)
        while self.training.reports:
            name, problem = self.training.reports.popleft()
            log.warning("robot %s: %s", name, problem)

    def _enter(self, robot: Robot) -> None:
        with robot.entering():
            event = self._fleet.enter(robot.name, self._store)
            self._store.commit()
        if event:
            robot.training.note_grown(event)
            held = self._held[robot.training.log]
            held.newest = max(held.newest, event)

    def _take_out(self, robot: Robot, name: str, why: str = "") -> None:
        """Enter that what a robot shared is taken out of a log. why: where it did not ask for it."""
        with robot.entering():
            event = robot.take_out(name, self._store, why)
            self._board.wake([name])  # another actor may have it
            self._store.commit()
        if held := self._held.get(name):
            held.newest = max(held.newest, event)
            self._fleet.trainings[name].note_grown(event)
        log.warning("robot %s: its samples are taken out of %s: %s", robot.name, title(name), why or "it asked for it")

    def _answer(self, said: Said, robot: Robot, refused: str = "") -> None:
        self._said.pop(said.robot, None)
        self._board.answer(
            said,
            log=robot.training.log,
            entered=robot.entered,
            refused=refused or robot.refused,
            waits=robot.waits,
        )
        if robot.waits:
            robot.waits = ""  # ingest asks once more

    # What it says

    def _report(self) -> None:
        reports = {}
        for name, robot in self._fleet.robots.items():
            held = self._held.get(robot.training.log)
            if held is None or robot.entered is None:
                continue
            training = self._fleet.trainings[robot.training.log]
            text = Report(
                waiting=robot.messages_waiting,
                up_to=held.newest,
                saved_at=training.saved_at,
                steps=training.steps,
                stuck=training.stuck,
                standing=robot.standing,
            ).pack()
            if text != self._reported.get(name):
                reports[name] = text
        self._board.report(reports)
        self._reported |= reports

    def _beat(self, ending: threading.Event) -> None:
        """Say that it is there, whatever training is at: a step may take a minute."""
        while not ending.is_set():
            trainings = dict(self._fleet.trainings)
            figures = {
                "networks": sum(one.session is not None for one in trainings.values()),
                "waiting": sum(one.messages_waiting for one in trainings.values()),
                "steps": sum(one.steps for one in trainings.values()),
            }
            if not self._beats.beat(self.name, self._boot, json.dumps(figures)):
                self.replaced = True
                return
            ending.wait(BEAT_SECONDS)

    def _finish(self) -> None:
        """Save all networks, as far as there is time, and let go of them."""
        self.training.settle()
        for name in list(self._held):
            self._let_go_last(name)

    def _let_go_last(self, name: str) -> None:
        try:
            self._let_go(name)
        except (Superseded, StorageError) as error:
            log.warning("%s is not saved, and goes on from its log: %s", title(name), error)
