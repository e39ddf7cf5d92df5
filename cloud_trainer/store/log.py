"""The durable, append-only log of everything that a trainer's training depends on: what every store of it can do.

Training is a function of this log and of the settings in it: sessions read nothing else. So a trainer that was killed
goes on from a checkpoint and its place in the log, and a replay from the start ends at the same weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from broker.errors import ConfigError, NotEntered

# start: a new network, for a robot's state. rejoin: the robot has started again and goes on with the network it has.
# join: a robot of a fleet has started, and others began the network, or itself before.
# batch: an ActivationBatch as it came in. edit: a ClassEdit. flush: train on what waits, as nothing more is coming for
# now. rehearse: take steps on stored samples alone, the first so many of those that are due. settle: the same, and
# these are the last for now, so let the rate fall to its end.
# forget: batches up to an event are about to go, as the store is full.
Kind = Literal["start", "rejoin", "join", "batch", "edit", "flush", "forget", "rehearse", "settle"]

# With which a robot's state enters a log.
STATES = ("start", "rejoin", "join")

# Of messages: those of a robot that training learns from.
Message = Literal["batch", "edit"]

# Of sequences whose batches were given up. What waits at a robot leaves gaps between them, as messages do not come in
# their order, but it has no more messages than its outbox holds: 65,000 in 256 MB. A peer that sends every second
# number would fill the disk with ranges: beyond this many, those next to each other are joined.
MAX_RANGES = 100_000

# Batches that are deleted, or looked at to be wiped, before others have a turn; and their bytes.
TIDIED_AT_ONCE, TIDIED_BYTES = 64, 4_000_000


@dataclass(frozen=True, kw_only=True)
class Event:
    """One entry of the log. payload: the message as it came in, or what the kind needs."""

    id: int
    robot: str
    kind: Kind
    payload: bytes


# What a store holds: events (id, log, robot, kind, boot, sequence, payload), what robots said last (robot, payload),
# logs of which something is gone (log), and sequences whose batches were given up (robot, boot, first, last).
Table = Literal["events", "metrics", "wiped", "forgotten"]


@dataclass(frozen=True, kw_only=True)
class NewMessage:
    """What `append_messages` takes, as `append_message` does."""

    robot: str
    boot: str
    sequence: int
    payload: bytes
    kind: Message = "batch"
    log: str = ""


def is_there(event: int, payload: bytes | None) -> bytes:
    """Return the payload of an event. Raises ConfigError where there is none."""
    if payload is None:
        raise ConfigError(f"the store lacks event {event}, which a checkpoint refers to: do they belong together?")
    return payload


class Store(ABC):
    """The log, open for reading and appending. What is appended counts from the next commit on.

    A thread has a store of its own on the same place; it reads what the others have committed. Events of one log have
    one order, that of their ids: who has read an event will never find another one before it.

    settings: those that it was made with. claims: the epochs of the logs that this process owns, by log. Stores of one
    process share them.
    """

    settings: dict[str, Any]
    claims: dict[str, int]

    # Who owns a log

    @abstractmethod
    def claim(self, log: str, owner: str) -> int:
        """Become the only one that trains on a log; return its new epoch, from 1 on, which is in ``claims`` from now.

        Whoever owned it before writes nothing more into it but robots' messages: its store raises Superseded. What was
        appended is committed before. Raises StorageError. A store in a file has one owner, that of its folder: 0.
        """

    @abstractmethod
    def last_events(self, logs: Sequence[str]) -> dict[str, int]:
        """Return the id of the newest event of each of those logs that has any, in one question."""

    # Writing

    @abstractmethod
    def append_message(
        self, robot: str, boot: str, sequence: int, payload: bytes, kind: Message = "batch", log: str = ""
    ) -> int:
        """Append a batch or an edit of a robot, and return its id; 0, and nothing appended, where it has come before.

        log: that it belongs to, where that is not the robot's own. Raises StorageError, and NotEntered where others
        write to the store, too, and no state of the robot has entered that log.
        """

    def append_messages(self, messages: Sequence[NewMessage]) -> list[int | None]:
        """Append several, in their order: return the id of each, 0 where it has come before, None where not entered.

        A database answers once for all of them. Raises StorageError.
        """
        return [self._append_if_entered(one) for one in messages]

    def _append_if_entered(self, one: NewMessage) -> int | None:
        try:
            return self.append_message(one.robot, one.boot, one.sequence, one.payload, one.kind, one.log)
        except NotEntered:
            return None

    @abstractmethod
    def append(self, log: str, kind: Kind, payload: bytes = b"", robot: str = "") -> int:
        """Append an event other than a batch, and return its id. robot: that it is of, in a log that several share.

        Raises StorageError, and Superseded where another process has claimed the log since this one did.
        """

    @abstractmethod
    def keep_metrics(self, robot: str, payload: bytes) -> None:
        """Keep the last that the robot said of itself, in place of what it said before. Raises StorageError."""

    @abstractmethod
    def commit(self) -> None:
        """Put what was appended on the disk. Raises StorageError, and what was appended since the last one is gone.

        Where the store cannot tell whether it is gone, as the connection broke, a message that comes again is a
        duplicate, and an event that is appended again is the one that is there.
        """

    # What is there

    @abstractmethod
    def metrics(self, robot: str) -> bytes | None:
        """Return the last that the robot said of itself; None where it never did."""

    @abstractmethod
    def robots(self) -> list[str]:
        """Return the names of all robots with events, in the order in which they came."""

    @abstractmethod
    def logs(self) -> list[str]:
        """Return the names of all logs, in the order in which they began."""

    @abstractmethod
    def next_event(self, log: str, cursor: int) -> Event | None:
        """Return the log's first event after the one with that id."""

    @abstractmethod
    def has_events(self, log: str, cursor: int) -> bool:
        """Whether the log has events after the one with that id."""

    @abstractmethod
    def states(self, log: str) -> list[Event]:
        """Return the log's starts, rejoins and joins; every log begins with a start."""

    @abstractmethod
    def states_of(self, robot: str) -> list[tuple[str, Event]]:
        """Return the same of a robot, in whichever logs, with their names."""

    def batches_after(self, log: str, cursor: int) -> Iterator[Event]:
        """Yield the log's batches after the event with that id, one in memory at a time."""
        while event := self.next_event(log, cursor):
            cursor = event.id
            if event.kind == "batch":
                yield event

    @abstractmethod
    def batch_bytes(self, log: str) -> dict[str, int]:
        """Return what the log's batches hold, in bytes, by robot."""

    @abstractmethod
    def count_batches(self, log: str, after: int, up_to: int) -> dict[str, int]:
        """Return how many of the log's batches are behind one event, up to another one, by robot."""

    @abstractmethod
    def last_event(self, log: str) -> int:
        """Return the id of the log's newest event, 0 where it has none."""

    @abstractmethod
    def event_count(self, log: str) -> int:
        """Return how many events the log has."""

    @abstractmethod
    def batches(self, events: Sequence[int]) -> Iterator[bytes]:
        """Yield the batches that are the events with those ids, some in memory at a time.

        Raises ConfigError where one was forgotten. A database is asked for many at once.
        """

    @property
    @abstractmethod
    def bytes_used(self) -> int:
        """What the log takes of its room; what forgotten batches left is used again and does not count."""

    @abstractmethod
    def is_whole(self, log: str) -> bool:
        """Whether nothing of the log was forgotten or wiped, so that it can be replayed from its start."""

    @abstractmethod
    def oldest_batches(self, log: str, robot: str, before: int, total: int) -> int:
        """Return the event up to which the robot's oldest batches in a log hold ``total`` bytes; 0 for none.

        before: where that many do not lie before this event, it is the last batch up to it.
        """

    # Forgetting

    @abstractmethod
    def forget_some(self, log: str, robot: str, up_to: int) -> bool:
        """Delete a robot's first batches in a log up to the event with that id, in a part of a second.

        They count as come. Return whether any are left. Raises StorageError and Superseded.
        """

    def wipe_some(
        self,
        log: str,
        robot: str,
        cursor: int,
        up_to: int,
        others: Sequence[int],
        without: Callable[[bytes, int], bytes | None],
    ) -> int | None:
        """Replace payloads of a robot's batches in a log up to an event, and of those with the other ids.

        Only of the first behind the event ``cursor``, in a part of a second. Return the event to go on behind; None
        where all is done. Nobody may write to these batches meanwhile.
        without: returns what to put in place of the payload of an event, or None for one that stays. Raises
        StorageError and Superseded.
        """
        last, wanted, seen = max([up_to, *others]), set(others), 0
        wiped: dict[int, bytes] = {}
        while (event := self.next_event(log, cursor)) and event.id <= last and seen < TIDIED_BYTES:
            cursor = event.id
            seen += len(event.payload) + TIDIED_BYTES // TIDIED_AT_ONCE
            if event.robot == robot and event.kind == "batch" and (cursor <= up_to or cursor in wanted):
                payload = without(event.payload, event.id)
                if payload is not None:
                    wiped[cursor] = payload
        done = seen < TIDIED_BYTES
        self._wipe(log, wiped, done=done)
        return None if done else cursor

    @abstractmethod
    def _wipe(self, log: str, payloads: Mapping[int, bytes], *, done: bool) -> None:
        """Put payloads in place of those of a log's events, by id, and commit. done: these are the last."""

    # Checkpoints, where the store names them

    def checkpoint(self, log: str) -> str:
        """Return the name of the log's checkpoint; empty where none was named, or the store names none."""
        return ""

    def name_checkpoint(self, log: str, name: str) -> None:
        """Let a checkpoint be the log's from now on. Raises StorageError, and Superseded: then the former one stays."""
        raise NotImplementedError

    @property
    def is_remote(self) -> bool:
        """Whether processes of several machines may write to it. Then it names the checkpoint that holds."""
        return False

    # Moving

    @abstractmethod
    def rows(self, table: Table) -> Iterator[tuple[Any, ...]]:
        """Yield what the store holds, as `fill` takes it."""

    @abstractmethod
    def fill(self, source: Store, checkpoints: Mapping[str, str]) -> None:
        """Take over all that another store holds, or nothing. This one holds nothing yet.

        checkpoints: their names, by log, where this store names them. Raises StorageError.
        """

    def be_alone(self) -> None:  # noqa: B027  a file's folder has a lock
        """See that nobody else has the store open, as long as this one is. Raises ConfigError where somebody has."""

    @abstractmethod
    def leave(self, other: str) -> None:
        """Note that it has moved to another place, so that nobody goes on with it, and close it.

        Raises StorageError.
        """

    # The end

    def give_up(self) -> None:  # noqa: B027  a file is never away
        """Wait no more for a server that is away: from now on what waits raises StorageError. For any thread."""

    @abstractmethod
    def close(self) -> None:
        """Close it; what was not committed is gone."""
