"""The training of a network from its log: a session, its checkpoints, and what of the log is needed no more."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from broker.errors import ConfigError, MalformedMessage, PeerError, StorageError, Superseded
from broker.wire.messages import ClassEdit
from cloud_trainer.cost import TooCostly
from cloud_trainer.logs import is_shared, title
from cloud_trainer.robots.idle_rehearsal import TURN_SECONDS, IdleRehearsal
from cloud_trainer.robots.saved_network import SavedNetwork
from cloud_trainer.robots.standing import Standing, detailed, standings
from cloud_trainer.robots.store_cleanup import StoreCleanups
from cloud_trainer.robots.workplace import Workplace
from cloud_trainer.session.session import Session, Work
from cloud_trainer.session.session_start import open_session
from cloud_trainer.session.start import SessionStart
from cloud_trainer.store.log import Event
from cloud_trainer.store.opening import STORE

# Between two attempts at what the store, or the place of checkpoints, does not give.
PAUSE_SECONDS = 5.0

log = logging.getLogger("cloud-trainer")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why a robot's samples could not be learned from."""

    robot: str
    reason: str


class NetworkTraining:
    """Belongs to the thread that trains; other threads read what has no underscore, and call ``save_soon``.

    log: its name. session: None before the first event, and where training rests or is stuck. start: the event that the
    session began with. standings: by robot, replaced as a whole. stored: batches in the log, by robot, which the thread
    counts that stores them. trained: those that the session has come to. stuck: why the log cannot be trained on any
    further, until this trainer is started again. too_costly: it is stuck as this trainer has no room for the network.
    So another one may begin. lost: it is stuck as another process trains on the log. rests: no robot belongs to it any
    more, so its network is on the disk alone. saved: the last checkpoint.
    """

    def __init__(self, log: str, workplace: Workplace) -> None:
        self.log = log
        self.session: Session | None = None
        self.start = b""
        self.standings: Mapping[str, Standing] = {}
        self.stored = Counter[str]()
        self.trained = Counter[str]()
        self.stuck = ""
        self.too_costly = False
        self.rests = False
        self.lost = False
        self.saved = SavedNetwork(log, workplace.place, workplace.store, workplace.disk)
        self._workplace = workplace
        self._store = workplace.store
        self._stored_up_to = self._appended_up_to = 0  # newest events: of who takes messages in, and of this thread
        self._idle = IdleRehearsal(workplace.config.practice)
        self._cleanups = StoreCleanups(log, workplace.store, workplace.disk)
        self._skipped = 0  # up to this event the log is not trained on: a start behind it begins another network
        self._save_when_idle = False  # a checkpoint is due once the session has caught up with the log
        self._event: Event | None = None  # at work on
        self._work: Work | None = None  # what is left of it, or of tidying the store
        self._detailed = -1  # cursor at which details were noted
        self._resumes_at = 0.0  # monotonic seconds

    @property
    def cursor(self) -> int:
        """The id of the last event that was trained on."""
        return self.session.cursor if self.session else self._skipped

    @property
    def steps(self) -> int:
        """How many steps the network has taken."""
        return self.session.trainer.steps if self.session else 0

    @property
    def messages_waiting(self) -> int:
        """How many batches in the log the session has not come to."""
        return (self.stored - self.trained).total()

    @property
    def saved_at(self) -> int:
        """The event behind which the last checkpoint goes on."""
        return self.saved.cursor

    @property
    def has_work(self) -> bool:
        """Whether there is anything to do in a turn."""
        if self.stuck or time.monotonic() < self._resumes_at:
            return False
        at_work = self._work is not None or self._cleanups.are_due
        return at_work or self._newest > self.cursor

    @property
    def has_begun(self) -> bool:
        """Whether the log has any event."""
        return self._newest > 0

    @property
    def _newest(self) -> int:
        """The newest event that is known of: whoever appends one says so, as to ask costs more than to train."""
        return max(self._stored_up_to, self._appended_up_to)

    def note_grown(self, event: int) -> None:
        """Note that the log has an event, which is committed. For the thread that takes messages in."""
        self._stored_up_to = max(self._stored_up_to, event)

    def knows_edit(self, robot: str, edit: ClassEdit) -> bool:
        """Whether an edit need not be stored. One that is stored once more does nothing.

        A session that has not come to this start of the robot may take its edits' numbers for those of a run before.
        """
        member = self.session.members.get(robot) if self.session else None
        return member is not None and member.state.boot == edit.boot and member.edits.knows(edit)

    def save_soon(self) -> None:
        """Have a checkpoint written once the session has caught up with the log."""
        self._save_when_idle = True

    def begin_behind(self, event: int) -> None:
        """Go on behind an event, where another network begins. To be called while a network is too costly."""
        self._skipped, self.stuck, self.too_costly = event, "", False

    # Turns

    def turn(self) -> Problem | None:
        """Take a turn at what the next event asks for, or at the rest of one.

        Return what was wrong with the event; None where nothing was or it is not done yet.
        """
        if self._work is None:
            self._work = self._next_work()
        begin = before = time.perf_counter()
        try:
            steps = self.steps
            for _ in self._work:
                now = time.perf_counter()
                if self.steps > steps:
                    self._idle.step_seconds = now - before
                before, steps = now, self.steps
                if now >= begin + TURN_SECONDS:
                    self.note_standing(self._event.robot if self._event else "")
                    return None
        except TooCostly as error:
            assert self._event is not None
            self._skip(self._event.id, error)
        except Superseded as error:
            self._lose(error)
        except StorageError as error:  # the event is in the log still
            self._pause(error)
        except (ConfigError, PeerError) as error:
            log.error("%s: training cannot go on: %s", title(self.log), error)
            self._get_stuck(error)
        event, self._event, self._work = self._event, None, None
        self.note_standing(event.robot if event else "")
        session = self.session
        return Problem(robot=session.blamed, reason=session.problem) if event and session and session.problem else None

    def finish_event(self) -> None:
        """Take turns until no event is in the middle, where nothing can be saved."""
        while self._work is not None:
            self.turn()

    def _next_work(self) -> Work:
        if self._cleanups.are_due:
            return self._cleanups.work(self.session)
        self._event = self._store.next_event(self.log, self.cursor)
        assert self._event is not None
        return self._apply(self._event)

    def _apply(self, event: Event) -> Work:
        if event.kind == "start":
            if self.session and self.session.trainer.steps:
                self.saved.keep_former(self.session)
            self.session = None  # two networks at once may be one too many for this machine
            self.start, self.session = event.payload, self._open(event.payload, event.robot)
            self.session.cursor = event.id
            self.saved.steps, self.rests = 0, False
            return
        if self.rests:
            self._wake()
        session = self.session
        if session is None:
            raise MalformedMessage(f"event {event.id} comes before any start")
        yield from session.work(event, self._workplace.batches.take(event.robot, event.id))
        if event.kind == "batch":
            self.trained[event.robot] += 1
        elif event.kind in ("edit", "join"):
            self._save_when_idle = True  # people want to see a class gone, or what a robot takes back, on the disk too
        elif event.kind == "rehearse" and not self._idle.due(session):
            log.info("%s: rehearsed while idle%s", title(self.log), _tested(session))
        elif event.kind == "forget":
            cleanup = self._cleanups.of(event.robot)
            cleanup.up_to, cleanup.begun = int(event.payload), True
        if session.trainer.steps >= self.saved.steps + self._workplace.config.checkpoint_every:
            self._write_checkpoint()

    def _skip(self, event: int, error: TooCostly) -> None:
        """Let what there is no room for rest: go on where another network begins behind it, or wait for one to begin.

        Training is a function of what is behind the last start, so nothing is lost that the new network would have.
        """
        self.session = None
        starts = [one.id for one in self._store.states(self.log) if one.kind == "start" and one.id > event]
        if starts:
            self._skipped = starts[-1] - 1
            self.trained.update(self._store.count_batches(self.log, event, self._skipped))
            return
        self._workplace.room.give_up(self.log)
        log.error("%s: its network is not trained any further: %s", title(self.log), error)
        self._get_stuck(error)
        self.too_costly = True

    def _get_stuck(self, error: Exception) -> None:
        for robot in self.stored:
            self._workplace.batches.drop(robot)
        self.session, self.stuck = None, f"training cannot go on: {error}"[:400]

    def _lose(self, error: Superseded) -> None:
        """Train on the log no more, as another process does."""
        log.warning("%s", error)
        self.lost = True
        self._get_stuck(error)
        self._workplace.room.give_up(self.log)

    def _pause(self, error: StorageError) -> None:
        """Try again after a while what the store, or the place of checkpoints, does not give now."""
        self._workplace.disk.failed(f"training of {title(self.log)}", error, ", it goes on when that is back")
        self._resumes_at = time.monotonic() + PAUSE_SECONDS

    def _open(self, start: bytes, robot: str, *, restored: bool = False) -> Session:
        """Return a session at its beginning. robot: whose start it is.

        Raises TooCostly, and ConfigError where there can be none.
        """
        its, began = self._workplace, SessionStart.unpack(start)
        its.room.beside(self.log, its.room.cost(began.state))
        try:
            return open_session(
                self.log, began, its.settings, its.device, self._store.batches, robot=robot, restored=restored
            )
        except (RuntimeError, MemoryError) as error:  # it was built on trial, but there was more room then
            raise ConfigError(
                f"the network of {title(self.log)} cannot be built: {str(error) or 'out of memory'}"
            ) from error

    # Idle rehearsal

    def finish_idle(self, is_idle: Callable[[], bool], *, silent: bool = True, deserted: bool = False) -> None:
        """Where a robot's log is done with, train on what is left over, save what is due, and rehearse.

        is_idle: whether no robot has anything to train on. That steps are taken depends on when nothing comes. So it is
        an event in the log, as all that training depends on.
        silent: whether its robots are. One that is taught is rehearsed for at once: people show a thing for ten
        seconds. deserted: whether no robot belongs to it.
        """
        session = self.session
        if session is None or self.has_work:
            return
        if deserted:
            self.rest()
            return
        network = session.network
        if not (silent or session.is_taught or network.still):
            return
        if network.is_behind and (silent or network.still):  # a fit takes no batch to be worth it
            self._append("flush")
        elif silent and self._save_when_idle:
            self._save_when_idle = False
            self._write_checkpoint()
        elif not (silent or session.is_taught):
            return
        elif is_idle() and (asked := self._idle.next(session)):
            self._save_when_idle = self._append(asked.kind, asked.pack()) and not asked.left

    def settle(self, seconds: float) -> None:
        """Where idle rehearsal is in the middle, end it for now, in a few steps; the rest waits for the next start.

        Its rate begins at the peak, which leaves a network wherever the last steps took it.
        seconds: to take fewer steps in, where they are slow, and not to test what comes of them; but one at least.
        """
        until = time.perf_counter() + seconds
        while self._event and time.perf_counter() < until:  # one broken off would be begun again at the next start
            self.turn()
        if self.messages_waiting:
            return
        self._catch_up()
        if self.session and (asked := self._idle.last(self.session, seconds)):
            log.info("%s: a few last steps of idle rehearsal before its network is saved", title(self.log))
            if self._append(asked.kind, asked.pack()):
                self._catch_up()

    def _catch_up(self) -> None:
        while self.has_work:
            self.turn()

    # Checkpoints

    def save(self) -> bool:
        """Write a checkpoint, if anything has changed since the last, and delete what no checkpoint needs.

        Return False where the disk does not take it.
        """
        saved = self._write_checkpoint()
        if self._cleanups.are_due and self._event is None:
            try:
                for _ in self._cleanups.work(self.session):
                    pass
            except Superseded as error:
                self._lose(error)
        return saved

    def _write_checkpoint(self) -> bool:
        """Write it, if anything has changed; what no checkpoint needs from then on is deleted in turns."""
        session = self.session
        # Where an event was broken off the log has it still, and the former checkpoint is what it goes on from.
        if session is None or session.is_torn:
            return True
        if session.cursor == self.saved.cursor and not self._cleanups.wait(session):
            return True
        try:
            if not self.saved.write(session, self.start):
                return False
        except Superseded as error:
            self._lose(error)
            return True
        self._cleanups.allow(session)
        return True

    # Room in the store

    def give_up_oldest(self, robot: str, excess: int) -> None:
        """Have a robot's oldest samples that were trained on forgotten, so many bytes, unless some are already."""
        if self.rests and not is_shared(self.log):  # a robot that comes back to its own log begins another network
            self._give_up_at_rest(robot, excess)
        if self.session is None or robot not in self.session.members:
            return
        cleanup = self._cleanups.of(robot)
        if cleanup.begun:
            if cleanup.up_to:
                self._write_checkpoint()  # then what was given up before is deleted
            return
        if up_to := self._store.oldest_batches(self.log, robot, self.session.oldest_needed - 1, excess):
            log.info("the store is nearly full: robot %s gives up its oldest trained samples", robot)
            cleanup.begun = self._append("forget", str(up_to).encode(), robot)

    def _give_up_at_rest(self, robot: str, excess: int) -> None:
        """Delete batches that no network will ask for any more, for as long as a turn takes."""
        last, until = self._store.last_event(self.log), time.perf_counter() + TURN_SECONDS
        up_to = self._store.oldest_batches(self.log, robot, last, excess)
        try:
            while self._store.forget_some(self.log, robot, up_to) and time.perf_counter() < until:
                pass
        except StorageError as error:
            self._workplace.disk.failed(STORE, error)
        except Superseded as error:
            self._lose(error)

    def _append(
        self, kind: Literal["flush", "forget", "rehearse", "settle"], payload: bytes = b"", robot: str = ""
    ) -> bool:
        disk = self._workplace.disk
        try:
            event = self._store.append(self.log, kind, payload, robot)
            self._store.commit()
        except StorageError as error:
            disk.failed(STORE, error)
            return False
        except Superseded as error:
            self._lose(error)
            return False
        self._appended_up_to = event
        disk.written(STORE)
        return True

    # What others are told

    def note_standing(self, robot: str = "") -> None:
        """Say how training on a robot's samples stands, or on those of all."""
        self.standings = standings(self.session, self.standings, robot) if self.session else {}

    def note_details(self) -> None:
        """Add how well classes are told apart, and what is new of robots that share the network."""
        if self.session and self.standings and self.session.cursor != self._detailed:
            self._detailed = self.session.cursor
            self.note_standing()
            self.standings = detailed(self.session, self.standings)

    # Rest

    def rest(self) -> None:
        """Let the network rest on the disk, as no robot belongs to it any more; until one comes back it takes no room.

        To be called while there is nothing to do. Nothing happens where the disk does not take it.
        """
        session = self.session
        if session is None or not self._write_checkpoint() or self.stuck or self._cleanups.are_due:
            return
        if not is_shared(self.log):
            self.saved.keep_former(session)
        log.info("%s: no robot belongs to it any more, its network rests", title(self.log))
        self._skipped = session.cursor
        self.session, self.standings, self.rests = None, {}, True
        self._workplace.room.give_up(self.log)

    def _wake(self) -> None:
        """Go on from where it rests. Raises TooCostly, and ConfigError."""
        saved = self.saved.load()
        self._workplace.disk.written(f"training of {title(self.log)}")
        self.start = saved.start.encode()
        self.session = self._open(self.start, saved.members[0].robot, restored=True)
        self.saved.restore(self.session, saved)
        self._workplace.room.keep(self.log, self._workplace.room.cost(saved.members[0].state))
        self.rests = False

    # The start of the trainer

    def resume(self, *, deserted: bool = False) -> None:
        """Go on from the checkpoint, where there is one. deserted: no robot belongs to it.

        Raises ConfigError where the checkpoint and the store do not belong together.
        """
        self._appended_up_to = self._store.last_event(self.log)
        if self.saved.exists:
            saved = self.saved.load()
            if deserted and not self._store.has_events(self.log, saved.cursor):
                self._skipped, self.rests = saved.cursor, True
                return
            try:
                self._wake()
                assert self.session
                # A killed process may not have come to it.
                self._save_when_idle = any(one.wipes for one in self.session.members.values())
            except TooCostly as error:
                self._skip(saved.cursor, error)
        elif lost := self.saved.lost:
            log.warning("%s: %s", title(self.log), lost)
        elif not self._store.is_whole(self.log):
            log.warning(
                "%s has no checkpoint, and its oldest samples were given up: starting from the rest", title(self.log)
            )


def _tested(session: Session) -> str:
    right, tested = session.held_out
    return f", held-out accuracy {100 * right / tested:.1f} %" if tested else ""
