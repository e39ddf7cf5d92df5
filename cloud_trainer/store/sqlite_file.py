"""The store's file: its tables, how older versions of them are read, and how it is opened."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.errors import ConfigError
from hierarchy.runtime.state import DatabaseLayout

# The trainer writes from two threads, each in transactions of a part of a second; a slow disk may take longer.
BUSY_SECONDS = 60.0

# Behind the name of a file whose run has moved.
MOVED = ".moved"

# The store alone is not to be moved away: checkpoints without their log are refused.
AFTER_DAMAGE = "put a copy of it back, or choose another --run-dir to start anew"

# fleet: the name of the log where several robots share it; empty in a robot's own. An event that is of no robot in
# particular has no robot. logged: the events, each with the name of its log. wiped: logs of which something is gone.
LOGS = """
CREATE INDEX events_of_log ON events (CASE fleet WHEN '' THEN robot ELSE fleet END, id);
CREATE INDEX states_of_robot ON events (robot, id) WHERE kind IN ('start', 'rejoin', 'join');
CREATE VIEW logged AS SELECT CASE fleet WHEN '' THEN robot ELSE fleet END AS log, * FROM events;
"""

TABLES = f"""
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, robot TEXT NOT NULL, fleet TEXT NOT NULL DEFAULT '',
    kind TEXT NOT NULL, boot TEXT, sequence INTEGER, payload BLOB NOT NULL
);
CREATE INDEX events_of_robot ON events (robot, id);
{LOGS}
CREATE UNIQUE INDEX events_once ON events (robot, boot, sequence) WHERE sequence IS NOT NULL;
CREATE TABLE metrics (robot TEXT PRIMARY KEY, payload BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE wiped (robot TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE forgotten (
    robot TEXT NOT NULL, boot TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY (robot, boot, first)
) WITHOUT ROWID;
"""

# Version 6 knew robots' own logs only, and `wiped` was those of which samples of forgotten classes were overwritten.
WITHOUT_FLEETS = """
ALTER TABLE events ADD COLUMN fleet TEXT NOT NULL DEFAULT '';
INSERT OR IGNORE INTO wiped SELECT DISTINCT robot FROM forgotten;
"""
AS_IF_FLEETS = """
CREATE TEMP VIEW logged AS SELECT robot AS log, * FROM events;
CREATE TEMP VIEW wiped AS SELECT robot FROM main.wiped UNION SELECT robot FROM main.forgotten;
"""

# "rflx". Version 5 did not say who wrote it.
LAYOUT = DatabaseLayout(
    application=0x72666C78,
    version=7,
    tables=TABLES,
    migrations={5: "", 6: WITHOUT_FLEETS + LOGS},
    views={5: AS_IF_FLEETS, 6: AS_IF_FLEETS},
)


def connect(path: Path, *, reading: bool) -> sqlite3.Connection:
    """Connect to a database. Raises sqlite3.OperationalError, and ConfigError where its log cannot be read.

    reading: nothing will be written, so the disk may be read-only. sqlite wants to write beside the file even then.
    """
    # Opened on one thread and used on another, never on two at a time.
    database = sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False)
    try:
        database.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError:
        database.close()
        if not reading:
            raise
    except sqlite3.DatabaseError:  # no database at all: whoever uses it will see
        return database
    else:
        return database
    # Taken for a file that nobody writes to, it is read as it is, without what only sqlite's own log holds.
    own_log = path.with_name(path.name + "-wal")
    if own_log.exists() and own_log.stat().st_size:
        raise ConfigError(
            f"the store {path} was not closed, and {own_log.name} beside it, which holds the newest of it, cannot be "
            f"read in a folder that is read-only: copy {path.parent} to where you may write, and use it there"
        )
    return sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True, isolation_level=None)


@contextmanager
def damage_explained(path: Path | str) -> Iterator[None]:
    """Raise ConfigError where a store turns out to be damaged, or cannot be read, long after it was opened."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise ConfigError(f"the store {path} is damaged, or cannot be read: {error}; {AFTER_DAMAGE}") from error
