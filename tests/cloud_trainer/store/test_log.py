"""What holds of every store: in a file, and in a database."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from broker.errors import ConfigError
from cloud_trainer.config import TrainingSettings
from cloud_trainer.store.log import NewMessage, Store
from cloud_trainer.store.opening import Place, check_store, open_again, open_store
from tests.cloud_trainer.store.test_sqlite import BOOT, OTHER, SETTINGS
from tests.cloud_trainer.world import forget

FLEET = "lab@0123"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Return where a store may be made."""
    if request.param == "sqlite":
        return tmp_path / "store.db"
    url: str = request.getfixturevalue("database_url")
    return url


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    """Return a store that r1 and r2 have entered."""
    store = open_store(place, SETTINGS)
    for robot in ("r1", "r2"):
        store.claim(robot, "tests")
        store.append(robot, "start", robot.encode())
    store.commit()
    yield store
    store.close()


def fill(store: Store, count: int, *, robot: str = "r1", first: int = 0, size: int = 10, log: str = "") -> list[int]:
    """Append so many batches; return their ids."""
    payloads = [sequence.to_bytes(4, "big") + b"x" * (size - 4) for sequence in range(first, first + count)]
    ids = [store.append_message(robot, BOOT, first + i, one, log=log) for i, one in enumerate(payloads)]
    assert all(ids)
    store.commit()
    return ids


def sequences(store: Store, robot: str = "r1") -> list[int]:
    return [int.from_bytes(event.payload[:4], "big") for event in store.batches_after(robot, 0)]


def test_a_batch_is_stored_once_for_a_robot_and_boot(store: Store) -> None:
    sent = [("r1", BOOT, 0), ("r1", BOOT, 1), ("r1", BOOT, 0), ("r1", OTHER, 0), ("r2", BOOT, 0)]
    said = [bool(store.append_message(*one, " ".join(map(str, one)).encode())) for one in sent]
    store.commit()
    assert said == [True, True, False, True, True]
    assert not store.append_message("r1", BOOT, 1, b"another")
    assert [one.payload for one in store.batches_after("r1", 0)] == [
        f"r1 {boot}".encode() for boot in (f"{BOOT} 0", f"{BOOT} 1", f"{OTHER} 0")
    ]
    assert store.robots() == store.logs() == ["r1", "r2"]


def test_events_come_back_in_their_order(store: Store, place: Place) -> None:
    fill(store, 1)
    store.append("r2", "flush")
    store.append("r1", "flush")
    store.append("r1", "rejoin", b"j")
    store.keep_metrics("r1", b"former")
    store.keep_metrics("r1", b"m")
    store.commit()
    store.close()
    again = open_store(place, SETTINGS)
    events, cursor = [], 0
    while event := again.next_event("r1", cursor):
        assert again.has_events("r1", cursor)
        events.append((event.robot, event.kind, event.payload[4:] if event.kind == "batch" else event.payload))
        cursor = event.id
    assert events == [("r1", "start", b"r1"), ("r1", "batch", b"x" * 6), ("r1", "flush", b""), ("r1", "rejoin", b"j")]
    assert cursor == again.last_event("r1")
    assert again.event_count("r1") == 4
    assert not again.has_events("r1", cursor)
    assert [(event.kind, event.payload) for event in again.states("r1")] == [("start", b"r1"), ("rejoin", b"j")]
    assert [(log, event.payload) for log, event in again.states_of("r1")] == [("r1", b"r1"), ("r1", b"j")]
    assert again.last_events(["r2", "r1", "r3"]) == {"r1": cursor, "r2": again.last_event("r2")}
    assert (again.metrics("r1"), again.metrics("r2"), again.last_event("r3")) == (b"m", None, 0)
    again.close()


def test_several_messages_are_appended_in_their_order_each_once(store: Store) -> None:
    fill(store, 1)
    order = [("r1", 1), ("r2", 0), ("r1", 0), ("r1", 2), ("r1", 1), ("r2", 5)]
    messages = [
        NewMessage(robot=robot, boot=BOOT, sequence=one, payload=one.to_bytes(4, "big")) for robot, one in order
    ]
    ids = store.append_messages(messages)
    assert [bool(one) for one in ids] == [True, True, False, True, False, True]
    store.append("r1", "flush")
    store.commit()
    assert (sequences(store), sequences(store, "r2")) == ([0, 1, 2], [0, 5])
    assert [event.id for event in store.batches_after("r2", 0)] == [ids[1], ids[5]]
    assert store.last_events(["r1", "r2"]) == {"r1": store.last_event("r1"), "r2": ids[5]}
    assert store.append_messages(messages) == [0] * len(messages)
    assert store.append_messages([]) == []


def test_robots_share_a_log_and_leave_it(store: Store) -> None:
    store.claim(FLEET, "tests")
    store.append(FLEET, "start", b"s", "r1")
    store.append(FLEET, "join", b"j", "r2")
    (first,) = fill(store, 1, log=FLEET)
    fill(store, 2, robot="r2", log=FLEET)
    store.append(FLEET, "flush")
    store.append("r2", "rejoin", b"back")
    store.commit()
    assert store.logs() == ["r1", "r2", FLEET]
    assert store.robots() == ["r1", "r2"]
    assert [event.robot for event in store.batches_after(FLEET, 0)] == ["r1", "r2", "r2"]
    assert [log for log, _ in store.states_of("r2")] == ["r2", FLEET, "r2"]
    assert store.batch_bytes(FLEET) == {"r1": 10, "r2": 20}
    assert store.count_batches(FLEET, first, store.last_event(FLEET)) == {"r2": 2}
    assert not store.append_message("r2", BOOT, 0, b"not in another log either")


def test_nothing_is_there_before_the_commit(store: Store, place: Place) -> None:
    reader = open_again(place)
    before = store.last_event("r1")
    store.append("r1", "flush")
    store.append_message("r1", BOOT, 0, b"x")
    assert not reader.has_events("r1", before)
    store.commit()
    assert reader.has_events("r1", before)
    assert [one.payload for one in reader.batches_after("r1", 0)] == [b"x"]
    reader.close()


def test_what_was_not_committed_is_gone(store: Store, place: Place) -> None:
    fill(store, 2)
    store.append_message("r1", BOOT, 2, b"0002")
    store.close()
    again = open_store(place, SETTINGS)
    assert sequences(again) == [0, 1]
    assert again.append_message("r1", BOOT, 2, b"0002"), "it counts as come, although it is gone"
    again.close()


def test_a_store_has_settings_and_no_others(place: Place) -> None:
    with pytest.raises(ConfigError, match="there is no store at"):
        open_again(place)
    check_store(place, SETTINGS)
    open_store(place, SETTINGS).close()
    with pytest.raises(ConfigError, match=r"made with --learning-rate 0\.1, now it is 0\.2.* another --run-dir"):
        open_store(place, replace(SETTINGS, learning_rate=0.2))
    again = open_store(place, SETTINGS)
    assert TrainingSettings(**again.settings) == SETTINGS
    again.close()


# Forgetting


def test_what_is_forgotten_counts_as_come(store: Store) -> None:
    ids = fill(store, 10)
    assert store.is_whole("r1")
    forget(store, "r1", ids[2])
    assert sequences(store) == list(range(3, 10))
    assert not any(store.append_message("r1", BOOT, sequence, b"again") for sequence in range(10))
    assert store.append_message("r1", OTHER, 0, b"another boot")
    assert store.append_message("r2", BOOT, 0, b"another robot")
    store.commit()
    assert not store.is_whole("r1")
    assert store.is_whole("r2")
    with pytest.raises(ConfigError, match="lacks event"):
        list(store.batches(ids[2:4]))
    backwards = list(store.batches(ids[:2:-1]))
    assert [int.from_bytes(one[:4], "big") for one in backwards] == [9, 8, 7, 6, 5, 4, 3]


def test_forgetting_twice_leaves_gaps_open(store: Store) -> None:
    ids = fill(store, 3) + fill(store, 3, first=5)
    for up_to in ids[1::2]:
        forget(store, "r1", up_to)
    assert store.append_message("r1", BOOT, 3, b"a gap stays open")
    assert not any(store.append_message("r1", BOOT, sequence, b"again") for sequence in (0, 1, 2, 5, 6, 7))


def test_events_other_than_batches_stay(store: Store) -> None:
    fill(store, 2)
    store.append("r1", "flush")
    store.commit()
    forget(store, "r1", store.last_event("r1"))
    start = store.next_event("r1", 0)
    assert start
    flush = store.next_event("r1", start.id)
    assert flush
    assert (start.kind, flush.kind) == ("start", "flush")


def test_a_store_counts_what_it_holds(store: Store) -> None:
    before = store.bytes_used
    ids = fill(store, 100, size=5000)
    used = store.bytes_used
    assert 500_000 < used - before < 1_100_000
    assert store.batch_bytes("r1") == {"r1": 500_000}
    forget(store, "r1", ids[49])
    assert store.bytes_used < 0.6 * used
    fill(store, 50, first=100, size=5000)
    assert store.bytes_used < 1.02 * used


def test_what_is_wiped_is_replaced(store: Store, place: Place) -> None:
    ids = fill(store, 4)
    fill(store, 2, robot="r2")
    reader = open_again(place)
    assert store.wipe_some("r1", "r1", 0, ids[1], [ids[3]], lambda payload, _event: payload[:4] + b"gone") is None
    gone = [event.payload[4:] == b"gone" for event in reader.batches_after("r1", 0)]
    assert gone == [True, True, False, True]
    assert store.is_whole("r2")
    assert not store.is_whole("r1")
    reader.close()


@pytest.mark.parametrize(
    ("before", "total", "found"), [(9, 1, 1), (9, 10, 1), (9, 11, 2), (9, 25, 3), (9, 10**9, 9), (2, 25, 2), (0, 5, 0)]
)
def test_the_oldest_batches_of_so_many_bytes(store: Store, before: int, total: int, found: int) -> None:
    ids = [0, *fill(store, 12)]
    assert store.oldest_batches("r1", "r1", ids[before], total) == ids[found]


def test_reading_a_long_log_holds_one_event_at_a_time(store: Store) -> None:
    fill(store, 2000, size=1000)
    tracemalloc.start()
    try:
        assert sum(1 for _ in store.batches_after("r1", 0)) == 2000
        assert tracemalloc.get_traced_memory()[1] < 200_000, "2,000 events of 1,000 bytes are 2 MB"
    finally:
        tracemalloc.stop()
