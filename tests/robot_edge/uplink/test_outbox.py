from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from broker.errors import ConfigError, MachineError
from robot_edge.uplink.ledger import ClassCounts
from robot_edge.uplink.outbox import COMMIT_SECONDS, LIVE_SECONDS, RETRY_SECONDS, Outbox
from robot_edge.uplink.outbox_tables import LAYOUT, LOG_BYTES, PAGE_BYTES

BOOT = "b" * 16
LATER = "c" * 16
CATS = {"cat": 4}
Open = Callable[..., Outbox]


@pytest.fixture(name="open_outbox")
def _open_outbox(tmp_path: Path) -> Iterator[Open]:
    """Return a function that opens an outbox; in the end all are closed."""
    opened: list[Outbox] = []

    def open_one(path: Path = tmp_path / "outbox.db", **settings: Any) -> Outbox:
        opened.append(Outbox(path, **{"boot": BOOT, "limit": 100 * PAGE_BYTES, **settings}))
        return opened[-1]

    yield open_one
    for outbox in opened:
        outbox.close()


class Clock:
    """Takes messages at times that a commit is due."""

    def __init__(self) -> None:
        self.now = 1000.0

    def take(self, outbox: Outbox, most: int = 1000, *, under_way: set[int] | None = None) -> list[int]:
        """Return what is to be sent now, as the numbers that the payloads begin with."""
        self.now += 2 * COMMIT_SECONDS
        left = [most]

        def admit(_size: int, /, *, backlog: bool) -> bool:
            left[0] -= 1
            return left[0] >= 0

        taken = outbox.take(self.now, admit, set() if under_way is None else under_way)
        if under_way is not None:
            under_way.update(one.id for one in taken)
        return [int(one.payload.split()[0]) for one in taken]


@pytest.fixture(name="clock")
def _clock() -> Clock:
    return Clock()


def fill(outbox: Outbox, numbers: range, samples: Mapping[str, int] = CATS) -> None:
    """Put messages of one page each."""
    for number in numbers:
        outbox.put(number, b"%d " % number + bytes(1000), samples, position=4 * (number + 1))


def counts(outbox: Outbox, name: str = "cat") -> ClassCounts:
    return outbox.counts()[name]


def test_messages_are_sent_in_order_and_kept_until_their_receipts(open_outbox: Open, clock: Clock) -> None:
    outbox, under_way = open_outbox(), set[int]()
    fill(outbox, range(5))
    assert clock.take(outbox, 3, under_way=under_way) == [0, 1, 2]
    assert clock.take(outbox, 3, under_way=under_way) == [3, 4]
    assert clock.take(outbox, under_way=under_way) == []
    for number in (1, 0):
        assert outbox.receipted(BOOT, number, "receipted") is not None
        assert outbox.receipted(BOOT, number, "receipted") is None, "a receipt counts once"
    assert outbox.receipted(BOOT, 77, "receipted") is None
    assert len(outbox) == 3
    assert (outbox.bytes_held, outbox.payload_held) == (3 * PAGE_BYTES, 3 * 1002)
    under_way.clear()  # the connection broke
    fill(outbox, range(5, 6))
    assert clock.take(outbox, under_way=under_way) == [2, 3, 4, 5]


def test_nothing_is_sent_before_it_is_on_the_disk(open_outbox: Open, clock: Clock, tmp_path: Path) -> None:
    outbox = open_outbox()
    fill(outbox, range(1))
    assert clock.take(outbox) == [0]
    fill(outbox, range(1, 2))
    clock.now -= 1.5 * COMMIT_SECONDS  # the last commit was a moment ago
    assert clock.take(outbox) == []
    clock.now += COMMIT_SECONDS
    assert clock.take(outbox) == [0, 1]
    for file in tmp_path.glob("outbox.db*"):  # as a kill would leave them
        (tmp_path / file.name.replace("outbox", "killed")).write_bytes(file.read_bytes())
    killed = open_outbox(tmp_path / "killed.db", boot=LATER)
    assert clock.take(killed) == [0, 1]


def test_another_process_finds_everything_as_it_was(open_outbox: Open, clock: Clock) -> None:
    outbox = open_outbox()
    fill(outbox, range(6), {"cat": 3, "dog": 1})
    clock.take(outbox, 3)
    outbox.receipted(BOOT, 0, "receipted")
    outbox.receipted(BOOT, 1, "rejected")
    assert outbox.sync(clock.now)
    outbox.close()
    again = open_outbox(boot=LATER)
    assert counts(again, "cat") == ClassCounts(taken=18, queued=12, receipted=3, rejected=3, dropped=0)
    assert counts(again, "dog") == ClassCounts(taken=6, queued=4, receipted=1, rejected=1, dropped=0)
    assert (again.position, again.starts, len(again)) == (24, 2, 4)
    assert (again.messages_made, again.messages_rejected) == (6, 1)
    fill(again, range(1))  # sequences count from 0 again, under another boot
    assert clock.take(again) == [2, 3, 4, 5, 0]
    assert again.receipted(LATER, 0, "receipted") is not None
    assert again.receipted(BOOT, 0, "receipted") is None
    assert again.receipted(BOOT, 2, "receipted") is not None


def test_evaluations_of_an_ended_process_are_gone(open_outbox: Open, clock: Clock) -> None:
    outbox = open_outbox()
    fill(outbox, range(2))
    for number in (2, 3):
        outbox.put(number, b"%d evaluation" % number, {}, evaluation=1)
    assert clock.take(outbox, 3) == [0, 1, 2]
    outbox.close()
    again = open_outbox(boot=LATER)
    assert clock.take(again) == [0, 1]
    assert (len(again), again.messages_made) == (2, 2)
    assert (again.bytes_held, again.payload_held) == (2 * PAGE_BYTES, 2 * 1002)


def test_a_full_one_says_so_and_a_replay_may_still_finish_its_step(open_outbox: Open, clock: Clock) -> None:
    outbox = open_outbox(limit=5 * PAGE_BYTES)
    fill(outbox, range(4))
    assert outbox.bytes_held < outbox.limit
    fill(outbox, range(4, 7))
    assert outbox.full
    clock.take(outbox, 0)
    assert len(outbox) == 7
    assert counts(outbox).dropped == 0


def test_the_oldest_go_first_but_never_what_was_sent(open_outbox: Open, clock: Clock) -> None:
    outbox = open_outbox(limit=5 * PAGE_BYTES, when_full="drop-oldest")
    fill(outbox, range(5))
    assert clock.take(outbox, 2) == [0, 1]
    fill(outbox, range(5, 8))
    assert clock.take(outbox) == [0, 1, 5, 6, 7]
    assert counts(outbox) == ClassCounts(taken=32, queued=20, receipted=0, rejected=0, dropped=12)
    fill(outbox, range(8, 9))  # all others may have been trained on: the new one has to go
    assert clock.take(outbox) == [0, 1, 5, 6, 7]
    assert counts(outbox).dropped == 16
    assert outbox.bytes_held <= outbox.limit


def test_balanced_takes_from_the_largest_class(open_outbox: Open, clock: Clock) -> None:
    outbox = open_outbox(limit=20 * PAGE_BYTES, when_full="balanced")
    rng = random.Random(0)
    for number in range(200):
        # One in ten shows a dog, one in fifty a fox, with cats around them.
        rare = {"fox": 2} if number % 50 == 7 else {"dog": 4} if number % 10 == 3 else {"cat": rng.randint(1, 4)}
        fill(outbox, range(number, number + 1), {"cat": 0, **rare})
        clock.take(outbox, 0)
    queued = {name: one.queued for name, one in outbox.counts().items()}
    assert queued["fox"] == 8, "the rarest class has lost samples"
    assert abs(queued["cat"] - queued["dog"]) <= 8
    for one in outbox.counts().values():
        assert one.taken == one.queued + one.dropped


def live_order(outbox: Outbox, clock: Clock) -> list[int]:
    """Return what is sent, one at a time, of five old messages and five new ones."""
    fill(outbox, range(5))
    clock.take(outbox, 0)
    clock.now += LIVE_SECONDS + 1
    fill(outbox, range(5, 10))
    clock.take(outbox, 0)
    under_way: set[int] = set()
    return [number for _ in range(10) for number in clock.take(outbox, 1, under_way=under_way)]


def test_live_messages_go_before_the_backlog(open_outbox: Open, clock: Clock) -> None:
    assert live_order(open_outbox(when_full="balanced"), clock) == [5, 6, 7, 8, 9, 0, 1, 2, 3, 4]


def test_the_backlog_may_come_with_what_is_rare_first(open_outbox: Open, clock: Clock) -> None:
    outbox = open_outbox(when_full="balanced")
    for number, samples in enumerate([CATS, CATS, {"dog": 1}, CATS, {"cat": 3, "dog": 1}, {"eel": 2}]):
        outbox.put(number, json.dumps(number).encode(), samples)
    outbox.put_edit(6, b"6")
    outbox.put(7, b"7", {}, evaluation=1)
    clock.take(outbox, 0)
    clock.now += LIVE_SECONDS + 1
    under_way: set[int] = set()
    order = [number for _ in range(8) for number in clock.take(outbox, 1, under_way=under_way)]
    assert order[:2] == [6, 7], "what was edited, and what is only tested, waits for nobody"
    assert order.index(2) < order.index(4) < order.index(3), "dogs, some dogs, cats"
    assert order.index(5) < order.index(3)
    assert sorted(order) == list(range(8))


def fill_anew(outbox: Outbox, numbers: range) -> None:
    """Put messages of samples that went up before, of one page each."""
    for number in numbers:
        outbox.put(number, b"%d " % number + bytes(1000), {}, again=True)


def test_what_is_encoded_anew_goes_up_behind_the_most_common_class(open_outbox: Open, clock: Clock) -> None:
    outbox = open_outbox(when_full="balanced")
    fill_anew(outbox, range(3))
    fill(outbox, range(3, 6))
    fill(outbox, range(6, 7), {"dog": 1})
    clock.take(outbox, 0)
    clock.now += LIVE_SECONDS + 1
    under_way: set[int] = set()
    assert [number for _ in range(7) for number in clock.take(outbox, 1, under_way=under_way)] == [6, 3, 4, 5, 0, 1, 2]


@pytest.mark.parametrize("policy", ["drop-oldest", "balanced"])
def test_what_is_encoded_anew_is_the_first_to_be_given_up(open_outbox: Open, clock: Clock, policy: str) -> None:
    outbox = open_outbox(limit=5 * PAGE_BYTES, when_full=policy)
    fill_anew(outbox, range(1))
    assert clock.take(outbox) == [0], "and may have reached the trainer"
    fill(outbox, range(1, 3))
    fill_anew(outbox, range(3, 5))
    clock.take(outbox, 0)
    fill(outbox, range(5, 6))
    fill_anew(outbox, range(6, 8))
    assert clock.take(outbox) == [0, 1, 2, 5, 7]
    assert counts(outbox).dropped == 0


def test_a_replay_comes_in_order(open_outbox: Open, clock: Clock) -> None:
    assert live_order(open_outbox(), clock) == list(range(10))


def test_the_window_is_told_what_is_backlog(open_outbox: Open, clock: Clock) -> None:
    outbox, asked = open_outbox(when_full="balanced"), Counter[bool]()
    fill(outbox, range(3))
    lives = [outbox.has_live]
    clock.take(outbox, 0)
    clock.now += LIVE_SECONDS + 1
    clock.take(outbox, 0)
    assert [*lives, outbox.has_live] == [True, False]
    fill(outbox, range(3, 5))

    def admit(_size: int, /, *, backlog: bool) -> bool:
        asked[backlog] += 1
        return not backlog

    clock.now += 1
    assert [one.backlog for one in outbox.take(clock.now, admit, set())] == [False, False]
    assert asked == {False: 2, True: 1}


def full_disk(outbox: Outbox) -> Callable[[], None]:
    """Let the disk be full from now on; return what makes room."""
    pages = outbox._database.execute("PRAGMA page_count").fetchone()[0]
    outbox._database.execute(f"PRAGMA max_page_count = {pages}")
    return lambda: outbox._database.execute("PRAGMA max_page_count = 1000000").close()


def fill_the_disk(outbox: Outbox, clock: Clock) -> int:
    """Put messages until the disk takes no more; return how many there were."""
    for number in range(1000):
        fill(outbox, range(number, number + 1))
        clock.take(outbox, 0)
        if outbox.trouble:
            return number + 1
    raise AssertionError("the disk was never full")


@pytest.mark.parametrize("policy", ["drop-oldest", "balanced"])
def test_on_a_full_disk_samples_are_dropped_and_counted_until_there_is_room(
    open_outbox: Open, clock: Clock, policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = open_outbox(limit=1000 * PAGE_BYTES, when_full=policy)
    make_room = full_disk(outbox)
    first = fill_the_disk(outbox, clock)
    assert outbox.full
    fill(outbox, range(first, first + 50))
    clock.now += RETRY_SECONDS
    clock.take(outbox, 0)
    assert counts(outbox).dropped == 200
    assert len(caplog.messages) == 1, "said once"
    assert "training goes on" in caplog.text
    make_room()
    clock.now += RETRY_SECONDS
    assert clock.take(outbox) == list(range(first))
    assert outbox.trouble == ""
    assert "can be written again" in caplog.messages[-1]
    outbox.close()
    again = open_outbox(boot=LATER)
    assert counts(again) == ClassCounts(taken=4 * (first + 50), queued=4 * first, receipted=0, rejected=0, dropped=200)
    assert again.position == 4 * (first + 50)


def test_on_a_full_disk_a_replay_waits_and_loses_nothing(open_outbox: Open, clock: Clock) -> None:
    outbox = open_outbox(limit=1000 * PAGE_BYTES)
    make_room = full_disk(outbox)
    first = fill_the_disk(outbox, clock)
    assert outbox.full
    assert not outbox.sync(clock.now)
    make_room()
    clock.now += RETRY_SECONDS
    assert clock.take(outbox) == list(range(first))
    assert outbox.trouble == ""
    assert counts(outbox).dropped == 0


def test_receipts_on_a_full_disk_make_room_in_it(open_outbox: Open, clock: Clock) -> None:
    outbox = open_outbox(limit=1000 * PAGE_BYTES, when_full="drop-oldest")
    fill(outbox, range(20))
    assert len(clock.take(outbox)) == 20
    full_disk(outbox)
    fill(outbox, range(20, 35))
    clock.take(outbox, 0)
    assert outbox.trouble
    for number in range(20):
        outbox.receipted(BOOT, number, "receipted")
    clock.now += RETRY_SECONDS
    assert clock.take(outbox) == list(range(20, 35))
    assert outbox.trouble == ""
    assert counts(outbox).dropped == 0


@pytest.mark.parametrize("content", [b"no database" * 1000, b"SQLite format 3\0" + bytes(5000)])
def test_a_file_that_is_no_database_is_named(tmp_path: Path, open_outbox: Open, content: bytes) -> None:
    (tmp_path / "outbox.db").write_bytes(content)
    with pytest.raises(ConfigError, match=r"outbox\.db cannot be used; move it away"):
        open_outbox()


def test_a_database_of_another_program_is_left_alone(tmp_path: Path, open_outbox: Open) -> None:
    other = sqlite3.connect(tmp_path / "outbox.db")
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    with pytest.raises(ConfigError, match="is no outbox of this version"):
        open_outbox()
    other = sqlite3.connect(tmp_path / "outbox.db")
    assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]
    other.close()


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (min(LAYOUT.migrations) - 1, "is no outbox of this version of robot-edge: move it away"),
        (LAYOUT.version + 1, "was written by reflexarc .* cannot read it: update it, or choose another folder"),
    ],
)
def test_an_outbox_of_another_version_is_left_alone(tmp_path: Path, open_outbox: Open, number: int, says: str) -> None:
    open_outbox().close()
    other = sqlite3.connect(tmp_path / "outbox.db")
    other.execute(f"PRAGMA user_version = {number}")
    other.close()
    with pytest.raises(ConfigError, match=says):
        open_outbox()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, open_outbox: Open) -> None:
    with pytest.raises(MachineError, match=r"cannot be used.*unable to open"):
        open_outbox(tmp_path / "nowhere" / "outbox.db")


def test_damage_while_it_is_used_is_named(open_outbox: Open, clock: Clock, tmp_path: Path) -> None:
    outbox = open_outbox()
    fill(outbox, range(200))
    clock.take(outbox, 0)
    outbox.sync(clock.now)
    outbox.close()
    path = tmp_path / "outbox.db"
    healthy = path.read_bytes()
    path.write_bytes(healthy[: 8 * PAGE_BYTES] + b"\xff" * (len(healthy) - 8 * PAGE_BYTES))
    with pytest.raises(ConfigError, match=r"outbox\.db .*move it away"):
        clock.take(open_outbox(boot=LATER))


@pytest.mark.parametrize("size", [600, 30_000, 128_000])
def test_the_file_keeps_to_its_limit(open_outbox: Open, clock: Clock, tmp_path: Path, size: int) -> None:
    limit = 8_000_000
    outbox = open_outbox(limit=limit, when_full="drop-oldest")
    largest = 0
    for number in range(4 * limit // max(size, PAGE_BYTES)):
        outbox.put(number, bytes(size), CATS)
        if number % 4 == 3:
            clock.now += 1
            outbox.take(clock.now, nothing, set())
            largest = max(largest, sum(file.stat().st_size for file in tmp_path.iterdir()))
    assert counts(outbox).dropped > counts(outbox).queued
    assert 0.6 * limit < largest < 1.1 * limit + 2 * LOG_BYTES


def test_memory_does_not_grow_with_what_waits(open_outbox: Open, clock: Clock) -> None:
    process, resident = psutil.Process(), list[int]()
    outbox = open_outbox(limit=10**9)
    for number in range(6000):
        outbox.put(number, bytes(20_000), CATS)
        clock.now += COMMIT_SECONDS
        outbox.take(clock.now, nothing, set())
        if number % 1000 == 999:
            resident.append(process.memory_info().rss)
    assert outbox.bytes_held > 120_000_000
    assert resident[-1] - resident[1] < 4_000_000


def nothing(_size: int, /, *, backlog: bool) -> bool:
    return False


# Puts, sends and gets receipts as fast as it can until it is killed; prints a number for every receipt.
VICTIM = """
import random, secrets, sys, time
from pathlib import Path
from robot_edge.uplink.outbox import Outbox

boot, policy = secrets.token_hex(8), sys.argv[2]
outbox = Outbox(Path(sys.argv[1]), boot=boot, limit=400_000, when_full=policy)
rng, sequence, position, now = random.Random(), 0, outbox.position, 0.0
assert position == sum(one.taken for one in outbox.counts().values())
while True:
    for _ in range(rng.randint(0, 3)):
        samples = {name: rng.randint(1, 9) for name in rng.sample(["cat", "dog", "fox"], rng.randint(1, 3))}
        position += sum(samples.values())
        name = f"{boot} {sequence} ".encode()
        outbox.put(sequence, name + bytes(rng.randint(1, 20_000)), samples, position=position)
        sequence += 1
    now += 1.0
    left = [rng.randint(0, 3)]
    def admit(size, /, *, backlog):
        left[0] -= 1
        return left[0] >= 0
    for one in outbox.take(now, admit, set()):
        its_boot, its_sequence, _ = one.payload.split(b" ", 2)
        print("sent", its_boot.decode(), int(its_sequence), flush=True)
        if rng.random() < 0.7:
            outbox.receipted(its_boot.decode(), int(its_sequence), rng.choice(["receipted", "rejected"]))
"""


@pytest.mark.parametrize("policy", ["block", "drop-oldest", "balanced"])
def test_after_a_kill_at_any_moment_the_counts_are_right(tmp_path: Path, open_outbox: Open, policy: str) -> None:
    path, rng, sent = tmp_path / "outbox.db", random.Random(1), set[tuple[str, int]]()
    for _ in range(6):
        victim = subprocess.Popen([sys.executable, "-c", VICTIM, str(path), policy], stdout=subprocess.PIPE, text=True)
        assert victim.stdout is not None
        assert victim.stdout.readline().startswith("sent"), "it did not come to work"
        time.sleep(rng.uniform(0, 0.3))  # any moment
        victim.send_signal(signal.SIGKILL)
        printed, _ = victim.communicate()
        for line in printed.splitlines(keepends=True):
            if line.endswith("\n"):
                _, boot, sequence = line.split()
                sent.add((boot, int(sequence)))

        outbox = open_outbox(path, boot=LATER, when_full=policy)
        queued: Counter[str] = Counter()
        for name, count in outbox._database.execute("SELECT class, count FROM samples"):
            queued[name] += count
        totals = outbox.counts()
        assert {name: one.queued for name, one in totals.items()} == dict(queued)
        assert all(min(one) >= 0 for one in totals.values())
        assert outbox.position == sum(one.taken for one in totals.values())
        rows = outbox._database.execute("SELECT boot, sequence, payload FROM messages").fetchall()
        assert all(payload.startswith(f"{boot} {sequence} ".encode()) for boot, sequence, payload in rows)
        assert len(rows) == len(outbox) == len({row[:2] for row in rows})
        outbox.close()
    assert sum(one.taken for one in totals.values()) > 500
    assert len(sent) > 50
    if policy != "block":
        assert sum(one.dropped for one in totals.values()) > 0


# On a filesystem of 3 MB: fills it, sees trouble, gets a larger one, and counts.
ON_A_SMALL_DISK = """
import json, os, subprocess, sys
from pathlib import Path
from robot_edge.uplink.outbox import Outbox

folder = Path(sys.argv[1])
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(folder)]).returncode:
    sys.exit(77)
outbox = Outbox(folder / "outbox.db", boot="b" * 16, limit=100_000_000, when_full=sys.argv[2])
nothing = lambda size, /, *, backlog: False
everything = lambda size, /, *, backlog: True
now, number = 0.0, 0
while not outbox.trouble and number < 1000:
    outbox.put(number, b"%d " % number + bytes(20_000), {"cat": 4}, position=4 * number + 4)
    number, now = number + 1, now + 1.0
    outbox.take(now, nothing, set())
trouble, first = outbox.trouble, number
if sys.argv[2] != "block":
    for number in range(first, first + 10):
        outbox.put(number, b"%d " % number + bytes(20_000), {"cat": 4}, position=4 * number + 4)
        now += 2.0
        outbox.take(now, nothing, set())
subprocess.run(["mount", "-o", "remount,size=20m", str(folder)], check=True)
now += 2.0
sent = [int(one.payload.split()[0]) for one in outbox.take(now, everything, set())]
after = outbox.trouble
outbox.close()
again = Outbox(folder / "outbox.db", boot="c" * 16, limit=100_000_000)
print(json.dumps([trouble, after, sorted(sent) == list(range(first)), first, again.counts()["cat"], again.position]))
"""


@pytest.mark.parametrize("policy", ["block", "drop-oldest"])
def test_a_real_full_disk(tmp_path: Path, policy: str) -> None:
    ran = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", ON_A_SMALL_DISK, str(tmp_path), policy], capture_output=True, text=True
    )
    if ran.returncode == 77 or "unshare failed" in ran.stderr:
        pytest.skip("needs the right to mount a small filesystem (root)")
    assert ran.returncode == 0, ran.stderr
    trouble, after, all_there, first, of_cats, position = json.loads(ran.stdout)
    assert "full" in trouble
    assert after == ""
    assert all_there
    assert first > 20
    dropped = 0 if policy == "block" else 40
    assert of_cats == [4 * first + dropped, 4 * first, 0, 0, dropped]
    assert position == 4 * first + dropped
