"""A connection to a PostgreSQL server that is made again where it broke.

Only this file and `postgres.py` know psycopg.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from broker.errors import StorageError

# A server that does not answer is away. What it takes to notice that of one that was there, too.
CONNECT_SECONDS = 5
ALIVE = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
# While a server is away.
RETRY_SECONDS = 0.5

# A receipt tells the robot to delete its copy: a commit has to be on the disk. A process that is cut off must not keep
# a log's row for ever, nor wait for one.
SETTINGS = """
SELECT set_config('synchronous_commit', 'on', false), set_config('lock_timeout', '20s', false),
    set_config('idle_in_transaction_session_timeout', '30s', false), set_config('tcp_keepalives_idle', '10', false)
"""

# Rows with payloads of up to a megabyte that are in memory at a time.
AT_ONCE = 32

# What a server that is away, full or in trouble makes psycopg raise.
TROUBLE = (psycopg.OperationalError, psycopg.InternalError, psycopg.InterfaceError)

Row = tuple[Any, ...]


class Connection:
    """Questions to the server, one by one or in a transaction. Of one thread, but for ``give_up``.

    in_transaction: whether one has begun.
    """

    def __init__(self, place: str, *, waits: bool) -> None:
        """Connect. waits: what is read outside of a transaction waits for a server that is away.

        Raises StorageError.
        """
        self.in_transaction = False
        self._place = place
        self._waits = waits
        self._greeting = ""
        self._given_up = threading.Event()
        try:
            self._connection = self._connect()
        except TROUBLE as error:
            raise StorageError(f"no store at {place}: {said(error)}") from error

    def read(self, query: str, values: Sequence[object] = ()) -> list[Row]:
        """Return the rows of an answer. Raises StorageError; what a transaction has done is to be rolled back then."""
        was_connected = True
        while True:
            try:
                return self.execute(query, values)
            except TROUBLE as error:  # noqa: PERF203  time does not matter then
                # The server may have been started again since the last question.
                again = (was_connected and self.broken) or (self._waits and not self._given_up.wait(RETRY_SECONDS))
                was_connected = False
                if self.in_transaction or not again:
                    raise StorageError(f"the store cannot be read: {said(error)}") from error

    def execute(self, query: str, values: Sequence[object] = ()) -> list[Row]:
        """Do what a query says, and return its rows. Raises psycopg.Error."""
        if self._connection.closed and not self.in_transaction:
            self._connection = self._connect()
        cursor = self._connection.execute(query.encode(), values or None, binary=True)
        return cursor.fetchall() if cursor.description else []

    def greet(self, query: str) -> None:
        """Ask something now, and of each connection from now on before anything else. Raises psycopg.Error."""
        self._greeting = query
        self.execute(query)

    def copy_in(self, query: str, rows: Iterable[Row]) -> None:
        """Write rows into a table. Raises psycopg.Error."""
        with self._connection.cursor() as cursor, cursor.copy(query.encode()) as copy:
            for row in rows:
                copy.write_row(row)

    def stream(self, query: str) -> Iterator[Row]:
        """Yield the rows of an answer, some at a time, in a transaction of their own. Raises psycopg.Error."""
        self.begin()
        try:
            with self._connection.cursor("rows", binary=True) as cursor:
                cursor.itersize = AT_ONCE
                yield from cursor.execute(query.encode())
        finally:
            self.roll_back()

    def begin(self) -> None:
        """Begin a transaction, over a new connection where the former one broke unnoticed. Raises psycopg.Error."""
        try:
            self.execute("BEGIN")
        except TROUBLE:
            if not self._connection.closed:
                raise
            self.execute("BEGIN")
        self.in_transaction = True

    def commit(self) -> None:
        """Commit. Raises psycopg.Error; where ``broken`` then, nobody knows whether it is committed."""
        self.execute("COMMIT")
        self.in_transaction = False

    def roll_back(self) -> None:
        """Undo the transaction, if one has begun."""
        if self.in_transaction and not self._connection.closed:
            try:
                self.execute("ROLLBACK")
            except psycopg.Error:
                self._connection.close()
        self.in_transaction = False

    @property
    def broken(self) -> bool:
        """Whether the connection is gone."""
        return self._connection.closed

    def give_up(self) -> None:
        """Wait no more."""
        self._given_up.set()

    def close(self) -> None:
        """Close it; what was not committed is gone."""
        self._connection.close()

    def _connect(self) -> psycopg.Connection[Row]:
        place = make_conninfo(self._place, application_name="cloud-trainer", **ALIVE)
        connection = psycopg.connect(place, autocommit=True)
        connection.execute(SETTINGS)
        if self._greeting:
            connection.execute(self._greeting.encode())
        return connection


def said(error: BaseException) -> str:
    """Return what a server, or the way to it, says, in a line."""
    return " ".join(str(error).split())
