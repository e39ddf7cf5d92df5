"""The one queue between threads: bounded, and it counts what it drops."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """A bounded first-in first-out queue. A full one drops what comes, or its oldest; ``dropped`` says how much."""

    def __init__(self, limit: int, *, newest_wins: bool = False) -> None:
        self.limit = limit
        self.newest_wins = newest_wins
        self.dropped = 0
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()

    def put(self, item: Item) -> None:
        """Add an item without waiting."""
        with self._changed:
            if len(self._items) >= self.limit:
                self.dropped += 1
                if not self.newest_wins:
                    return
                self._items.popleft()
            self._items.append(item)
            self._changed.notify()

    def take(self, timeout: float) -> Item | None:
        """Return the oldest item, waiting up to timeout seconds for one; None where none came."""
        with self._changed:
            if not self._items and timeout > 0:
                self._changed.wait(timeout)
            return self._items.popleft() if self._items else None
