"""The log in one sqlite file: of one trainer, which has its run folder for itself."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from broker.errors import ConfigError, StorageError
from broker.program.machine import refused
from cloud_trainer.logs import is_shared
from cloud_trainer.sequences import Range, join_ranges
from cloud_trainer.store.log import MAX_RANGES, TIDIED_AT_ONCE, Event, Kind, Message, Store, Table, is_there
from cloud_trainer.store.sqlite_file import AFTER_DAMAGE, LAYOUT, MOVED, connect


class SqliteStore(Store):
    """A store in a file. Nothing but its folder's lock keeps other processes from it."""

    def __init__(self, path: Path, settings: dict[str, Any] | None = None) -> None:
        """Open a store, or make one where settings are given. Raises ConfigError where the file is no store."""
        self._path = path
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
            self.claims: dict[str, int] = {}
        except BaseException as error:
            self._database.close()
            if isinstance(error, sqlite3.DatabaseError):
                raise refused(f"the store {path} cannot be used", error, path=path, advice=AFTER_DAMAGE) from error
            raise

    def claim(self, log: str, owner: str) -> int:
        return 0

    def last_events(self, logs: Sequence[str]) -> dict[str, int]:
        return {log: last for log in logs if (last := self.last_event(log))}

    def append_message(
        self, robot: str, boot: str, sequence: int, payload: bytes, kind: Message = "batch", log: str = ""
    ) -> int:
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
        with self._storage_errors():
            self._begin()
            added = self._database.execute(
                "INSERT INTO events (robot, kind, payload, fleet) VALUES (?, ?, ?, ?)",
                (robot, kind, payload, log) if is_shared(log) else (log, kind, payload, ""),
            )
            return added.lastrowid or 0

    def keep_metrics(self, robot: str, payload: bytes) -> None:
        with self._storage_errors():
            self._begin()
            self._database.execute("INSERT OR REPLACE INTO metrics VALUES (?, ?)", (robot, payload))

    def metrics(self, robot: str) -> bytes | None:
        row = self._database.execute("SELECT payload FROM metrics WHERE robot = ?", (robot,)).fetchone()
        return bytes(row[0]) if row else None

    def commit(self) -> None:
        with self._storage_errors():
            if self._database.in_transaction:
                self._database.execute("COMMIT")

    def robots(self) -> list[str]:
        names = self._database.execute("SELECT robot FROM events WHERE robot != '' GROUP BY robot ORDER BY min(id)")
        return [row[0] for row in names]

    def logs(self) -> list[str]:
        names = self._database.execute(
            "SELECT log FROM logged WHERE kind IN ('start', 'rejoin', 'join') GROUP BY log ORDER BY min(id)"
        )
        return [row[0] for row in names]

    def next_event(self, log: str, cursor: int) -> Event | None:
        row = self._database.execute(
            "SELECT id, robot, kind, payload FROM logged WHERE log = ? AND id > ? ORDER BY id LIMIT 1", (log, cursor)
        ).fetchone()
        return Event(id=row[0], robot=row[1], kind=row[2], payload=row[3]) if row else None

    def has_events(self, log: str, cursor: int) -> bool:
        return bool(self._scalar("SELECT EXISTS (SELECT 1 FROM logged WHERE log = ? AND id > ?)", log, cursor))

    def states(self, log: str) -> list[Event]:
        rows = self._database.execute(
            "SELECT id, robot, kind, payload FROM logged "
            "WHERE log = ? AND kind IN ('start', 'rejoin', 'join') ORDER BY id",
            (log,),
        )
        return [Event(id=row[0], robot=row[1], kind=row[2], payload=row[3]) for row in rows]

    def states_of(self, robot: str) -> list[tuple[str, Event]]:
        rows = self._database.execute(
            "SELECT id, log, kind, payload FROM logged "
            "WHERE robot = ? AND kind IN ('start', 'rejoin', 'join') ORDER BY id",
            (robot,),
        )
        return [(row[1], Event(id=row[0], robot=robot, kind=row[2], payload=row[3])) for row in rows]

    def batch_bytes(self, log: str) -> dict[str, int]:
        rows = self._database.execute(
            "SELECT robot, sum(length(payload)) FROM logged WHERE log = ? AND kind = 'batch' GROUP BY robot", (log,)
        )
        return dict(rows.fetchall())

    def count_batches(self, log: str, after: int, up_to: int) -> dict[str, int]:
        rows = self._database.execute(
            "SELECT robot, count(*) FROM logged WHERE log = ? AND kind = 'batch' AND id > ? AND id <= ? GROUP BY robot",
            (log, after, up_to),
        )
        return dict(rows.fetchall())

    def last_event(self, log: str) -> int:
        return int(self._scalar("SELECT coalesce(max(id), 0) FROM logged WHERE log = ?", log))

    def event_count(self, log: str) -> int:
        return int(self._scalar("SELECT count(*) FROM logged WHERE log = ?", log))

    def batches(self, events: Sequence[int]) -> Iterator[bytes]:
        for event in events:
            row = self._database.execute("SELECT payload FROM events WHERE id = ?", (event,)).fetchone()
            yield bytes(is_there(event, row and row[0]))

    @property
    def bytes_used(self) -> int:
        pages = self._scalar("PRAGMA page_count") - self._scalar("PRAGMA freelist_count")
        return int(pages * self._scalar("PRAGMA page_size"))

    def is_whole(self, log: str) -> bool:
        return not self._scalar("SELECT ? IN (SELECT robot FROM wiped)", log)

    def oldest_batches(self, log: str, robot: str, before: int, total: int) -> int:
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

    def _wipe(self, log: str, payloads: Mapping[int, bytes], *, done: bool) -> None:
        """Do it, so that the disk keeps no trace."""
        with self._storage_errors():
            self.commit()
            self._begin()
            self._database.execute("INSERT OR IGNORE INTO wiped VALUES (?)", (log,))
            self._database.executemany(
                "UPDATE events SET payload = ? WHERE id = ?", [(payload, event) for event, payload in payloads.items()]
            )
            self.commit()
            if not done:
                return
            # Old pages are overwritten (secure_delete), and so is what the log in front of the file has of them.
            (in_use, *_) = self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if in_use:
                raise StorageError("the store's own log is in use, so what was forgotten is not overwritten in it yet")

    def rows(self, table: Table) -> Iterator[tuple[Any, ...]]:
        queries = {
            "events": "SELECT id, log, robot, kind, boot, sequence, payload FROM logged ORDER BY id",
            "metrics": "SELECT robot, payload FROM metrics",
            "wiped": "SELECT robot FROM wiped",
            "forgotten": "SELECT robot, boot, first, last FROM forgotten",
        }
        yield from self._database.execute(queries[table])

    def fill(self, source: Store, checkpoints: Mapping[str, str]) -> None:
        with self._storage_errors():
            self._begin()
            try:
                self._take_over(source)
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
        self.commit()

    def _take_over(self, source: Store) -> None:
        """Do it, but for the commit."""
        self._database.executemany(
            "INSERT INTO events (id, fleet, robot, kind, boot, sequence, payload) VALUES (?, ?, ?, ?, ?, ?, ?)",
            ((event, log if is_shared(log) else "", *rest) for event, log, *rest in source.rows("events")),
        )
        self._database.executemany("INSERT INTO metrics VALUES (?, ?)", source.rows("metrics"))
        self._database.executemany("INSERT INTO wiped VALUES (?)", source.rows("wiped"))
        self._database.executemany("INSERT INTO forgotten VALUES (?, ?, ?, ?)", source.rows("forgotten"))

    def leave(self, other: str) -> None:
        """Do it: the file has another name from then on."""
        self.close()
        try:
            self._path.rename(self._path.with_name(self._path.name + MOVED))
        except OSError as error:
            raise StorageError(f"{self._path} was moved to {other}, and cannot be renamed: {error}") from error

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
