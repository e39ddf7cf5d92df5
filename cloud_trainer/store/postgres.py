"""The log in a PostgreSQL database: of a trainer whose robots are spread over processes and machines.

A log has a row. Whoever appends to the log holds that row until the commit, and draws the event's id behind it. So ids
become visible in their order: without the row, id 5 might appear when a reader has passed 6. The same row has the epoch
of the log's owner. Former owners find another epoch than theirs in it, and write nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from broker.errors import ConfigError, NotEntered, StorageError, Superseded
from broker.program.version import program_version
from cloud_trainer.logs import is_shared, title
from cloud_trainer.sequences import Range, join_ranges
from cloud_trainer.store.log import (
    MAX_RANGES,
    STATES,
    TIDIED_AT_ONCE,
    Event,
    Kind,
    Message,
    NewMessage,
    Store,
    Table,
    is_there,
)
from cloud_trainer.store.postgres_connection import AT_ONCE, TROUBLE, Connection, said
from cloud_trainer.store.postgres_tables import (
    ALONE,
    DROP,
    EVENT_BYTES,
    HAS_MOVED,
    INDEX,
    LEAVE,
    NUMBER,
    OPEN,
    TABLES,
    VERSION,
    check_version,
)

# Of what a process that receipts messages may enter, too: that a robot goes on with a network that is there.
# What somebody can do who may not make a run's tables.
ADVICE = {
    psycopg.errors.InsufficientPrivilege: "GRANT USAGE, CREATE ON SCHEMA ... TO the URL's user lets it make tables",
    psycopg.errors.InvalidSchemaName: "CREATE SCHEMA makes the one that search_path names",
}
UNFENCED = ("rejoin", "join")

LOCK = "SELECT epoch FROM logs WHERE name = %s FOR UPDATE"
INSERT_MESSAGE = """
INSERT INTO events (log, robot, kind, boot, sequence, payload)
SELECT %s, %s, %s, %s, %s::bigint, %s WHERE NOT EXISTS (
    SELECT 1 FROM forgotten WHERE robot = %s AND boot = %s AND first <= %s AND last >= %s
)
ON CONFLICT (robot, boot, sequence) WHERE sequence IS NOT NULL DO NOTHING RETURNING id
"""
LOCK_ALL = "SELECT name, epoch FROM logs WHERE name = ANY(%s) ORDER BY name FOR UPDATE"
ENTERED = """
SELECT log, robot FROM entered JOIN unnest(%s::text[], %s::text[]) AS asked (log, robot) USING (log, robot)
"""
# %b: as text, payloads would take twice the bytes, and most of the time.
INSERT_MESSAGES = """
INSERT INTO events (log, robot, kind, boot, sequence, payload)
SELECT log, robot, kind, boot, sequence, payload
FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], %b::bytea[])
    WITH ORDINALITY AS new (log, robot, kind, boot, sequence, payload, place)
WHERE NOT EXISTS (
    SELECT 1 FROM forgotten AS gone WHERE gone.robot = new.robot AND gone.boot = new.boot
    AND gone.first <= new.sequence AND gone.last >= new.sequence
)
ORDER BY place
ON CONFLICT (robot, boot, sequence) WHERE sequence IS NOT NULL DO NOTHING RETURNING id, robot, boot, sequence
"""
COUNT = """
UPDATE logs SET bytes = bytes + added, last = greatest(last, newest)
FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) AS done (log, added, newest) WHERE name = log
"""
# Columns of no message.
NONE: list[object] = [[], [], [], [], [], []]
IS_THERE = """
SELECT 1 FROM events WHERE id = %s AND log = %s AND robot = %s AND kind = %s
AND boot IS NOT DISTINCT FROM %s AND sequence IS NOT DISTINCT FROM %s::bigint
"""
# Events by what they say, with their ids.
Appended = dict[tuple[str, Kind, bytes, str], int]


@dataclass(kw_only=True)
class Transaction:
    """What has been done since the last commit.

    epochs: of the logs whose rows are held. added: bytes, by log. last: id of the newest event, by log. appended:
    events other than messages. witness: id, log, robot, kind, boot and sequence of an event: where it is there, all is.
    """

    epochs: dict[str, int] = field(default_factory=dict)
    added: Counter[str] = field(default_factory=Counter)
    last: dict[str, int] = field(default_factory=dict)
    appended: Appended = field(default_factory=dict)
    witness: tuple[int, str, str, Kind, str | None, int | None] | None = None


class PostgresStore(Store):
    """A store in a database that other processes write to at the same time.

    Where rows of several logs are taken they are taken in the order of the logs' names, or else what was appended is
    committed first: so no two processes wait for each other.
    """

    def __init__(
        self, place: str, settings: dict[str, Any] | None = None, *, waits: bool = False, anew: bool = False
    ) -> None:
        """Open a store, or make one where settings are given. waits: reading waits for a server that is away.
        anew: where a store has moved away, make another one.

        Raises ConfigError where there is none, and StorageError.
        """
        self.claims: dict[str, int] = {}
        self._place = place
        self._connection = Connection(place, waits=waits)
        self._transaction = Transaction()
        self._metrics: dict[str, bytes] = {}  # to keep with the next commit, the last rows that it takes
        self._entered = set[tuple[str, str]]()  # logs and robots
        self._doubt: Transaction | None = None  # nobody could tell whether it was committed
        self._there: Appended = {}  # of transactions that were taken for lost
        try:
            if settings is not None:
                self._make(settings, anew=anew)
            self.settings = self._take_up()
        except psycopg.Error as error:
            self.close()
            message = error.diag.message_primary or said(error)
            advice = next((f"; {text}" for kind, text in ADVICE.items() if isinstance(error, kind)), "")
            raise ConfigError(f"{place} cannot be used: {message}{advice}") from error
        except BaseException:
            self.close()
            raise

    # Who owns a log

    def claim(self, log: str, owner: str) -> int:
        self.commit()
        with self._storage_errors():
            self._hold(log, makes=True)
            ((epoch,),) = self._connection.execute(
                "UPDATE logs SET epoch = epoch + 1, owner = %s WHERE name = %s RETURNING epoch", (owner, log)
            )
        self.commit()
        self.claims[log] = epoch
        return int(epoch)

    def last_events(self, logs: Sequence[str]) -> dict[str, int]:
        return dict(self._read("SELECT name, last FROM logs WHERE name = ANY(%s) AND last > 0", list(logs)))

    def _hold(self, log: str, *, makes: bool = False) -> None:
        """Take a log's row until the commit. makes: where there is none, make it. Raises psycopg.Error."""
        held = self._transaction.epochs
        if log in held:
            return
        self._begin()
        in_order = not held or log > max(held)
        found = self._connection.execute(LOCK if in_order else f"{LOCK} SKIP LOCKED", (log,))
        if not found and not in_order:
            self.commit()
            self._begin()
            found = self._connection.execute(LOCK, (log,))
        if not found and makes:
            self._connection.execute("INSERT INTO logs (name) VALUES (%s) ON CONFLICT DO NOTHING", (log,))
            found = self._connection.execute(LOCK, (log,))
        if found:
            ((self._transaction.epochs[log],),) = found

    def _hold_as_owner(self, log: str, kind: Kind = "forget") -> None:
        """Take a log's row to do what only its owner may. Raises Superseded, and psycopg.Error."""
        self._hold(log, makes=True)
        own, epoch = self.claims.get(log), self._transaction.epochs[log]
        if own != epoch and not (own is None and kind in UNFENCED):
            self.commit()  # of other logs, maybe: they are not to wait
            whose = f"with epoch {own}, and its epoch is {epoch}" if own else "without having claimed it"
            raise Superseded(f"{title(log)} is trained by another process: this one came to it {whose}")

    # Writing

    def append_message(
        self, robot: str, boot: str, sequence: int, payload: bytes, kind: Message = "batch", log: str = ""
    ) -> int:
        log = log if is_shared(log) else robot
        with self._storage_errors():
            self._hold(log)
            if (log, robot) not in self._entered:
                if not self._connection.execute("SELECT 1 FROM entered WHERE log = %s AND robot = %s", (log, robot)):
                    raise NotEntered(f"robot {robot} has entered no state into the log of {title(log)}")
                self._entered.add((log, robot))
            added = self._connection.execute(
                INSERT_MESSAGE,
                (log, robot, kind, boot, sequence, payload, robot, boot, sequence, sequence),
            )
            return self._note((added[0][0], log, robot, kind, boot, sequence), payload) if added else 0

    def append_messages(self, messages: Sequence[NewMessage]) -> list[int | None]:
        if self._transaction.epochs:
            self.commit()
        logs = [one.log if is_shared(one.log) else one.robot for one in messages]
        with self._storage_errors():
            self._begin()
            self._transaction.epochs |= dict(self._connection.execute(LOCK_ALL, (sorted(set(logs)),)))
            self._look_up(set(zip(logs, (one.robot for one in messages), strict=True)) - self._entered)
            taken = [(log, one) for log, one in zip(logs, messages, strict=True) if (log, one.robot) in self._entered]
            columns = [(log, one.robot, one.kind, one.boot, one.sequence, one.payload) for log, one in taken]
            rows = self._connection.execute(INSERT_MESSAGES, [list(one) for one in zip(*columns, strict=True)] or NONE)
        ids = {(robot, boot, sequence): event for event, robot, boot, sequence in rows}
        found = list[int | None]()
        for log, one in zip(logs, messages, strict=True):
            event = ids.pop((one.robot, one.boot, one.sequence), 0)
            found.append(event if (log, one.robot) in self._entered else None)
            if event:
                self._note((event, log, one.robot, one.kind, one.boot, one.sequence), one.payload)
        return found

    def _look_up(self, pairs: set[tuple[str, str]]) -> None:
        """Find out which robots have entered which logs. Raises psycopg.Error."""
        if pairs:
            logs, robots = (list(one) for one in zip(*pairs, strict=True))
            self._entered |= {(log, robot) for log, robot in self._connection.execute(ENTERED, (logs, robots))}

    def append(self, log: str, kind: Kind, payload: bytes = b"", robot: str = "") -> int:
        robot = robot if is_shared(log) else log
        with self._storage_errors():
            self._hold_as_owner(log, kind)
            what = (log, kind, payload, robot)
            if (there := self._there.pop(what, 0)) and there == self.last_event(log):
                return there
            ((event,),) = self._connection.execute(
                "INSERT INTO events (log, kind, payload, robot) VALUES (%s, %s, %s, %s) RETURNING id", what
            )
            if kind in STATES:
                self._connection.execute(
                    "INSERT INTO entered VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", (log, robot, event)
                )
            self._transaction.appended[what] = event
            return self._note((event, log, robot, kind, None, None), payload)

    def _note(self, witness: tuple[int, str, str, Kind, str | None, int | None], payload: bytes) -> int:
        event, log, *_ = witness
        self._transaction.witness = witness
        self._transaction.added[log] += len(payload) + EVENT_BYTES
        self._transaction.last[log] = event
        return event

    def keep_metrics(self, robot: str, payload: bytes) -> None:
        self._metrics[robot] = payload

    def commit(self) -> None:
        kept, self._metrics = self._metrics, {}
        if not kept and not self._connection.in_transaction:
            return
        done = self._transaction
        with self._storage_errors():
            try:
                self._begin()
                if done.added:
                    added, newest = list(done.added.values()), [done.last.get(log, 0) for log in done.added]
                    self._connection.execute(COUNT, (list(done.added), added, newest))
                for robot in sorted(kept):
                    self._connection.execute(
                        "INSERT INTO metrics VALUES (%s, %s) "
                        "ON CONFLICT (robot) DO UPDATE SET payload = EXCLUDED.payload",
                        (robot, kept[robot]),
                    )
                self._connection.commit()
            except TROUBLE:
                if not (self._connection.broken and done.witness):
                    raise
                self._connection.roll_back()
                committed = self._was_committed(done)
                if committed is None:
                    self._doubt = done
                if not committed:
                    raise
        self._transaction = Transaction()

    def _begin(self) -> None:
        """Begin a transaction, once it is known what became of one that a connection broke in. Raises psycopg.Error."""
        if self._connection.in_transaction:
            return
        if self._doubt:
            committed = self._was_committed(self._doubt)
            if committed is None:
                raise psycopg.OperationalError("it is not known yet what became of the last commit")
            self._there |= self._doubt.appended if committed else {}
            self._doubt = None
        self._connection.begin()
        self._transaction = Transaction()

    def _was_committed(self, done: Transaction) -> bool | None:
        """Return what became of a transaction that the connection broke in; None where nobody can tell now.

        The server may still be at work on it: then it holds the log's row. (The server's own numbers of transactions do
        not tell: behind a crash it gives them out once more.)
        """
        assert done.witness
        try:
            self._connection.begin()
            self._connection.execute(LOCK, (done.witness[1],))
            return bool(self._connection.execute(IS_THERE, done.witness))
        except TROUBLE:
            return None
        finally:
            self._connection.roll_back()

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except TROUBLE as error:
            self._undo()
            raise StorageError(f"the store cannot be written: {said(error)}") from error

    def _undo(self) -> None:
        """Undo what was done since the last commit."""
        self._connection.roll_back()
        self._transaction = Transaction()
        self._entered.clear()  # what was looked up may have been undone

    # What is there

    def _read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            return self._connection.read(query, values)
        except StorageError:
            self._undo()
            raise

    def _scalar(self, query: str, *values: object) -> Any:
        return self._read(query, *values)[0][0]

    def metrics(self, robot: str) -> bytes | None:
        rows = self._read("SELECT payload FROM metrics WHERE robot = %s", robot)
        return self._metrics.get(robot) or (rows[0][0] if rows else None)

    def robots(self) -> list[str]:
        return [row[0] for row in self._read("SELECT robot FROM entered GROUP BY robot ORDER BY min(first)")]

    def logs(self) -> list[str]:
        return [row[0] for row in self._read("SELECT log FROM entered GROUP BY log ORDER BY min(first)")]

    def next_event(self, log: str, cursor: int) -> Event | None:
        rows = self._read(
            "SELECT id, robot, kind, payload FROM events WHERE log = %s AND id > %s ORDER BY id LIMIT 1", log, cursor
        )
        return next((Event(id=row[0], robot=row[1], kind=row[2], payload=row[3]) for row in rows), None)

    def has_events(self, log: str, cursor: int) -> bool:
        return bool(self._scalar("SELECT EXISTS (SELECT 1 FROM events WHERE log = %s AND id > %s)", log, cursor))

    def states(self, log: str) -> list[Event]:
        rows = self._read(
            "SELECT id, robot, kind, payload FROM events "
            "WHERE log = %s AND kind IN ('start', 'rejoin', 'join') ORDER BY id",
            log,
        )
        return [Event(id=row[0], robot=row[1], kind=row[2], payload=row[3]) for row in rows]

    def states_of(self, robot: str) -> list[tuple[str, Event]]:
        rows = self._read(
            "SELECT id, log, kind, payload FROM events "
            "WHERE robot = %s AND kind IN ('start', 'rejoin', 'join') ORDER BY id",
            robot,
        )
        return [(row[1], Event(id=row[0], robot=robot, kind=row[2], payload=row[3])) for row in rows]

    def batch_bytes(self, log: str) -> dict[str, int]:
        return dict(
            self._read(
                "SELECT robot, sum(octet_length(payload)) FROM events WHERE log = %s AND kind = 'batch' GROUP BY robot",
                log,
            )
        )

    def count_batches(self, log: str, after: int, up_to: int) -> dict[str, int]:
        return dict(
            self._read(
                "SELECT robot, count(*) FROM events WHERE log = %s AND kind = 'batch' AND id > %s AND id <= %s "
                "GROUP BY robot",
                *(log, after, up_to),
            )
        )

    def last_event(self, log: str) -> int:
        return int(self._scalar("SELECT coalesce(max(id), 0) FROM events WHERE log = %s", log))

    def event_count(self, log: str) -> int:
        return int(self._scalar("SELECT count(*) FROM events WHERE log = %s", log))

    def batches(self, events: Sequence[int]) -> Iterator[bytes]:
        for start in range(0, len(events), AT_ONCE):
            wanted = list(events[start : start + AT_ONCE])
            found = dict(self._read("SELECT id, payload FROM events WHERE id = ANY(%s)", wanted))
            for event in wanted:
                yield bytes(is_there(event, found.get(event)))

    @property
    def bytes_used(self) -> int:
        return int(self._scalar("SELECT coalesce(sum(bytes), 0)::bigint FROM logs"))

    def is_whole(self, log: str) -> bool:
        return not self._scalar("SELECT EXISTS (SELECT 1 FROM logs WHERE name = %s AND wiped)", log)

    def oldest_batches(self, log: str, robot: str, before: int, total: int) -> int:
        return int(
            self._scalar(
                "SELECT coalesce(max(id), 0) FROM ("
                "SELECT id, sum(size) OVER (ORDER BY id) - size AS held FROM ("
                "SELECT id, octet_length(payload) AS size FROM events "
                "WHERE log = %s AND robot = %s AND kind = 'batch' AND id <= %s"
                ") AS sizes) AS sums WHERE held < %s",
                *(log, robot, before, total),
            )
        )

    # Forgetting

    def forget_some(self, log: str, robot: str, up_to: int) -> bool:
        self.commit()
        with self._storage_errors():
            self._hold_as_owner(log)
            gone = self._connection.execute(
                "DELETE FROM events WHERE id IN (SELECT id FROM events "
                "WHERE log = %s AND robot = %s AND kind = 'batch' AND id <= %s ORDER BY id LIMIT %s) "
                "RETURNING boot, sequence, octet_length(payload)",
                (log, robot, up_to, TIDIED_AT_ONCE),
            )
            if gone:
                self._note_forgotten(robot, [(boot, one, one) for boot, one, _ in gone])
                self._connection.execute("UPDATE logs SET wiped = true WHERE name = %s", (log,))
                self._transaction.added[log] -= sum(size + EVENT_BYTES for _, _, size in gone)
        self.commit()
        return len(gone) == TIDIED_AT_ONCE

    def _note_forgotten(self, robot: str, gone: list[Range]) -> None:
        kept = self._connection.execute("SELECT boot, first, last FROM forgotten WHERE robot = %s", (robot,))
        ranges = join_ranges([*((boot, first, last) for boot, first, last in kept), *gone], MAX_RANGES)
        self._connection.execute("DELETE FROM forgotten WHERE robot = %s", (robot,))
        for one in ranges:
            self._connection.execute("INSERT INTO forgotten VALUES (%s, %s, %s, %s)", (robot, *one))

    def _wipe(self, log: str, payloads: Mapping[int, bytes], *, done: bool) -> None:
        """Do it. What was there is out of every question's reach; its bytes are the server's to overwrite."""
        self.commit()
        with self._storage_errors():
            self._hold_as_owner(log)
            self._connection.execute("UPDATE logs SET wiped = true WHERE name = %s", (log,))
            for event, payload in payloads.items():
                ((before,),) = self._connection.execute(
                    "SELECT octet_length(payload) FROM events WHERE id = %s", [event]
                )
                self._connection.execute("UPDATE events SET payload = %s WHERE id = %s", (payload, event))
                self._transaction.added[log] += len(payload) - before
        self.commit()

    # Checkpoints

    @property
    def is_remote(self) -> bool:
        return True

    def checkpoint(self, log: str) -> str:
        rows = self._read("SELECT checkpoint FROM logs WHERE name = %s", log)
        return str(rows[0][0]) if rows else ""

    def name_checkpoint(self, log: str, name: str) -> None:
        self.commit()
        with self._storage_errors():
            self._hold_as_owner(log)
            self._connection.execute("UPDATE logs SET checkpoint = %s WHERE name = %s", (name, log))
        self.commit()

    # Moving

    def rows(self, table: Table) -> Iterator[tuple[Any, ...]]:
        columns = {
            "events": "id, log, robot, kind, boot, sequence, payload FROM events ORDER BY id",
            "metrics": "robot, payload FROM metrics",
            "wiped": "name FROM logs WHERE wiped",
            "forgotten": "robot, boot, first, last FROM forgotten",
        }
        with self._storage_errors():
            yield from self._connection.stream(f"SELECT {columns[table]}")

    def fill(self, source: Store, checkpoints: Mapping[str, str]) -> None:
        with self._storage_errors():
            self._begin()
            try:
                self._take_over(source, checkpoints)
            except BaseException:
                self._undo()
                raise
        self.commit()

    def _take_over(self, source: Store, checkpoints: Mapping[str, str]) -> None:
        """Do it, but for the commit."""
        into = {"events": "events (id, log, robot, kind, boot, sequence, payload)"}
        tables: tuple[Table, ...] = ("events", "metrics", "forgotten")
        for table in tables:
            self._connection.copy_in(f"COPY {into.get(table, table)} FROM STDIN", source.rows(table))
        for statement in INDEX.split(";"):
            self._connection.execute(statement)
        for (log,) in source.rows("wiped"):
            self._connection.execute("UPDATE logs SET wiped = true WHERE name = %s", (log,))
        for log, name in checkpoints.items():
            self._connection.execute("UPDATE logs SET checkpoint = %s WHERE name = %s", (name, log))

    def be_alone(self) -> None:
        with self._storage_errors():
            ((_, is_alone),) = self._connection.execute(ALONE)
        if not is_alone:
            raise ConfigError(f"other processes have the store {self._place} open: end them first")

    def leave(self, other: str) -> None:
        with self._storage_errors():
            self._begin()
            *first, last = LEAVE.split(";")
            for statement in first:
                self._connection.execute(statement)
            self._connection.execute(last, (other,))
        self.commit()
        self.close()

    # Opening and closing

    def give_up(self) -> None:
        self._connection.give_up()

    def close(self) -> None:
        self._connection.close()

    def _make(self, settings: dict[str, Any], *, anew: bool) -> None:
        """Make the tables where there are none, once, however many processes begin at the same time."""
        self._connection.begin()
        self._connection.execute("SELECT pg_advisory_xact_lock(%s)", (NUMBER,))
        if anew and self._has_tables and self._connection.execute(HAS_MOVED):
            self._connection.execute(DROP)
        if not self._has_tables:
            for statement in filter(str.strip, TABLES.split(";")):
                self._connection.execute(statement)
            self._connection.execute("INSERT INTO reflexarc VALUES (%s, %s, '')", (VERSION, program_version()))
            for name, value in settings.items():
                self._connection.execute("INSERT INTO settings VALUES (%s, %s)", (name, json.dumps(value)))
        self._connection.commit()

    @property
    def _has_tables(self) -> bool:
        return bool(self._connection.execute("SELECT to_regclass('reflexarc') IS NOT NULL")[0][0])

    def _take_up(self) -> dict[str, Any]:
        """Return the settings. Raises ConfigError where there is no store, or another version's, and psycopg.Error."""
        if not self._has_tables:
            raise ConfigError(f"there is no store at {self._place}")
        ((version, program, moved_to),) = self._connection.execute(
            "SELECT version, written_by, moved_to FROM reflexarc"
        )
        check_version(self._place, version, program, moved_to)
        self._connection.greet(OPEN)
        return {name: json.loads(value) for name, value in self._connection.execute("SELECT name, value FROM settings")}
