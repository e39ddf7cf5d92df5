"""Saved state: typed, with the version of its layout and the program that wrote it.

A file of an older version is migrated when it is read. A file of a newer version is refused.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from broker.errors import ConfigError
from broker.program.version import program_version

SCHEMA, WRITTEN_BY = "schema", "written_by"

# Written into each sqlite file when it is made or migrated.
SIGNATURE = """
CREATE TABLE IF NOT EXISTS written_by (program TEXT NOT NULL);
DELETE FROM written_by;
INSERT INTO written_by VALUES ('{program}');
"""

State = TypeVar("State")

# Makes of the fields of one version those of the next.
Migration = Callable[[dict[str, Any]], dict[str, Any]]
# Stands for what JSON cannot hold: `Pack` is given it and returns its name, `Unpack` its type and name.
Pack = Callable[[Any], str]
Unpack = Callable[[type, Any], Any]


@dataclass(frozen=True, kw_only=True)
class Layout(Generic[State]):
    """The versions of one kind of saved state.

    kind: a dataclass without defaults, what the newest version holds. migrations: the first one takes version 0, which
    has no number in the file.
    """

    kind: type[State]
    migrations: tuple[Migration, ...]

    def pack(self, state: State, other: Pack | None = None) -> dict[str, Any]:
        """Return a state as JSON can hold it. other: for what JSON cannot hold."""
        fields: dict[str, Any] = msgspec.to_builtins(state, enc_hook=other)
        return {SCHEMA: len(self.migrations), WRITTEN_BY: program_version(), **fields}

    def unpack(self, where: Path, packed: object, other: Unpack | None = None) -> State:
        """Return the state that `pack` of this or an older version made JSON of.

        where: the file, for errors. Raises ConfigError where a newer version wrote it, and ValueError or KeyError where
        it is no such state.
        """
        if not isinstance(packed, dict):
            raise ValueError(f"expected an object, got {type(packed).__name__}")
        fields = dict(packed)
        version = fields.get(SCHEMA, 0)
        if type(version) is not int or version < 0:
            raise ValueError(f"{SCHEMA} is {version!r}, expected a number from 0 on")
        if version > len(self.migrations):
            raise newer(where, str(fields.get(WRITTEN_BY)), version, len(self.migrations))
        for migrate in self.migrations[version:]:
            fields = migrate(fields)
        return msgspec.convert(fields, self.kind, dec_hook=other)

    def read(self, path: Path) -> State:
        """Return the state in a JSON file. Raises OSError, and what `unpack` does."""
        try:
            return self.unpack(path, json.loads(path.read_text()))
        except RecursionError as error:
            raise ValueError(f"nested too deeply: {error}") from error


@dataclass(frozen=True, kw_only=True)
class DatabaseLayout:
    """The versions of one kind of sqlite file.

    application: number that tells these files from those of other programs. tables: SQL that makes the newest version.
    migrations: SQL that makes of a version the next, for each of the older ones that are taken up. views: SQL that
    lets a version be read as the newest, where it must stay as it is.
    """

    application: int
    version: int
    tables: str
    migrations: Mapping[int, str] = field(default_factory=dict)
    views: Mapping[int, str] = field(default_factory=dict)

    @property
    def creation(self) -> str:
        """SQL that makes of an empty database one of the newest version, for within a transaction."""
        return f"PRAGMA application_id = {self.application}; {self.tables}; {self._signature}"

    @property
    def _signature(self) -> str:
        return f"PRAGMA user_version = {self.version}; {SIGNATURE.format(program=program_version())}"

    def take_up(self, database: sqlite3.Connection, path: Path, otherwise: str, *, reading: bool = False) -> None:
        """See that a database is of this kind, and migrate an older one unless it is only read.

        Raises ConfigError where a newer version wrote it, or with the text ``otherwise`` where it is of no version that
        is known; and sqlite3.Error.
        """
        (application,), (version,) = (
            database.execute(query).fetchone() for query in ("PRAGMA application_id", "PRAGMA user_version")
        )
        if application == self.application and version > self.version:
            raise newer(path, _signed_by(database), version, self.version)
        if application != self.application or version not in {self.version, *self.migrations}:
            raise ConfigError(otherwise)
        if reading:
            database.executescript(self.views.get(version, ""))
        elif version < self.version:
            steps = "".join(self.migrations[number] for number in range(version, self.version))
            database.executescript(f"BEGIN IMMEDIATE; {steps} {self._signature} COMMIT;")


def newer(where: Path | str, program: str, layout: int, newest: int) -> ConfigError:
    """Return the error of what a newer version of the program wrote. newest: layout that this one reads."""
    return ConfigError(
        f"{where} was written by {program}. This is {program_version()}, which reads up to layout {newest}; the file "
        f"has layout {layout}, so the program cannot read it: update it, or choose another folder"
    )


def _signed_by(database: sqlite3.Connection) -> str:
    try:
        return str(database.execute("SELECT program FROM written_by").fetchone()[0])
    except (sqlite3.Error, TypeError):
        return "a newer version of Reflexarc"
