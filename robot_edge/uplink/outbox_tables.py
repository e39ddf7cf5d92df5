"""The outbox as sqlite has it: tables, versions, and in which order messages go up and go."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from hierarchy.runtime.state import DatabaseLayout

# sqlite's own, and its smallest unit: a message takes whole pages.
PAGE_BYTES = 4096
# What sqlite's log is cut back to; it comes on top of the limit.
LOG_BYTES = 4_000_000

TABLES = """
CREATE TABLE messages (
    id INTEGER PRIMARY KEY, boot TEXT NOT NULL, sequence INTEGER NOT NULL, evaluation INTEGER NOT NULL,
    size INTEGER NOT NULL, commonness REAL NOT NULL, payload BLOB NOT NULL
);
CREATE INDEX messages_by_rarity ON messages (commonness, id);
-- What may have reached the trainer: no more than a window of messages, and never evicted.
CREATE TABLE sent (id INTEGER PRIMARY KEY);
CREATE TABLE samples (
    message INTEGER NOT NULL, class TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (message, class)
) WITHOUT ROWID;
CREATE INDEX samples_of_class ON samples (class, count DESC, message);
CREATE TABLE classes (
    name TEXT PRIMARY KEY, taken INTEGER NOT NULL, receipted INTEGER NOT NULL, rejected INTEGER NOT NULL,
    dropped INTEGER NOT NULL
) WITHOUT ROWID;
-- All class edits of the run; message is NULL once a trainer has it.
CREATE TABLE edits (number INTEGER PRIMARY KEY, message INTEGER, payload BLOB NOT NULL);
CREATE TABLE totals (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""

# "rflo". Version 4 did not say who wrote it.
LAYOUT = DatabaseLayout(application=0x72666C6F, version=5, tables=TABLES, migrations={4: ""})

# What was never sent: of late, and before that in one of two orders.
LIVE = "SELECT id, boot, sequence, size FROM messages WHERE id >= ? AND id NOT IN (SELECT id FROM sent) ORDER BY id"
# Once the trainer is back, or where the link cannot carry all.
OLDEST_FIRST = LIVE.replace("id >= ?", "id < ?")
RAREST_FIRST = f"{OLDEST_FIRST.removesuffix('id')}commonness, id"
# What may be given up.
OF_COMMONNESS = """
    SELECT id, boot, sequence, size FROM messages WHERE commonness = ? AND id NOT IN (SELECT id FROM sent) ORDER BY id
"""
OLDEST = """
    SELECT id, boot, sequence, size FROM messages
    WHERE id > ? AND id NOT IN (SELECT id FROM sent)
    AND id NOT IN (SELECT message FROM edits WHERE message IS NOT NULL) ORDER BY id
"""
OF_CLASS = """
    SELECT id, boot, sequence, size FROM samples CROSS JOIN messages ON id = message
    WHERE class = ? AND message NOT IN (SELECT id FROM sent) ORDER BY count DESC, message
"""


def prepare(database: sqlite3.Connection, path: Path, durable: bool) -> None:
    """Set a database up as an outbox. Raises ConfigError where it is another program's, and sqlite3.Error."""
    run = database.execute
    # A process of its own has it, by the run folder's lock; so sqlite needs no memory shared through another file.
    run("PRAGMA locking_mode = EXCLUSIVE")
    (objects,) = run("SELECT count(*) FROM sqlite_master").fetchone()
    if objects:
        otherwise = f"{path} is no outbox of this version of robot-edge: move it away, or use another --run-dir"
        LAYOUT.take_up(database, path, otherwise)
    run("PRAGMA journal_mode = WAL")
    run(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    run(f"PRAGMA journal_size_limit = {LOG_BYTES}")
    if not objects:
        database.executescript(f"BEGIN; {LAYOUT.creation} COMMIT;")
