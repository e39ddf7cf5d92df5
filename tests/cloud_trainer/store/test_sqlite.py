from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from broker.errors import ConfigError, MachineError, StorageError
from cloud_trainer.config import TrainingSettings
from cloud_trainer.store.log import Store
from cloud_trainer.store.opening import open_store
from cloud_trainer.store.sqlite import SqliteStore
from cloud_trainer.store.sqlite_file import LAYOUT
from tests.cloud_trainer.world import database, forget, limit_pages, scalar

SETTINGS = TrainingSettings(batch=4, learning_rate=0.1, rehearse_from=10, weights="none", seed=0, threads=1)
BOOT, OTHER = "a" * 16, "b" * 16


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = open_store(path, SETTINGS)
    yield store
    store.close()


def fill(store: Store, count: int, *, robot: str = "r1", first: int = 0, size: int = 10) -> None:
    """Append so many batches."""
    for sequence in range(first, first + count):
        assert store.append_message(robot, BOOT, sequence, sequence.to_bytes(4, "big") + b"x" * (size - 4))
    store.commit()


def sequences(store: Store, robot: str = "r1") -> list[int]:
    return [int.from_bytes(event.payload[:4], "big") for event in store.batches_after(robot, 0)]


def test_a_commit_waits_for_the_disk(store: Store) -> None:
    """What a power cut would leave cannot be tried here."""
    assert (scalar(store, "PRAGMA synchronous"), scalar(store, "PRAGMA journal_mode")) == (2, "wal")


def test_a_failure_takes_back_all_since_the_last_commit(store: Store) -> None:
    fill(store, 2)
    store.append_message("r1", BOOT, 2, b"0002")
    database(store).execute("ALTER TABLE events RENAME TO elsewhere")  # until it is rolled back
    with pytest.raises(StorageError):
        store.append_message("r1", BOOT, 3, b"0003")
    assert sequences(store) == [0, 1]
    fill(store, 2, first=2)
    assert sequences(store) == [0, 1, 2, 3]


APPENDS = """
import sys
from pathlib import Path
from cloud_trainer.store.sqlite import SqliteStore
store = SqliteStore(Path(sys.argv[1]), {})
sequence = int(sys.argv[2])
while True:
    for sequence in range(sequence, sequence + 3):
        store.append_message("r1", "a" * 16, sequence, sequence.to_bytes(4, "big") * 500)
    store.commit()
    sequence += 1
    print(sequence, flush=True)
"""


def test_a_kill_leaves_what_was_committed_and_an_intact_file(path: Path) -> None:
    rng, first = random.Random(0), 0
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", APPENDS, str(path), str(first)], stdout=subprocess.PIPE)
        assert process.stdout
        for _ in range(rng.randrange(1, 60)):
            said = int(process.stdout.readline())
        process.kill()
        said = max([said, *map(int, process.stdout.read().split())])
        process.stdout.close()
        process.wait()
        store = SqliteStore(path)
        assert scalar(store, "PRAGMA integrity_check") == "ok"
        there = sequences(store)
        assert there == list(range(len(there))), "a part of a commit, or a gap"
        assert said <= len(there) <= said + 3, "not what was said to be committed"
        assert len(there) % 3 == 0
        first = len(there)
        store.close()
    assert first > 6


# Forgetting


def test_forgetting_twice_joins_what_is_next_to_each_other(store: Store) -> None:
    fill(store, 3)
    fill(store, 3, first=5)
    for up_to in (2, 4, 6):
        forget(store, "r1", up_to)
    assert database(store).execute("SELECT boot, first, last FROM forgotten").fetchall() == [(BOOT, 0, 2), (BOOT, 5, 7)]
    assert store.append_message("r1", BOOT, 3, b"a gap stays open")


def test_room_that_was_forgotten_is_used_again(store: Store) -> None:
    fill(store, 100, size=5000)
    used = store.bytes_used
    assert 500_000 < used < 1_100_000
    assert store.batch_bytes("r1") == {"r1": 500_000}
    forget(store, "r1", 50)
    assert store.bytes_used < 0.6 * used
    fill(store, 50, first=100, size=5000)
    assert store.bytes_used < 1.02 * used
    assert scalar(store, "PRAGMA page_count") * scalar(store, "PRAGMA page_size") < 1.05 * used


# Wrong files


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE mine (x)")
    database.close()


def of_format(number: int, path: Path) -> None:
    open_store(path, SETTINGS).close()
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {number}")
    database.close()


def torn(path: Path) -> None:
    store = open_store(path, SETTINGS)
    fill(store, 200, size=3000)
    store.close()
    path.write_bytes(path.read_bytes()[:100] + b"\xa5" * 8000 + path.read_bytes()[8100:])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.write_text("text, and more than a header of sqlite holds " * 40), "put a copy of it back"),
        (foreign, "is no store of this version of cloud-trainer: use another --run-dir"),
        (
            partial(of_format, min(LAYOUT.migrations) - 1),
            "is no store of this version of cloud-trainer: use another --run-dir",
        ),
        (partial(of_format, LAYOUT.version + 1), r"was written by reflexarc .* cannot read it: update it, or choose"),
        (torn, "choose another --run-dir to start anew"),
        (Path.mkdir, "cannot be opened"),
    ],
    ids=["text", "foreign", "older", "newer", "torn", "folder"],
)
def test_a_file_that_is_no_store_is_left_alone_and_the_next_step_said(
    path: Path, spoil: Callable[[Path], object], says: str
) -> None:
    spoil(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(ConfigError, match=says):
        open_store(path, SETTINGS)
    assert before == (path.read_bytes() if path.is_file() else b"")


def test_other_settings_are_refused_by_name(path: Path) -> None:
    open_store(path, SETTINGS).close()
    with pytest.raises(ConfigError, match=r"made with --learning-rate 0\.1, now it is 0\.2.* another --run-dir"):
        open_store(path, replace(SETTINGS, learning_rate=0.2))
    again = open_store(path, SETTINGS)
    assert TrainingSettings(**again.settings) == SETTINGS
    again.close()


def test_a_store_that_is_only_read_is_not_made(path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no store at"):
        SqliteStore(path)
    assert not path.exists()
    path.touch()
    with pytest.raises(ConfigError, match="is no store"):
        SqliteStore(path)
    assert path.read_bytes() == b""


def test_a_store_is_made_whole_or_not_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud_trainer.store.sqlite.json.dumps", lambda _value: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        open_store(path, SETTINGS)
    monkeypatch.undo()
    store = open_store(path, SETTINGS)
    assert store.settings["batch"] == 4
    assert scalar(store, "PRAGMA application_id") == LAYOUT.application
    store.close()


# A full disk


def fill_up(store: Store, size: int) -> None:
    """Append batches, three in a commit."""
    for first in range(0, 10**6, 3):
        fill(store, 3, first=first, size=size)


def check_full(store: Store, size: int, make_room: Callable[[], object]) -> None:
    with pytest.raises(StorageError, match="the store cannot be written"):
        fill_up(store, size)
    there = sequences(store)
    assert there == list(range(len(there)))
    assert len(there) >= 3
    assert len(there) % 3 == 0, "a part of a commit is there"
    assert scalar(store, "PRAGMA integrity_check") == "ok"
    with pytest.raises(StorageError):
        fill(store, 3, first=len(there), size=size)
    make_room()
    fill(store, 3, first=len(there), size=size)
    assert sequences(store) == list(range(len(there) + 3))
    assert scalar(store, "PRAGMA integrity_check") == "ok"


def test_a_full_file_takes_nothing_or_all_and_goes_on_when_there_is_room(store: Store) -> None:
    limit_pages(store, 20)
    check_full(store, 5000, lambda: limit_pages(store, -1))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount")
def test_a_full_disk_takes_nothing_or_all_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode:
        pytest.skip("this root cannot mount")
    try:
        store = open_store(disk / "store.db", SETTINGS)
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(300_000))
        try:
            check_full(store, 20_000, ballast.unlink)
        finally:
            store.close()
    finally:
        subprocess.run(["umount", disk], check=True)


# Size


def test_reading_a_long_log_holds_one_event_at_a_time(store: Store) -> None:
    count = 20_000
    database(store).execute("BEGIN")
    database(store).executemany(
        "INSERT INTO events (robot, kind, boot, sequence, payload) VALUES ('r1', 'batch', ?, ?, ?)",
        ((BOOT, sequence, b"x" * 100) for sequence in range(count)),
    )
    store.commit()
    tracemalloc.start()
    try:
        assert sum(1 for _ in store.batches_after("r1", 0)) == count
        assert tracemalloc.get_traced_memory()[1] < 200_000, "20,000 events of 100 bytes are 2 MB"
    finally:
        tracemalloc.stop()


# A disk that is read-only


@pytest.fixture(name="archive")
def _archive() -> Iterator[Path]:
    """Path of a store of three batches, with nothing else beside it, where an ordinary user gets to."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        store = open_store(Path(folder, "store.db"), SETTINGS)
        fill(store, 3)
        store.close()
        yield Path(folder, "store.db")


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Be nobody, where we are root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Let nobody write to the folder of that file, nor to what is in it."""
    for one in path.parent.iterdir():
        one.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        with ordinary_user():
            yield
    finally:
        path.parent.chmod(0o755)


def leave_open(path: Path) -> None:
    """Append three more batches and die."""
    code = f"""
import os
from pathlib import Path
from tests.cloud_trainer.store.test_sqlite import SqliteStore, fill
store = SqliteStore(Path({str(path)!r}))
fill(store, 3, first=3)
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=True)


def test_a_store_is_read_where_nothing_can_be_written(archive: Path) -> None:
    with read_only(archive):
        store = SqliteStore(archive)
        assert sequences(store) == [0, 1, 2]
        with pytest.raises(StorageError):
            store.append("r1", "flush")
        store.close()
    assert [one.name for one in archive.parent.iterdir()] == ["store.db"]


def test_what_a_killed_trainer_left_is_read_there_too_or_missed(archive: Path) -> None:
    leave_open(archive)
    with read_only(archive):
        store = SqliteStore(archive)
        assert sequences(store) == [0, 1, 2, 3, 4, 5]
        store.close()
    archive.with_name("store.db-shm").unlink()  # as where only the others were copied
    advice = rf"store.db-wal beside it.* cannot be read.*: copy {archive.parent} to where you may write"
    with read_only(archive), pytest.raises(ConfigError, match=advice):
        SqliteStore(archive)
    store = SqliteStore(archive)
    assert sequences(store) == [0, 1, 2, 3, 4, 5], "somewhere else it is all there"
    store.close()


def test_a_store_that_may_not_be_read_is_named(archive: Path) -> None:
    archive.chmod(0o000)
    with ordinary_user(), pytest.raises(MachineError, match=r"cannot be opened: .*; see that you may read it"):
        SqliteStore(archive)
