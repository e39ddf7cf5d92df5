"""What the cloud has not receipted yet, in one sqlite file: the one place where a robot keeps what it has to send.

Everything that belongs together is in one transaction: a message, its place in the counts of its classes, and how far
the source had been read when it was made. So a robot that is killed at any moment finds them in step again.
"""

from __future__ import annotations

import itertools
import logging
import math
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeVar

from broker.errors import ConfigError
from broker.program.machine import refused
from robot_edge.uplink.ledger import ClassCounts, Ledger, Outcome
from robot_edge.uplink.outbox_tables import (
    LIVE,
    OF_CLASS,
    OF_COMMONNESS,
    OLDEST,
    OLDEST_FIRST,
    PAGE_BYTES,
    RAREST_FIRST,
    prepare,
)

# What happens when the outbox is full: the source waits (a replay can), the oldest messages go, or messages of the
# class that has most.
WhenFull = Literal["block", "drop-oldest", "balanced"]

# At most this often what was put in goes onto the disk, in one transaction: with synchronous=FULL one costs 4 ms.
COMMIT_SECONDS = 0.1
# After a failure, as on a full disk: often enough to go on soon, seldom enough to cost nothing.
RETRY_SECONDS = 1.0
# Between two warnings: a disk that is nearly full takes one thing and refuses the next, many times a minute.
WARNING_SECONDS = 60.0
# What is younger is live, what is older is backlog.
LIVE_SECONDS = 10.0

# Commonness of samples that went up before: they are the last to go up, and the first to be given up.
ENCODED_ANEW = math.inf

# What a failure means for the run, for people.
AFTER_FAILURE: dict[WhenFull, str] = {
    "block": "training waits until it can",
    "drop-oldest": "training goes on, and what is learned from meanwhile is not sent",
    "balanced": "training goes on, and what is learned from meanwhile is not sent",
}

log = logging.getLogger("robot-edge")


Result = TypeVar("Result")


class Outgoing(NamedTuple):
    """A message to be sent now. backlog: it is no longer live."""

    id: int
    payload: bytes
    backlog: bool


class Stored(NamedTuple):
    """A message as the disk has it."""

    id: int
    payload: bytes


class Part(NamedTuple):
    """A part of a message that was too large. samples: training samples by class, as put() takes them."""

    sequence: int
    payload: bytes
    samples: Mapping[str, int]
    evaluation: int
    again: bool


class Admit(Protocol):
    """Whether one more message may be on the way; if so, it counts as being there."""

    def __call__(self, size: int, /, *, backlog: bool) -> bool:
        """Decide on a message of so many bytes."""


class _Put(NamedTuple):
    sequence: int
    payload: bytes
    samples: Mapping[str, int]
    evaluation: int
    commonness: float
    edit: int = 0


class _Row(NamedTuple):
    id: int
    boot: str
    sequence: int
    size: int


class _Sent(NamedTuple):
    row: _Row
    samples: Mapping[str, int]


class Outbox:
    """Keeps each message until its receipt comes, through kills and full disks.

    What is put in goes onto the disk with the next commit; only then it may be sent, or a robot that is killed could
    give its sequence number to another message. The counts and ``position`` are as of now, the file is as of the last
    commit.
    bytes_held: what the messages take of the limit, in whole pages. payload_held: what they take of a link.
    """

    def __init__(
        self,
        path: Path,
        *,
        boot: str,
        limit: int,
        when_full: WhenFull = "block",
        durable: bool = False,
    ) -> None:
        """Open an outbox, or make one.

        boot: of this process; messages of earlier ones keep theirs. limit: bytes on the disk.
        durable: a commit survives a power cut as well as a kill.
        Raises ConfigError where the file is no outbox or cannot be written.
        """
        self.path = path
        self.limit = limit
        self.when_full = when_full
        self.trouble = ""
        self._boot = boot
        self._puts: list[_Put] = []
        self._gone: set[int] = set()  # ids to be deleted
        self._young: deque[tuple[float, int]] = deque()  # (time, first id) of the commits of the last LIVE_SECONDS
        self._next_commit = self._next_warning = float("-inf")
        self._warned = False
        try:
            self._database = sqlite3.connect(path, isolation_level=None)
            with ExitStack() as on_failure:
                on_failure.callback(self._database.close)
                prepare(self._database, path, durable)
                self._load()
                on_failure.pop_all()
        except sqlite3.Error as error:
            advice = "move it away to go on without what it holds"
            raise refused(f"the outbox {path} cannot be used", error, path=path, advice=advice) from error

    def __len__(self) -> int:
        return self._messages

    @property
    def full(self) -> bool:
        """Whether it holds its limit, or the disk takes no more."""
        return self.bytes_held >= self.limit or bool(self.trouble)

    @property
    def has_live(self) -> bool:
        """Whether live messages are being put in. A replay has none: it waits when it must, and comes in order."""
        return self.when_full != "block" and bool(self._puts or self._young)

    @property
    def position(self) -> int:
        """How far the source had been read when the last message was made."""
        return self._totals["position"]

    @property
    def is_new(self) -> bool:
        """Whether this process is the first to open it."""
        return self.starts == 1

    @property
    def starts(self) -> int:
        """How many processes have opened it, this one included."""
        return self._totals["starts"]

    @property
    def messages_made(self) -> int:
        """Training messages put in, since the run began."""
        return self._totals["messages"]

    @property
    def bytes_made(self) -> int:
        """Payload of those."""
        return self._totals["bytes"]

    @property
    def edits(self) -> int:
        """Class edits put in, since the run began."""
        return self._totals["edits"]

    @property
    def edits_taken(self) -> int:
        """Class edits up to this number are stored by a trainer."""
        (first,) = self._database.execute("SELECT min(number) FROM edits WHERE message IS NOT NULL").fetchone()
        return self.edits if first is None else int(first) - 1

    @property
    def messages_rejected(self) -> int:
        """Messages that the trainer refused, since the run began."""
        return self._totals["rejected"]

    def counts(self) -> dict[str, ClassCounts]:
        """Return what became of the samples, by class, since the run began."""
        return self._ledger.counts()

    def put(
        self,
        sequence: int,
        payload: bytes,
        samples: Mapping[str, int],
        *,
        again: bool = False,
        position: int | None = None,
        evaluation: int = 0,
    ) -> None:
        """Keep a message of this boot until its receipt.

        samples: training samples by class; those of an evaluation, or that went up before, are none. again: whether
        they did. position: of the source, after them.
        """
        if position is not None:
            self._totals["position"] = position
        self._ledger.count("taken", samples)
        if not evaluation:
            self._totals["messages"] += 1
            self._totals["bytes"] += len(payload)
        if self.trouble and self.when_full != "block":
            self._ledger.count("dropped", samples)
            return
        commonness = ENCODED_ANEW if again else self._ledger.commonness(samples)
        self._puts.append(_Put(sequence, payload, samples, evaluation, commonness))
        self._hold(len(payload), +1)

    def put_edit(self, sequence: int, payload: bytes) -> None:
        """Keep a class edit of this boot until its receipt. None is ever given up for others: it is a hundred bytes."""
        self._totals["edits"] += 1
        self._puts.append(_Put(sequence, payload, {}, 0, 0.0, edit=self._totals["edits"]))
        self._hold(len(payload), +1)

    def larger_than(self, size: int, most: int) -> list[Stored]:
        """Return up to so many messages of more than so many bytes, as the disk has them."""
        rows = self._database.execute("SELECT id, payload FROM messages WHERE size > ? ORDER BY id", (size,))
        fitting = (Stored(number, bytes(payload)) for number, payload in rows if number not in self._gone)
        return list(itertools.islice(fitting, most))

    def replace(self, message: int, parts: Sequence[Part]) -> None:
        """Put messages of this boot in the place of one that cannot arrive. They count as that one did."""
        boot, sequence, size = self._database.execute(
            "SELECT boot, sequence, size FROM messages WHERE id = ?", (message,)
        ).fetchone()
        self._sent.pop((boot, sequence), None)
        self._gone.add(message)
        self._hold(size, -1)
        for part in parts:
            commonness = ENCODED_ANEW if part.again else self._ledger.commonness(part.samples)
            self._puts.append(_Put(part.sequence, part.payload, part.samples, part.evaluation, commonness))
            self._hold(len(part.payload), +1)

    def edits_after(self, number: int) -> list[bytes]:
        """Return the class edits of the run behind that one, as the disk has them."""
        rows = self._database.execute("SELECT payload FROM edits WHERE number > ? ORDER BY number", (number,))
        return [bytes(payload) for (payload,) in rows]

    def take(self, now: float, admit: Admit, under_way: Container[int]) -> list[Outgoing]:
        """Commit what was put in, and return what to send now: at most what ``admit`` lets through.

        What was sent before and is not under way any more comes first, then what is live, then the backlog.
        Returns nothing between two commits. Raises ConfigError where the file is damaged.
        """
        if now < self._next_commit:
            return []
        self._next_commit = now + COMMIT_SECONDS
        while self._young and self._young[0][0] < now - LIVE_SECONDS:
            self._young.popleft()
        again = [
            sent.row
            for sent in sorted(self._sent.values())
            if sent.row.id not in under_way and admit(sent.row.size, backlog=True)
        ]
        chosen = [(row, True) for row in again]
        chosen += self._tried(now, lambda: self._commit(now, admit)) or []
        return self._tried(now, lambda: [Outgoing(row.id, self._payload(row.id), old) for row, old in chosen]) or []

    def receipted(self, boot: str, sequence: int, outcome: Literal["receipted", "rejected"]) -> int | None:
        """Let go of a message; return its id, or None where it was let go of before or never sent."""
        sent = self._sent.pop((boot, sequence), None)
        if sent is None:
            return None
        self._totals["rejected"] += outcome == "rejected"
        self._let_go(sent.row, sent.samples, outcome)
        return sent.row.id

    def sync(self, now: float) -> bool:
        """Put everything onto the disk so that it survives a power cut; False where the disk takes no more."""
        written = self._tried(now, lambda: self._commit(now, None))
        synced = self._tried(now, lambda: self._database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall())
        return written is not None and synced is not None

    def copy_to(self, path: Path) -> None:
        """Write all that it holds into another file, which another process may open. Raises OSError."""
        path.unlink(missing_ok=True)
        if not self.sync(time.monotonic()):
            raise OSError(self.trouble)
        try:
            self._database.execute("VACUUM INTO ?", (str(path),))
        except sqlite3.Error as error:
            raise OSError(str(error)) from error

    def close(self) -> None:
        """Close the file; what came after the last commit is not in it, as if the process had been killed."""
        self._database.close()

    def _load(self) -> None:
        run = self._database.execute
        run("BEGIN IMMEDIATE")
        # Nobody waits for the evaluations of a process that has ended.
        run("DELETE FROM sent WHERE id IN (SELECT id FROM messages WHERE evaluation > 0 AND boot != ?)", (self._boot,))
        run("DELETE FROM messages WHERE evaluation > 0 AND boot != ?", (self._boot,))
        self._totals: Counter[str] = Counter()
        self._totals.update({str(name): int(value) for name, value in run("SELECT name, value FROM totals")})
        self._totals["starts"] += 1
        self._written = Counter(self._totals)
        run("INSERT OR REPLACE INTO totals VALUES ('starts', ?)", (self._totals["starts"],))
        run("COMMIT")
        self._ledger = Ledger(run("SELECT * FROM classes"))
        messages, pages, payload, newest = run(
            "SELECT count(*), total((size + ?) / ?), total(size), coalesce(max(id), 0) FROM messages",
            (PAGE_BYTES - 1, PAGE_BYTES),
        ).fetchone()
        self._messages, self._newest = int(messages), int(newest)
        self.bytes_held, self.payload_held = int(pages) * PAGE_BYTES, int(payload)
        rows = [_Row(*row) for row in run("SELECT id, boot, sequence, size FROM sent JOIN messages USING (id)")]
        self._sent = {(row.boot, row.sequence): _Sent(row, self._samples(row.id)) for row in rows}

    def _commit(self, now: float, admit: Admit | None) -> list[tuple[_Row, bool]]:
        """Write all that has changed, and choose what may be sent next. Raises sqlite3.OperationalError."""
        self._make_room()
        run, many = self._database.execute, self._database.executemany
        run("BEGIN")
        # First, as what goes makes room for what comes.
        gone = [(one,) for one in self._gone]
        many("DELETE FROM messages WHERE id = ?", gone)
        many("DELETE FROM sent WHERE id = ?", gone)
        many("DELETE FROM samples WHERE message = ?", gone)
        many("UPDATE edits SET message = NULL WHERE message = ?", gone)
        for number, put in enumerate(self._puts, self._newest + 1):
            run(
                "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?)",
                (number, self._boot, put.sequence, put.evaluation, len(put.payload), put.commonness, put.payload),
            )
            many("INSERT INTO samples VALUES (?, ?, ?)", [(number, *one) for one in put.samples.items()])
            if put.edit:
                run("INSERT INTO edits VALUES (?, ?, ?)", (put.edit, number, put.payload))
        many("INSERT OR REPLACE INTO classes VALUES (?, ?, ?, ?, ?)", self._ledger.changed_rows())
        if self._written != self._totals:
            many("INSERT OR REPLACE INTO totals VALUES (?, ?)", list(self._totals.items()))
        chosen = self._choose(admit) if admit else []
        many("INSERT INTO sent VALUES (?)", [(row.id,) for row, _ in chosen])
        samples = [self._samples(row.id) for row, _ in chosen]
        run("COMMIT")
        if self._puts:
            self._young.append((now, self._newest + 1))
            self._newest += len(self._puts)
        self._puts.clear()
        self._gone.clear()
        self._ledger.changed.clear()
        self._written = Counter(self._totals)
        for (row, _), its in zip(chosen, samples, strict=True):
            self._sent[row.boot, row.sequence] = _Sent(row, its)
        self.trouble = ""
        if self._warned:
            self._warned = False
            log.warning("the outbox can be written again")
        return chosen

    def _choose(self, admit: Admit) -> list[tuple[_Row, bool]]:
        """Return what to send of all that was never sent, each with whether it is backlog."""
        first_live = self._young[0][1] if self._young else self._newest + 1
        if self.when_full == "block":
            first_live = self._newest + len(self._puts) + 1
        chosen = []
        of_backlog = RAREST_FIRST if self.when_full == "balanced" else OLDEST_FIRST
        for backlog, query in ((False, LIVE), (True, of_backlog)):
            for row in self._rows(query, first_live):
                if not admit(row.size, backlog=backlog):
                    break
                chosen.append((row, backlog))
        return chosen

    def _rows(self, query: str, value: object) -> Iterator[_Row]:
        """Yield what the query finds, one after the other: it may be all that waits."""
        return (_Row(*row) for row in self._database.execute(query, (value,)) if row[0] not in self._gone)

    def _make_room(self) -> None:
        """Choose what has to go, if something has to.

        What may have reached the trainer stays: whether it counts as trained or as dropped could not be told.
        """
        while self.when_full != "block" and self.bytes_held > self.limit and not self.trouble:
            match next(self._victims(), None):
                case None:
                    return
                case _Row() as row:
                    self._let_go(row, self._samples(row.id), "dropped")
                case put:
                    self._puts.remove(put)
                    self._hold(len(put.payload), -1)
                    self._ledger.count("dropped", put.samples)

    def _victims(self) -> Iterator[_Row | _Put]:
        """Yield what may go, in the order in which it goes."""
        yield from self._rows(OF_COMMONNESS, ENCODED_ANEW)
        yield from (put for put in self._puts if put.commonness == ENCODED_ANEW)
        if self.when_full == "drop-oldest":
            yield from self._rows(OLDEST, 0)
        else:
            # A message holds several classes: that one goes which has most of the largest class.
            yield from self._rows(OF_CLASS, self._ledger.longest_queue)
        yield from (put for put in self._puts if not put.edit)

    def _let_go(self, row: _Row, samples: Mapping[str, int], outcome: Outcome) -> None:
        self._gone.add(row.id)
        self._hold(row.size, -1)
        self._ledger.count(outcome, samples)

    def _hold(self, size: int, sign: int) -> None:
        self._messages += sign
        self.bytes_held += sign * -(-size // PAGE_BYTES) * PAGE_BYTES
        self.payload_held += sign * size

    def _samples(self, message: int) -> dict[str, int]:
        return dict(self._database.execute("SELECT class, count FROM samples WHERE message = ?", (message,)).fetchall())

    def _payload(self, message: int) -> bytes:
        row = self._database.execute("SELECT payload FROM messages WHERE id = ?", (message,)).fetchone()
        return bytes(row[0])

    def _tried(self, now: float, work: Callable[[], Result]) -> Result | None:
        """Return what the work returns; None where the disk fails, and all of it is left for the next time."""
        try:
            return work()
        except sqlite3.OperationalError as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            self._next_commit = now + RETRY_SECONDS
            if now >= self._next_warning:
                self._next_warning, self._warned = now + WARNING_SECONDS, True
                log.warning("the outbox %s cannot be written (%s): %s", self.path, error, AFTER_FAILURE[self.when_full])
            self.trouble = str(error)
            return None
        except sqlite3.DatabaseError as error:
            raise ConfigError(
                f"the outbox {self.path} is damaged ({error}): move it away to go on without what it holds"
            ) from error
