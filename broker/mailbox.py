"""The one queue between threads: bounded, and it counts what it drops."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """A bounded first-in first-out queue. A full one drops what comes, or its oldest; ``dropped`` says how much."""

    def __init__(
        self,
        limit: int,
        *,
        newest_wins: bool = False,
        limit_bytes: float = math.inf,
        size: Callable[[Item], int] = lambda _item: 0,
    ) -> None:
        """limit_bytes: of all items together, by what ``size`` says of each; a single one may have more."""
        self.limit = limit
        self.newest_wins = newest_wins
        self.dropped = 0
        self._limit_bytes = limit_bytes
        self._size = size
        self._bytes = 0
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()

    def put(self, item: Item) -> None:
        """Add an item without waiting."""
        size = self._size(item)
        with self._changed:
            while self._items and (len(self._items) >= self.limit or self._bytes + size > self._limit_bytes):
                self.dropped += 1
                if not self.newest_wins:
                    return
                self._pop()
            self._items.append(item)
            self._bytes += size
            self._changed.notify()

    def take(self, timeout: float) -> Item | None:
        """Return the oldest item, waiting up to timeout seconds for one; None where none came."""
        with self._changed:
            if not self._items and timeout > 0:
                self._changed.wait(timeout)
            return self._pop() if self._items else None

    def _pop(self) -> Item:
        item = self._items.popleft()
        self._bytes -= self._size(item)
        return item
