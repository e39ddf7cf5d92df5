"""Publishes an exit for each front of a fleet, when there is a better one, or one of other classes. In idle time only.

An exit depends on the samples of a session and on when there was time. So it is no part of the session's state, and no
event: nothing that the session learns depends on it, and it is made anew behind a restart.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from broker.errors import ConfigError, MalformedMessage
from broker.link.base import Deliveries, Link
from broker.program.plain_text import counted
from broker.wire.bounds import MAX_COUNT, MAX_EXIT_CLASSES, MAX_PIECES, SEND_LIMIT_BYTES
from broker.wire.codec import pack, unpack_as
from broker.wire.messages import ExitOn, ExitPiece, FleetExit, exit_place
from broker.wire.topics import exit_topic, piece_topic
from cloud_trainer.exits.making import MadeExit, Making
from cloud_trainer.session.session import Session
from hierarchy.exit_rows import ExitRows, in_pieces, pack_rows
from hierarchy.runtime.command_line import SparseLog

# The least time between two exits for one front: each costs every robot of it some tens of kilobytes.
EVERY_SECONDS = 10.0
# How long the manifest that a trainer before this one left is waited for, before another one is published.
READ_SECONDS = 2.0
# One part of the work after the other is done for so long. Then the training thread does something else for so many
# times that long: a fifth of its time at most, and no message waits longer for its step than one slice and its last
# part.
SLICE_SECONDS, REST = 0.1, 4.0
# Fronts that exits are made for; fleets and fronts cost nothing to invent.
MAX_PLACES = 256
# Versions that a robot may claim to have. A higher one would leave no later version, which robots could take.
MAX_REPORTED = MAX_COUNT // 2

log = logging.getLogger("cloud-trainer")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Published:
    """What this process published."""

    manifest: FleetExit
    pieces: list[ExitPiece]
    rows: ExitRows


@dataclass(kw_only=True)
class _Place:
    """Where exits for one front lie. newest: the manifest that lies there; ours: published last.

    contested: whether another trainer published the version that is ours, too, so that its pieces may lie there.
    """

    fleet: str
    front: str
    split: str
    on: ExitOn
    opened_at: float
    mailbox: Deliveries | None = None
    newest: FleetExit | None = None
    ours: _Published | None = None
    connection: int = 0
    contested: bool = False
    next_at: float = 0.0
    made_at: int = -1  # the session's cursor
    said: str = field(default="")

    @property
    def name(self) -> str:
        return exit_place(self.front, self.split, self.on)


@dataclass(frozen=True, eq=False)
class _Job:
    """An exit that is being made. cursor: of the session when that began."""

    place: _Place
    session: Session
    making: Making
    work: Iterator[None]
    cursor: int


class ExitPublisher:
    """``turn`` is for the thread that trains; ``listen`` for the one that receives."""

    def __init__(
        self,
        link: Link,
        boot: str,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._link, self._boot, self._clock, self._wall = link, boot, clock, wall
        self._lock = threading.Lock()  # of what follows
        self._places: dict[tuple[str, str], _Place] = {}
        self._job: _Job | None = None
        self._garbage = SparseLog(log)
        self._rest_until = 0.0

    def listen(self) -> None:
        """Open what another thread wants to read."""
        with self._lock:
            unopened = [one for one in self._places.values() if one.mailbox is None]
        for place in unopened:
            place.mailbox = self._link.mailbox(exit_topic(place.fleet, place.name))

    def newest(self, fleet: str, front: str) -> FleetExit | None:
        """Return the newest exit of a fleet's front that lies at the broker, for people; None where none does."""
        with self._lock:
            there = [one.newest for one in self._places.values() if (one.fleet, one.front) == (fleet, front)]
        return max((one for one in there if one), key=lambda one: one.version, default=None)

    def turn(self, sessions: Iterable[tuple[Session, bool]], reported: Callable[[str], int]) -> bool:
        """Take a slice at an exit that is due; whether there is more to do at once.

        sessions: each with whether it has learned all that came. reported: given a robot, returns the version of the
        exit that it has, as far as it has said.
        """
        now = self._clock()
        wanted = list(self._wanted(sessions))
        for place, _, _ in wanted:
            self._read(place)
            self._say_again(place)
        if now < self._rest_until:
            return False
        job = self._job = self._job or self._next_job(wanted, now)
        if job is None:
            return False
        if not any(session is job.session and session.cursor == job.cursor for _, session, _ in wanted):
            self._job = None  # it has learned more meanwhile: begun again once that is over
            return False
        self._work(job, now, reported)
        return self._job is not None

    def _wanted(self, sessions: Iterable[tuple[Session, bool]]) -> Iterator[tuple[_Place, Session, bool]]:
        for session, is_idle in sessions:
            states = [member.state for member in session.members.values() if member.state.fleet and member.state.front]
            for on in sorted({state.exit for state in states}):
                if on == "end" and not session.network.still:
                    continue  # this half has learned other features than robots have
                state = states[-1]
                key = state.fleet, exit_place(state.front, state.split.fingerprint, on)
                with self._lock:
                    place = self._places.get(key)
                    if place is None and len(self._places) < MAX_PLACES:
                        place = self._places[key] = _Place(
                            fleet=state.fleet,
                            front=state.front,
                            split=state.split.fingerprint,
                            on=on,
                            opened_at=self._clock(),
                        )
                if place:
                    yield place, session, is_idle

    def _read(self, place: _Place) -> None:
        while place.mailbox and (delivery := place.mailbox.take(0.0)) is not None:
            try:
                manifest = unpack_as(FleetExit, delivery.payload)
            except MalformedMessage as error:
                self._garbage.warn(f"ignoring an exit of fleet {place.fleet}: {error}")
                continue
            if place.newest is None or manifest.version >= place.newest.version:
                place.newest = manifest  # of two with one version the later one stays at the broker
                place.contested |= bool(
                    place.ours and place.ours.manifest.version == manifest.version and manifest.boot != self._boot
                )

    def _say_again(self, place: _Place) -> None:
        """Publish once more behind another connection: the broker may have begun anew, and have lost it.

        And where another trainer's pieces may lie under our manifest: no robot could put that version together.
        """
        ours, is_new = place.ours, self._link.connections != place.connection
        if ours and ours.manifest == place.newest and (is_new or place.contested) and self._publish(place, ours):
            place.contested = False

    def _next_job(self, wanted: list[tuple[_Place, Session, bool]], now: float) -> _Job | None:
        for place, session, is_idle in wanted:
            opened = place.mailbox is not None and now >= place.opened_at + READ_SECONDS
            is_due = opened and now >= place.next_at and session.cursor != place.made_at
            if is_idle and is_due and not session.is_torn and len(session.network.memory.counts()) > 1:
                ours = place.ours if place.ours and place.ours.manifest == place.newest else None
                making = Making(session, place.on, ours.rows if ours else None)
                return _Job(place, session, making, making.work(), session.cursor)
        return None

    def _work(self, job: _Job, now: float, reported: Callable[[str], int]) -> None:
        place, finished = job.place, False
        try:
            while not finished and self._clock() < now + SLICE_SECONDS:
                finished = next(job.work, True) is True
        except (ConfigError, MalformedMessage, ValueError) as error:
            log.warning("no exit for fleet %s: %s", place.fleet, error)
            finished = True
        self._rest_until = self._clock() + REST * (self._clock() - now)
        if not finished:
            return
        self._job, place.made_at, place.next_at = None, job.cursor, self._clock() + EVERY_SECONDS
        if made := job.making.found:
            said = map(reported, job.session.members)
            self._offer(place, made, max((one for one in said if one <= MAX_REPORTED), default=0))

    def _offer(self, place: _Place, made: MadeExit, seen: int) -> None:
        """Publish an exit, if it is worth it. seen: the highest version that a robot has said it has."""
        newest = place.newest
        last = max(seen, newest.version if newest else 0)
        if newest and newest.version == last and not _is_better(made, newest):
            return
        published = self._in_pieces(place, made, last + 1)
        if published and self._publish(place, published):
            place.newest, place.ours = published.manifest, published
            accuracy = "" if made.accuracy is None else f", held-out accuracy {100 * made.accuracy:.1f} %"
            size = published.manifest.size / 1e3
            log.info(
                "fleet %s: exit version %d of %s, %.1f kB%s",
                place.fleet,
                last + 1,
                counted(len(made.rows.classes), "class"),
                size,
                accuracy,
            )

    def _in_pieces(self, place: _Place, made: MadeExit, version: int) -> _Published | None:
        data = pack_rows(made.rows)
        pieces = in_pieces(data)
        manifest = FleetExit(
            boot=self._boot,
            version=version,
            made=self._wall(),
            front=place.front,
            split=place.split,
            on=place.on,
            features=made.rows.weight.shape[1],
            classes=made.rows.classes,
            accuracy=made.accuracy,
            held_out=made.held_out,
            temperature=made.calibration.temperature,
            least_confidence=made.calibration.least_confidence,
            first=0 if place.newest and place.newest.first else MAX_PIECES,
            size=len(data),
            digest=hashlib.sha256(data).digest(),
            pieces=tuple(hashlib.sha256(one.data).digest() for one in pieces),
        )
        size = len(pack(manifest))
        if len(made.rows.classes) <= MAX_EXIT_CLASSES and len(pieces) <= MAX_PIECES and size <= SEND_LIMIT_BYTES:
            return _Published(manifest=manifest, pieces=pieces, rows=made.rows)
        problem = f"{counted(len(made.rows.classes), 'class')} are too many for an exit ({len(data):,} bytes of rows)"
        if problem != place.said:
            place.said = problem
            log.warning("fleet %s gets no exit: %s", place.fleet, problem)
        return None

    def _publish(self, place: _Place, published: _Published) -> bool:
        """Publish pieces, and then what says that they are there; False where the link is down."""
        connection, manifest, pieces = self._link.connections, published.manifest, published.pieces
        for number, piece in enumerate(pieces, manifest.first):
            if not self._link.publish(piece_topic(place.fleet, place.name, number), pack(piece), qos=1, retain=True):
                return False
        if not self._link.publish(exit_topic(place.fleet, place.name), pack(manifest), qos=1, retain=True):
            return False
        place.connection = connection
        return True


def _is_better(made: MadeExit, than: FleetExit) -> bool:
    """Whether an exit is worth to be sent in place of another one: other classes, or more held-out samples right."""
    if set(made.rows.classes) != set(than.classes):
        return True
    before = than.accuracy if made.former is None else made.former
    return made.accuracy is not None and (before is None or made.accuracy > before)
