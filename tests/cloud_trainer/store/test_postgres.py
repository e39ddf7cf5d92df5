"""What only a store in a database has to stand: other writers, other owners, and a server that dies."""

from __future__ import annotations

import random
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import psycopg
import pytest

from broker.errors import ConfigError, NotEntered, StorageError, Superseded
from cloud_trainer.store.log import Kind, NewMessage, Store
from cloud_trainer.store.opening import open_again, open_store, store_place
from cloud_trainer.store.postgres import PostgresStore
from cloud_trainer.store.postgres_connection import Connection
from tests.cloud_trainer.store.test_log import fill, sequences
from tests.cloud_trainer.store.test_sqlite import BOOT, SETTINGS
from tests.cloud_trainer.world import forget
from tests.postgres import PostgresServer, postgres_server

# Seconds until something that is waited for is given up, on a machine with much else to do.
LONG = 90.0


@contextmanager
def opened(url: str, *robots: str) -> Iterator[PostgresStore]:
    """Open a store, and let robots enter."""
    with closing(open_store(url, SETTINGS)) as store:
        assert isinstance(store, PostgresStore)
        for robot in robots:
            store.claim(robot, "tests")
            store.append(robot, "start")
        store.commit()
        yield store


@contextmanager
def one_more(beside: PostgresStore) -> Iterator[PostgresStore]:
    """Open the same one once more, as another process."""
    with closing(PostgresStore(beside._place)) as store:
        yield store


def in_thread(work: Callable[[], object]) -> Future[object]:
    pool = ThreadPoolExecutor(1)
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future


def until_it_waits_for_a_lock(store: PostgresStore, work: Future[object]) -> None:
    """Wait until another connection waits for a row, or has done its work."""
    give_up = time.monotonic() + LONG
    while not work.done() and time.monotonic() < give_up:
        if store._scalar("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
            return
        wait([work], 0.01)


# Several writers


def test_a_reader_never_misses_an_event_of_a_slow_writer(database_url: str) -> None:
    """It fails where appending does not hold the log's row: the later id is committed first then, and read."""
    with opened(database_url, "r1") as slow, one_more(slow) as fast, one_more(slow) as reader, one_more(slow) as eye:
        cursor = reader.last_event("r1")
        slow.append_message("r1", BOOT, 0, (0).to_bytes(4, "big"))
        later = in_thread(lambda: fill(fast, 1, first=1))
        until_it_waits_for_a_lock(eye, later)
        seen = []
        turns: list[Callable[[], object]] = [lambda: None, slow.commit, lambda: later.result(LONG)]
        for turn in turns:
            turn()
            while event := reader.next_event("r1", cursor):
                cursor = event.id
                seen.append(int.from_bytes(event.payload[:4], "big"))
        assert seen == [0, 1]


def test_a_message_that_two_take_in_is_stored_once(database_url: str) -> None:
    with opened(database_url, "r1") as one, one_more(one) as other, one_more(one) as eye:
        assert one.append_message("r1", BOOT, 0, b"0000")
        second = in_thread(lambda: other.append_message("r1", BOOT, 0, b"0000"))
        until_it_waits_for_a_lock(eye, second)
        one.commit()
        assert second.result(LONG) == 0
        other.commit()
        assert one.count_batches("r1", 0, one.last_event("r1")) == {"r1": 1}


def test_writers_of_the_same_logs_in_another_order_do_not_wait_for_each_other_for_ever(database_url: str) -> None:
    with opened(database_url, "r1", "r2") as one, one_more(one) as other:
        other._connection.execute("SET deadlock_timeout = '100s'")

        def write(store: Store, order: tuple[str, str], first: int) -> None:
            for sequence in range(first, first + 50):
                for robot in order:
                    store.append_message(robot, BOOT, sequence, sequence.to_bytes(4, "big"))
                store.commit()

        both = [in_thread(lambda: write(one, ("r1", "r2"), 0)), in_thread(lambda: write(other, ("r2", "r1"), 1000))]
        for writer in both:
            writer.result(LONG)
        assert sorted(sequences(one)) == sorted(sequences(one, "r2")) == [*range(50), *range(1000, 1050)]


def test_what_was_appended_before_a_row_was_out_of_turn_is_committed(database_url: str) -> None:
    with opened(database_url, "r1", "r2") as one, one_more(one) as other, one_more(one) as eye:
        other.append_message("r1", BOOT, 7, b"0007")
        one.append_message("r2", BOOT, 0, b"0000")
        second = in_thread(lambda: one.append_message("r1", BOOT, 0, b"0000"))
        until_it_waits_for_a_lock(eye, second)
        assert eye.batch_bytes("r2") == {"r2": 4}
        other.commit()
        assert second.result(LONG)


def test_one_of_many_that_open_a_new_store_makes_it(database_url: str) -> None:
    def make() -> dict[str, object]:
        with closing(open_store(database_url, SETTINGS)) as store:
            return store.settings

    made = [in_thread(make) for _ in range(4)]
    assert len({str(one.result(LONG)) for one in made}) == 1


def test_messages_are_refused_where_the_robot_has_not_entered(database_url: str) -> None:
    with opened(database_url, "r1") as store:
        for log, robot in [("", "r2"), ("lab@01", "r1")]:
            with pytest.raises(NotEntered, match=f"robot {robot} has entered no state"):
                store.append_message(robot, BOOT, 0, b"x", log=log)
        store.claim("lab@01", "tests")
        store.append("lab@01", "start", b"", "r1")
        assert store.append_message("r1", BOOT, 0, b"x", log="lab@01")
        store._undo()
        with pytest.raises(NotEntered):
            store.append_message("r1", BOOT, 0, b"x", log="lab@01")


def test_of_several_messages_those_that_belong_to_no_log_are_left_out(database_url: str) -> None:
    with opened(database_url, "r1") as store:
        messages = [NewMessage(robot=robot, boot=BOOT, sequence=0, payload=b"x") for robot in ("r1", "r2")]
        event, left_out = store.append_messages(messages)
        assert event
        assert left_out is None
        forgotten = store.append_messages([replace(messages[0], sequence=1)])
        store.commit()
        assert forgotten[0]
        forget(store, "r1", forgotten[0])
        assert store.append_messages([replace(messages[0], sequence=one) for one in (0, 1, 2)])[:2] == [0, 0]


# Owners


def test_a_former_owner_writes_nothing_but_what_robots_send(database_url: str) -> None:
    with opened(database_url, "r1", "r2") as former, one_more(former) as successor:
        ids = fill(former, 3)
        former.name_checkpoint("r1", "1-3")
        assert successor.claim("r1", "another") == former.claims["r1"] + 1
        assert successor.checkpoint("r1") == "1-3"
        before = successor.event_count("r1")
        writes: list[Callable[[], object]] = [
            lambda: former.append("r1", "flush"),
            lambda: former.append("r1", "start", b"anew"),
            lambda: former.append("r1", "rejoin"),
            lambda: former.forget_some("r1", "r1", ids[1]),
            lambda: former.wipe_some("r1", "r1", 0, ids[1], [], lambda payload, _event: payload + b"!"),
            lambda: former.name_checkpoint("r1", "1-9"),
        ]
        for write in writes:
            with pytest.raises(Superseded, match="robot r1 is trained by another process"):
                write()
            former.commit()
        assert successor.event_count("r1") == before
        assert successor.is_whole("r1")
        assert successor.checkpoint("r1") == "1-3"
        assert former.append_message("r1", BOOT, 3, b"0003"), "whoever takes in messages may, as nobody loses them then"
        assert former.append("r2", "flush"), "other logs are its own still"
        former.commit()
        successor.append("r1", "flush")
        successor.commit()
        assert successor.event_count("r1") == before + 2


def test_who_has_claimed_nothing_begins_nothing(database_url: str) -> None:
    with opened(database_url, "r1") as owner, one_more(owner) as ingest:
        kinds: tuple[Kind, ...] = ("start", "flush", "rehearse", "settle", "forget")
        for kind in kinds:
            with pytest.raises(Superseded, match="without having claimed it"):
                ingest.append("r1", kind)
        assert ingest.append("r1", "rejoin", b"state"), "that the robot goes on needs no owner"
        ingest.commit()
        assert [event.kind for event in owner.states("r1")] == ["start", "rejoin"]


def test_of_two_that_claim_a_log_at_once_one_is_fenced(database_url: str) -> None:
    with opened(database_url) as one, one_more(one) as other:
        claims = [in_thread(partial(store.claim, "r1", "x")) for store in (one, other)]
        assert {claim.result(LONG) for claim in claims} == {1, 2}
        fenced = min((one, other), key=lambda store: store.claims["r1"])
        with pytest.raises(Superseded):
            fenced.append("r1", "start")


# A server in trouble


def drop_connections(postgres: PostgresServer) -> None:
    """End the server's ends of all connections of stores."""
    ours = "application_name = 'cloud-trainer'"
    postgres.ask(f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE {ours}")


def test_a_connection_that_breaks_between_commits_is_made_again(postgres: PostgresServer, database_url: str) -> None:
    with opened(database_url, "r1") as store:
        fill(store, 1)
        drop_connections(postgres)
        assert sequences(store) == [0]
        drop_connections(postgres)
        fill(store, 1, first=1)
        drop_connections(postgres)
        store.keep_metrics("r1", b"m")
        store.commit()
        assert (sequences(store), store.metrics("r1")) == ([0, 1], b"m")


def test_what_was_appended_before_a_connection_broke_is_gone_and_said_to_be(
    postgres: PostgresServer, database_url: str
) -> None:
    with opened(database_url, "r1") as store:
        works: list[Callable[[], object]] = [
            lambda: fill(store, 1, first=1),
            store.commit,
            lambda: store.last_event("r1"),
        ]
        for work in works:
            assert store.append_message("r1", BOOT, 0, b"0000")
            drop_connections(postgres)
            with pytest.raises(StorageError, match="cannot be"):
                work()
        store.append("r1", "flush")
        fill(store, 1)
        assert sequences(store) == [0]


@pytest.mark.parametrize("is_known", [True, False])
def test_a_commit_in_which_the_connection_broke_neither_loses_nor_doubles(
    postgres: PostgresServer, database_url: str, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    """Where it is not known at once, the caller takes it for lost, and appends all again."""

    def commit_and_break(self: Connection) -> None:
        monkeypatch.undo()
        if not is_known:
            monkeypatch.setattr(PostgresStore, "_was_committed", lambda _self, _done: monkeypatch.undo())
        self.execute("COMMIT")
        drop_connections(postgres)
        self.execute("SELECT 1")

    with opened(database_url, "r1") as store:
        before = store.event_count("r1")
        store.append("r1", "rehearse", b"7")
        store.append_message("r1", BOOT, 0, b"0000")
        event = store.append("r1", "flush")
        monkeypatch.setattr(Connection, "commit", commit_and_break)
        if is_known:
            store.commit()
        else:
            with pytest.raises(StorageError):
                store.commit()
            assert store.append_message("r1", BOOT, 0, b"0000") == 0
            assert store.append("r1", "flush") == event
            store.commit()
        assert store.event_count("r1") == before + 3
        assert store.append("r1", "flush") != event
        store.commit()
        assert store.event_count("r1") == before + 4


def test_a_transaction_that_the_server_still_works_on_is_waited_for(database_url: str) -> None:
    with opened(database_url, "r1") as store, one_more(store) as other:
        other._connection.execute("SET lock_timeout = '50ms'")
        ends: list[tuple[Callable[[], object], bool]] = [(store.commit, True), (store._undo, False)]
        for end, is_there in ends:
            store.append("r1", "flush")
            done = store._transaction
            assert other._was_committed(done) is None
            end()
            assert other._was_committed(done) is is_there


def test_a_server_that_is_killed_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Killed between commits and in them, at random. Whoever sends keeps what has no receipt, and sends it again."""
    rng, written, ended = random.Random(0), 0, threading.Event()
    with postgres_server() as server, opened(server.url(), "r1") as store:

        def write() -> None:
            nonlocal written
            while not ended.is_set():
                try:
                    for sequence in range(written, written + 3):
                        store.append_message("r1", BOOT, sequence, sequence.to_bytes(4, "big") * 100)
                    store.append("r1", "rehearse", str(written).encode())
                    store.commit()
                    written += 3
                except StorageError:  # noqa: PERF203
                    ended.wait(0.05)

        writer = in_thread(write)
        with closing(open_again(server.url(), waits=True)) as reader:
            for _ in range(3):
                goal, give_up = written + 3 * rng.randrange(1, 10), time.monotonic() + LONG
                while written < goal:
                    assert not writer.done(), writer.exception()
                    assert time.monotonic() < give_up
                    time.sleep(0.001)
                server.kill()
                receipted = written
                there = in_thread(lambda: reader.batch_bytes("r1")["r1"])  # it waits until the server is back
                server.start()
                assert there.result(LONG) >= 400 * receipted  # type: ignore[operator]
            ended.set()
            writer.result(LONG)
            assert sequences(reader) == list(range(written))
            events, cursor = [], 0
            while event := reader.next_event("r1", cursor):
                cursor = event.id
                events += [int(event.payload)] if event.kind == "rehearse" else []
            assert events == list(range(0, written, 3))
            server.kill()
            waiting = in_thread(lambda: reader.last_event("r1"))
            reader.give_up()
            with pytest.raises(StorageError, match="the store cannot be read"):
                waiting.result(LONG)
        with pytest.raises(StorageError, match="no store at"):
            open_again(server.url())
        server.start()


def test_a_full_disk_takes_nothing_or_all_and_goes_on_when_there_is_room(
    postgres: PostgresServer, database_url: str, tmp_path: Path
) -> None:
    disk = postgres.folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=777", "tmpfs", disk], check=False).returncode:
        pytest.skip("only root can mount, and not every root")
    try:
        with opened(database_url, "r1") as store:
            (disk / "ballast").write_bytes(bytes(300_000))
            (disk / "tables").mkdir()
            (disk / "tables").chmod(0o777)
            subprocess.run(["chown", "postgres", disk / "tables"], check=True)
            postgres.ask(f"CREATE TABLESPACE small LOCATION '{disk}/tables'")
            store._connection.execute("ALTER TABLE events SET TABLESPACE small")
            with pytest.raises(StorageError, match=r"cannot be written: .*[Nn]o space left"):
                fill_up(store, 20_000)
            there = sequences(store)
            assert there == list(range(len(there)))
            assert len(there) % 3 == 0, "a part of a commit is there"
            (disk / "ballast").unlink()
            fill(store, 3, first=len(there), size=20_000)
            assert sequences(store) == list(range(len(there) + 3))
            store._connection.execute("DROP TABLE events")
            postgres.ask("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", disk], check=True)


def fill_up(store: Store, size: int) -> None:
    """Append batches, three in a commit, until that is refused."""
    for first in range(0, 300, 3):
        fill(store, 3, first=first, size=size)


# Wrong places


def test_a_password_in_the_url_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"~/\.pgpass or the environment variable PGPASSWORD"):
        store_place("postgresql://me:secret@host/db")
    assert store_place("postgresql://me@host/db") == "postgresql://me@host/db"
    assert store_place("runs/store.db") == Path("runs/store.db")


def test_tables_of_others_and_of_other_versions_are_left_alone(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE events (mine text)")
        with pytest.raises(ConfigError, match=r"cannot be used: .*already exists"):
            open_store(database_url, SETTINGS)
        connection.execute("DROP TABLE events")
        open_store(database_url, SETTINGS).close()
        connection.execute("UPDATE reflexarc SET version = 99, written_by = 'reflexarc 9'")
        with pytest.raises(ConfigError, match="was written by reflexarc 9"):
            open_again(database_url)


def test_who_may_not_make_tables_is_told_what_lets_him(postgres: PostgresServer) -> None:
    user = f"guest_{secrets.token_hex(4)}"
    postgres.ask(f"CREATE ROLE {user} LOGIN")
    with pytest.raises(ConfigError, match=r"permission denied .*GRANT"):
        PostgresStore(postgres.url().replace("tests@", f"{user}@"), {})
    with pytest.raises(ConfigError, match="CREATE SCHEMA"):
        PostgresStore(postgres.url("nowhere"), {})
