"""Runs robot-edge or cloud-trainer with outbox and store as plain lists in memory: what durability is compared with.

    python benchmarks/without_storage.py robot_edge run ...

Nothing here survives anything; it does what the loops need and no more.
"""

from __future__ import annotations

import importlib
import sys
from collections import Counter, deque
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import cloud_trainer.trainer
import robot_edge.run.start
from cloud_trainer.store.log import Event
from robot_edge.uplink.ledger import ClassCounts
from robot_edge.uplink.outbox import Outgoing


class ListOutbox:
    """Stands in for robot_edge.uplink.outbox.Outbox."""

    starts, messages_rejected, edits, edits_taken = 1, 0, 0, 0
    trouble, full, has_live, when_full = "", False, False, "block"

    def __init__(self, path: Path, **_settings: Any) -> None:
        self.path = path
        self.position = self.messages_made = self.bytes_made = 0
        self._waiting: deque[tuple[int, bytes, Mapping[str, int]]] = deque()
        self._sent: dict[int, Mapping[str, int]] = {}
        self._taken: Counter[str] = Counter()
        self._receipted: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sent)

    def counts(self) -> dict[str, ClassCounts]:
        return {
            name: ClassCounts(taken, taken - self._receipted[name], self._receipted[name], 0, 0)
            for name, taken in self._taken.items()
        }

    def put(
        self,
        sequence: int,
        payload: bytes,
        samples: Mapping[str, int],
        *,
        position: int | None = None,
        evaluation: int = 0,
    ) -> None:
        self.position = position or self.position
        self._taken.update(samples)
        self.messages_made += not evaluation
        self.bytes_made += 0 if evaluation else len(payload)
        self._waiting.append((sequence, payload, samples))

    def take(self, _now: float, admit: Callable[..., bool], _under_way: Container[int]) -> list[Outgoing]:
        chosen = []
        while self._waiting and admit(len(self._waiting[0][1]), backlog=False):
            sequence, payload, samples = self._waiting.popleft()
            self._sent[sequence] = samples
            chosen.append(Outgoing(sequence, payload, backlog=False))
        return chosen

    def receipted(self, _boot: str, sequence: int, _outcome: str) -> int | None:
        samples = self._sent.pop(sequence, None)
        self._receipted.update(samples or {})
        return None if samples is None else sequence

    def edits_after(self, _number: int) -> list[bytes]:
        return []

    def sync(self, _now: float) -> bool:
        return True

    def close(self) -> None: ...


class ListStore:
    """Stands in for a store."""

    bytes_used = 0

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self._events: list[Event] = []
        self._known: set[tuple[str, str, int]] = set()

    def append_message(self, robot: str, boot: str, sequence: int, payload: bytes, kind: Any = "batch") -> int:
        if (robot, boot, sequence) in self._known:
            return 0
        self._known.add((robot, boot, sequence))
        self.append(robot, kind, payload)
        return len(self._events)

    def append(self, robot: str, kind: Any, payload: bytes = b"") -> None:
        self._events.append(Event(id=len(self._events) + 1, robot=robot, kind=kind, payload=payload))

    def robots(self) -> list[str]:
        return []

    def next_event(self, robot: str, cursor: int) -> Event | None:
        return next((event for event in self._events[cursor:] if event.robot == robot), None)

    def has_events(self, robot: str, cursor: int) -> bool:
        return self.next_event(robot, cursor) is not None

    def batch(self, event: int) -> bytes:
        return self._events[event - 1].payload

    def batches_after(self, _robot: str, _cursor: int) -> Iterator[bytes]:
        return iter(())

    def keep_metrics(self, robot: str, payload: bytes) -> None: ...

    def commit(self) -> None: ...

    def close(self) -> None: ...


def main() -> None:
    vars(robot_edge.run.start)["Outbox"] = ListOutbox
    vars(cloud_trainer.trainer)["open_store"] = lambda _path, settings: ListStore(dict(vars(settings)))
    program = sys.argv.pop(1)
    importlib.import_module(f"{program}.commands").main()


if __name__ == "__main__":
    main()
