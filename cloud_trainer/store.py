"""The durable, append-only log of everything that a trainer's training depends on, in one sqlite file.

Training is a function of this log and of the settings in it: sessions read nothing else. So a trainer that was killed
goes on from a checkpoint and its place in the log, and a replay from the start ends at the same weights.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from broker.errors import ConfigError, StorageError
from broker.program.machine import refused
from cloud_trainer.config import TrainingSettings
from cloud_trainer.logs import is_shared
from cloud_trainer.sequences import Range, join_ranges
from cloud_trainer.store_file import AFTER_DAMAGE, LAYOUT, connect

STORE = "store.db"

# start: a new network, for a robot's state. rejoin: the robot has started again and goes on with the network it has.
# join: a robot of a fleet has started, and others began the network, or itself before.
# batch: an ActivationBatch as it came in. edit: a ClassEdit. flush: train on what waits, as nothing more is coming for
# now. rehearse: take steps on stored samples alone, the first so many of those that are due. settle: the same, and
# these are the last for now, so let the rate fall to its end.
# forget: batches up to an event are about to go, as the store is full.
Kind = Literal["start", "rejoin", "join", "batch", "edit", "flush", "forget", "rehearse", "settle"]

# Of sequences whose batches were given up. What waits at a robot leaves gaps between them, as messages do not come in
# their order, but it has no more messages than its outbox holds: 65,000 in 256 MB. A peer that sends every second
# number would fill the disk with ranges: beyond this many, those next to each other are joined.
MAX_RANGES = 100_000

# Batches that are deleted, or looked at to be wiped, before others have a turn; and their bytes.
TIDIED_AT_ONCE, TIDIED_BYTES = 64, 4_000_000

# sqlite's header up to the number of the application, four bytes.
SIGNED_BYTES = 72

# Of messages: those of a robot that training learns from.
Message = Literal["batch", "edit"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One entry of the log. payload: the message as it came in, or what the kind needs."""

    id: int
    robot: str
    kind: Kind
    payload: bytes


class Store:
    """The log, open for reading and appending. What is appended counts from the next commit on.

    A thread has a store of its own on the file; it reads what the other one has committed.
    """

    def __init__(self, path: Path, settings: dict[str, Any] | None = None) -> None:
        """Open a store, or make one where settings are given. Raises ConfigError where the file is no store."""
        if settings is None and not path.exists():
            raise ConfigError(f"there is no store at {path}")
        try:
            self._database = connect(path, reading=settings is None)
        except sqlite3.OperationalError as error:
            said = f"{error}; see that you may read it"
            if path.is_dir():
                raise ConfigError(f"the store {path} cannot be opened: it is a folder") from error
            raise refused(f"the store {path} cannot be opened", error, said, path=path) from error
        try:
            # A receipt tells the robot to delete its copy: then ours has to survive a power cut as well.
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute("PRAGMA secure_delete = ON")
            new = not self._scalar("PRAGMA application_id") and not self._scalar("SELECT count(*) FROM sqlite_master")
            if new and settings is not None:
                self._make(settings)
            otherwise = f"{path} is no store of this version of cloud-trainer: use another --run-dir"
            LAYOUT.take_up(self._database, path, otherwise, reading=settings is None)
            self.settings: dict[str, Any] = {
                name: json.loads(value) for name, value in self._database.execute("SELECT name, value FROM settings")
            }
        except BaseException as error:
            self._database.close()
            if isinstance(error, sqlite3.DatabaseError):
                raise refused(f"the store {path} cannot be used", error, path=path, advice=AFTER_DAMAGE) from error
            raise

    def append_message(
        self, robot: str, boot: str, sequence: int, payload: bytes, kind: Message = "batch", log: str = ""
    ) -> int:
        """Append a batch or an edit of a robot, and return its id; 0, and nothing appended, where it has come before.

        log: that it belongs to, where that is not the robot's own. Raises StorageError.
        """
        with self._storage_errors():
            forgotten = self._database.execute(
                "SELECT last FROM forgotten WHERE robot = ? AND boot = ? AND first <= ? ORDER BY first DESC LIMIT 1",
                (robot, boot, sequence),
            ).fetchone()
            if forgotten and sequence <= forgotten[0]:
                return 0
            self._begin()
            added = self._database.execute(
                "INSERT OR IGNORE INTO events (robot, kind, boot, sequence, payload, fleet) VALUES (?, ?, ?, ?, ?, ?)",
                (robot, kind, boot, sequence, payload, log if is_shared(log) else ""),
            )
            return (added.lastrowid or 0) if added.rowcount == 1 else 0

    def append(self, log: str, kind: Kind, payload: bytes = b"", robot: str = "") -> int:
        """Append an event other than a batch, and return its id. robot: that it is of, in a log that several share.

        Raises StorageError.
        """
        with self._storage_errors():
            self._begin()
            added = self._database.execute(
                "INSERT INTO events (robot, kind, payload, fleet) VALUES (?, ?, ?, ?)",
                (robot, kind, payload, log) if is_shared(log) else (log, kind, payload, ""),
            )
            return added.lastrowid or 0

    def keep_metrics(self, robot: str, payload: bytes) -> None:
        """Keep the last that the robot said of itself, in place of what it said before. Raises StorageError."""
        with self._storage_errors():
            self._begin()
            self._database.execute("INSERT OR REPLACE INTO metrics VALUES (?, ?)", (robot, payload))

    def metrics(self, robot: str) -> bytes | None:
        """Return the last that the robot said of itself; None where it never did."""
        row = self._database.execute("SELECT payload FROM metrics WHERE robot = ?", (robot,)).fetchone()
        return bytes(row[0]) if row else None

    def commit(self) -> None:
        """Put what was appended on the disk. Raises StorageError, and what was appended since the last one is gone."""
        with self._storage_errors():
            if self._database.in_transaction:
                self._database.execute("COMMIT")

    def robots(self) -> list[str]:
        """Return the names of all robots with events, in the order in which they came."""
        names = self._database.execute("SELECT robot FROM events WHERE robot != '' GROUP BY robot ORDER BY min(id)")
        return [row[0] for row in names]

    def logs(self) -> list[str]:
        """Return the names of all logs, in the order in which they began."""
        names = self._database.execute(
            "SELECT log FROM logged WHERE kind IN ('start', 'rejoin', 'join') GROUP BY log ORDER BY min(id)"
        )
        return [row[0] for row in names]

    def next_event(self, log: str, cursor: int) -> Event | None:
        """Return the log's first event after the one with that id."""
        row = self._database.execute(
            "SELECT id, robot, kind, payload FROM logged WHERE log = ? AND id > ? ORDER BY id LIMIT 1", (log, cursor)
        ).fetchone()
        return Event(id=row[0], robot=row[1], kind=row[2], payload=row[3]) if row else None

    def has_events(self, log: str, cursor: int) -> bool:
        """Whether the log has events after the one with that id."""
        return bool(self._scalar("SELECT EXISTS (SELECT 1 FROM logged WHERE log = ? AND id > ?)", log, cursor))

    def states(self, log: str) -> list[Event]:
        """Return the log's starts, rejoins and joins; every log begins with a start."""
        rows = self._database.execute(
            "SELECT id, robot, kind, payload FROM logged "
            "WHERE log = ? AND kind IN ('start', 'rejoin', 'join') ORDER BY id",
            (log,),
        )
        return [Event(id=row[0], robot=row[1], kind=row[2], payload=row[3]) for row in rows]

    def states_of(self, robot: str) -> list[tuple[str, Event]]:
        """Return the same of a robot, in whichever logs, with their names."""
        rows = self._database.execute(
            "SELECT id, log, kind, payload FROM logged "
            "WHERE robot = ? AND kind IN ('start', 'rejoin', 'join') ORDER BY id",
            (robot,),
        )
        return [(row[1], Event(id=row[0], robot=robot, kind=row[2], payload=row[3])) for row in rows]

    def batches_after(self, log: str, cursor: int) -> Iterator[Event]:
        """Yield the log's batches after the event with that id, one in memory at a time."""
        while event := self.next_event(log, cursor):
            cursor = event.id
            if event.kind == "batch":
                yield event

    def batch_bytes(self, log: str) -> dict[str, int]:
        """Return what the log's batches hold, in bytes, by robot."""
        rows = self._database.execute(
            "SELECT robot, sum(length(payload)) FROM logged WHERE log = ? AND kind = 'batch' GROUP BY robot", (log,)
        )
        return dict(rows.fetchall())

    def count_batches(self, log: str, after: int, up_to: int) -> dict[str, int]:
        """Return how many of the log's batches are behind one event, up to another one, by robot."""
        rows = self._database.execute(
            "SELECT robot, count(*) FROM logged WHERE log = ? AND kind = 'batch' AND id > ? AND id <= ? GROUP BY robot",
            (log, after, up_to),
        )
        return dict(rows.fetchall())

    def last_event(self, log: str) -> int:
        """Return the id of the log's newest event, 0 where it has none."""
        return int(self._scalar("SELECT coalesce(max(id), 0) FROM logged WHERE log = ?", log))

    def event_count(self, log: str) -> int:
        """Return how many events the log has."""
        return int(self._scalar("SELECT count(*) FROM logged WHERE log = ?", log))

    def batch(self, event: int) -> bytes:
        """Return the batch that is the event with that id. Raises ConfigError where it was forgotten."""
        row = self._database.execute("SELECT payload FROM events WHERE id = ?", (event,)).fetchone()
        if row is None:
            raise ConfigError(f"the store lacks event {event}, which a checkpoint refers to: do they belong together?")
        return bytes(row[0])

    @property
    def bytes_used(self) -> int:
        """What the log takes of the disk; room that forgotten batches left is used again and does not count."""
        pages = self._scalar("PRAGMA page_count") - self._scalar("PRAGMA freelist_count")
        return int(pages * self._scalar("PRAGMA page_size"))

    def is_whole(self, log: str) -> bool:
        """Whether nothing of the log was forgotten or wiped, so that it can be replayed from its start."""
        return not self._scalar("SELECT ? IN (SELECT robot FROM wiped)", log)

    def oldest_batches(self, log: str, robot: str, before: int, total: int) -> int:
        """Return the event up to which the robot's oldest batches in a log hold ``total`` bytes; 0 for none.

        before: where that many do not lie before this event, it is the last batch up to it.
        """
        found, held = 0, 0
        for event, size in self._database.execute(
            "SELECT id, length(payload) FROM logged "
            "WHERE log = ? AND robot = ? AND kind = 'batch' AND id <= ? ORDER BY id",
            (log, robot, before),
        ):
            if held >= total:
                break
            found, held = event, held + size
        return found

    def forget_some(self, log: str, robot: str, up_to: int) -> bool:
        """Delete a robot's first batches in a log up to the event with that id, in a part of a second.

        They count as come. Return whether any are left. Raises StorageError.
        """
        with self._storage_errors():
            self.commit()
            self._begin()
            gone = self._database.execute(
                "SELECT id, boot, sequence FROM logged "
                "WHERE log = ? AND robot = ? AND kind = 'batch' AND id <= ? ORDER BY id LIMIT ?",
                (log, robot, up_to, TIDIED_AT_ONCE),
            ).fetchall()
            if gone:
                self._database.executemany("DELETE FROM events WHERE id = ?", [(event,) for event, _, _ in gone])
                self._note_forgotten(robot, [(boot, one, one) for _, boot, one in gone])
                self._database.execute("INSERT OR IGNORE INTO wiped VALUES (?)", (log,))
            self.commit()
        return len(gone) == TIDIED_AT_ONCE

    def _note_forgotten(self, robot: str, gone: list[Range]) -> None:
        kept = self._database.execute("SELECT boot, first, last FROM forgotten WHERE robot = ?", (robot,)).fetchall()
        ranges = join_ranges([*kept, *gone], MAX_RANGES)
        self._database.execute("DELETE FROM forgotten WHERE robot = ?", (robot,))
        self._database.executemany("INSERT INTO forgotten VALUES (?, ?, ?, ?)", [(robot, *one) for one in ranges])

    def wipe_some(
        self,
        log: str,
        robot: str,
        cursor: int,
        up_to: int,
        others: Sequence[int],
        without: Callable[[bytes, int], bytes | None],
    ) -> int | None:
        """Replace payloads of a robot's batches in a log up to an event, and of those with the other ids.

        The disk keeps no trace. Only of the first behind the event ``cursor``, in a part of a second. Return the event
        to go on behind; None where all is done. Nobody may write to these batches meanwhile.
        without: returns what to put in place of the payload of an event, or None for one that stays. Raises
        StorageError.
        """
        last, wanted, seen = max([up_to, *others]), set(others), 0
        wiped: list[tuple[bytes, int]] = []
        while (event := self.next_event(log, cursor)) and event.id <= last and seen < TIDIED_BYTES:
            cursor = event.id
            seen += len(event.payload) + TIDIED_BYTES // TIDIED_AT_ONCE
            if event.robot == robot and event.kind == "batch" and (cursor <= up_to or cursor in wanted):
                payload = without(event.payload, event.id)
                if payload is not None:
                    wiped.append((payload, cursor))
        with self._storage_errors():
            self.commit()
            self._begin()
            self._database.execute("INSERT OR IGNORE INTO wiped VALUES (?)", (log,))
            self._database.executemany("UPDATE events SET payload = ? WHERE id = ?", wiped)
            self.commit()
            if seen >= TIDIED_BYTES:
                return cursor
            # Old pages are overwritten (secure_delete), and so is what the log in front of the file has of them.
            (in_use, *_) = self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if in_use:
                raise StorageError("the store's own log is in use, so what was forgotten is not overwritten in it yet")
        return None

    def close(self) -> None:
        """Close the file; what was not committed is gone."""
        self._database.close()

    def _make(self, settings: dict[str, Any]) -> None:
        self._database.execute("PRAGMA journal_mode = WAL")
        # All of it or nothing: a store without its settings would be none.
        self._database.executescript(f"BEGIN IMMEDIATE; {LAYOUT.creation}")
        self._database.executemany(
            "INSERT INTO settings VALUES (?, ?)", [(name, json.dumps(value)) for name, value in settings.items()]
        )
        self._database.execute("COMMIT")

    def _begin(self) -> None:
        if not self._database.in_transaction:
            self._database.execute("BEGIN IMMEDIATE")

    def _scalar(self, query: str, *values: Any) -> Any:
        return self._database.execute(query, values).fetchone()[0]

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise StorageError(f"the store cannot be written: {error}") from error


def open_store(path: Path, settings: TrainingSettings) -> Store:
    """Open a run's store, or make one. Raises ConfigError where it was made with other settings."""
    store = Store(path, asdict(settings))
    try:
        _check_settings(store, path, settings)
    except ConfigError:
        store.close()
        raise
    return store


def check_store(path: Path, settings: TrainingSettings) -> None:
    """Raise ConfigError where a store that is there was made with other settings. Nothing is written."""
    try:
        with path.open("rb") as file:
            application = file.read(SIGNED_BYTES)[-4:]
    except OSError:
        return  # `open_store` says what is wrong
    if int.from_bytes(application, "big") == LAYOUT.application:
        with closing(Store(path)) as store:
            _check_settings(store, path, settings)


def _check_settings(store: Store, path: Path, settings: TrainingSettings) -> None:
    now = asdict(settings)
    for name, value in store.settings.items():
        if now.get(name) != value:
            raise ConfigError(
                f"{path} was made with --{name.replace('_', '-')} {value}, now it is {now.get(name)}: training must go "
                "on as it began; use the same setting or another --run-dir"
            )
