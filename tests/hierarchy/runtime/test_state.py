from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from broker.errors import ConfigError
from broker.program.version import program_version
from hierarchy.runtime.state import DatabaseLayout, Layout

FILE = Path("one.json")


@dataclass(frozen=True, kw_only=True)
class Inner:
    words: list[tuple[int, str]]


@dataclass(frozen=True, kw_only=True)
class Thing:
    count: int
    inner: Inner | None = None
    numbers: dict[str, float]


def with_count(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "count": fields.pop("size")}


def with_numbers(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "numbers": {}}


LAYOUT = Layout(kind=Thing, migrations=(with_count, with_numbers))
THING = Thing(count=2**127, inner=Inner(words=[(1, "ä\udcff")]), numbers={"a": 0.1})


def test_what_is_saved_is_read_again_and_says_who_wrote_it() -> None:
    packed = json.loads(json.dumps(LAYOUT.pack(THING)))
    assert (packed["schema"], packed["written_by"]) == (2, program_version())
    assert LAYOUT.unpack(FILE, packed) == THING


@pytest.mark.parametrize("old", [{"size": 5}, {"schema": 1, "written_by": "reflexarc 0.1", "count": 5}])
def test_older_versions_are_migrated_step_by_step(old: dict[str, Any]) -> None:
    before = json.dumps(old)
    assert LAYOUT.unpack(FILE, old) == Thing(count=5, numbers={})
    assert json.dumps(old) == before


def test_a_newer_version_is_refused_with_who_wrote_it_and_what_to_do() -> None:
    packed = {**LAYOUT.pack(THING), "schema": 3, "written_by": "reflexarc 9.0"}
    with pytest.raises(
        ConfigError,
        match=r"one\.json was written by reflexarc 9\.0\. This .* to layout 2; .* layout 3, .*: update it, or",
    ):
        LAYOUT.unpack(FILE, packed)


@pytest.mark.parametrize(
    "damaged",
    [
        *(None, [], 5, {"schema": 2, "count": "many", "numbers": {}}, {"schema": 2, "count": 1}),
        *({"schema": schema, "size": 5, "count": 5, "numbers": {}} for schema in (True, -1, "2", None)),
    ],
)
def test_what_is_no_such_state_is_damaged(damaged: object) -> None:
    with pytest.raises(ValueError, match=r"xpected|missing"):
        LAYOUT.unpack(FILE, damaged)


def test_what_is_nested_deeper_than_python_follows_is_damaged(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"numbers": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(ValueError, match="nested too deeply"):
        LAYOUT.read(tmp_path / FILE)


TABLES = DatabaseLayout(
    application=77, version=3, tables="CREATE TABLE b (x);", migrations={1: "ALTER TABLE a RENAME TO b;", 2: ""}
)


def database(path: Path, version: int, *, application: int = 77, table: str = "a") -> sqlite3.Connection:
    made = sqlite3.connect(path, isolation_level=None)
    made.executescript(
        f"PRAGMA application_id = {application}; PRAGMA user_version = {version}; CREATE TABLE {table} (x);"
        f"INSERT INTO {table} VALUES (5);"
    )
    return made


def tables_in(made: sqlite3.Connection) -> set[str]:
    return {name for (name,) in made.execute("SELECT name FROM sqlite_master")}


def test_a_database_of_an_older_version_is_migrated_and_signed(tmp_path: Path) -> None:
    made = database(tmp_path / "x.db", 1)
    TABLES.take_up(made, tmp_path / "x.db", "no such thing")
    assert made.execute("SELECT x FROM b").fetchall() == [(5,)]
    assert made.execute("SELECT program FROM written_by").fetchall() == [(program_version(),)]
    assert made.execute("PRAGMA user_version").fetchone() == (3,)
    made.close()


def test_a_database_that_is_only_read_stays_as_it_is(tmp_path: Path) -> None:
    made = database(tmp_path / "x.db", 2)
    TABLES.take_up(made, tmp_path / "x.db", "no such thing", reading=True)
    assert tables_in(made) == {"a"}
    made.close()


@pytest.mark.parametrize(
    ("version", "application", "signed", "says"),
    [
        (4, 77, True, r"x\.db was written by reflexarc 9\.0\. This is .*: update it"),
        (4, 77, False, r"x\.db was written by a newer version of Reflexarc\. This is .*: update it"),
        (0, 77, False, "no such thing"),
        (3, 78, False, "no such thing"),
    ],
)
def test_a_database_of_an_unknown_version_is_left_alone(
    tmp_path: Path, version: int, application: int, signed: bool, says: str
) -> None:
    made = database(tmp_path / "x.db", version, application=application)
    if signed:
        made.executescript("CREATE TABLE written_by (program); INSERT INTO written_by VALUES ('reflexarc 9.0');")
    before = tables_in(made)
    with pytest.raises(ConfigError, match=says):
        TABLES.take_up(made, tmp_path / "x.db", "no such thing")
    assert tables_in(made) == before
    made.close()
