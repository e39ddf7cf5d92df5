"""The queues between threads: bounded, and they count what they drop. One of them is fair to many senders."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from broker.link.allowance import Allowance

# Senders whose budget is remembered. Names may be invented; one that is forgotten has a whole burst again.
MAX_BUDGETS = 4096
# A budget that is nearly there is not asked for again at once.
MIN_WAIT_SECONDS = 0.001

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


class Lane(NamedTuple):
    """Whose an item is. name: its queue. budget: what its queue is read from; several queues may share one."""

    name: str
    budget: str


class _Queue(Generic[Item]):
    def __init__(self, budget: str) -> None:
        self.budget = budget
        self.items: deque[Item] = deque()
        self.bytes = 0


class FairMailbox(Generic[Item]):
    """A mailbox in which nobody's flood displaces or delays what others send.

    Each sender has a queue, and the queues take turns. What does not fit displaces the items of whoever has most of
    them waiting. Each sender is read at a bounded rate: what comes faster waits in its queue, and then is dropped there
    before anybody has looked at it. Any thread may call.
    """

    def __init__(
        self,
        limit: int,
        *,
        per_second: float,
        lane_limit: int,
        newest_wins: bool = False,
        limit_bytes: float = math.inf,
        lane_bytes: float = math.inf,
        size: Callable[[Item], int] = lambda _item: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """limit, limit_bytes: of all items together. lane_limit, lane_bytes: of one sender's; one alone may have more.

        per_second: items that one budget pays for; a second's worth may come at once, and a queue's length.
        newest_wins: a full queue drops its oldest item, not the one that comes.
        """
        self.dropped = 0
        self._limit, self._limit_bytes = limit, limit_bytes
        self._lane_limit, self._lane_bytes = min(lane_limit, limit), min(lane_bytes, limit_bytes)
        self._per_second, self._burst = per_second, max(per_second, self._lane_limit)
        self._newest_wins = newest_wins
        self._size = size
        self._clock = clock
        self._count = self._bytes = 0
        self._queues: OrderedDict[str, _Queue[Item]] = OrderedDict()  # those that hold something; the next one first
        self._budgets: OrderedDict[str, Allowance] = OrderedDict()
        self._dropped_of: Counter[str] = Counter()
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return self._count

    def put(self, item: Item, lane: Lane) -> None:
        """Add an item without waiting."""
        size = self._size(item)
        with self._changed:
            if not self._make_room(lane, size):
                self._drop(lane.budget)
                return
            queue = self._queues.get(lane.name)
            if queue is None:
                queue = self._queues[lane.name] = _Queue(lane.budget)
                self._changed.notify()  # who waits while a queue is there waits for its budget
            queue.items.append(item)
            self._hold(queue, size)

    def drop(self, lane: Lane) -> None:
        """Count an item that was not even put in."""
        with self._changed:
            self._drop(lane.budget)

    def take(self, timeout: float) -> Item | None:
        """Return the next sender's oldest item, waiting up to timeout seconds for one; None where none came."""
        with self._changed:
            until = self._clock() + timeout
            while (item := self._next(now := self._clock())) is None and now < until:
                waits = [self._budget(queue.budget).wait(now) for queue in self._queues.values()]
                self._changed.wait(min([until - now, *(max(wait, MIN_WAIT_SECONDS) for wait in waits)]))
            return item

    def take_dropped(self) -> Counter[str]:
        """Return how much was dropped of each budget since this was asked last."""
        with self._changed:
            dropped, self._dropped_of = self._dropped_of, Counter()
            return dropped

    def _next(self, now: float) -> Item | None:
        for name in list(self._queues):
            self._queues.move_to_end(name)
            if self._budget(self._queues[name].budget).take(now):
                return self._remove(name, oldest=True)
        return None

    def _make_room(self, lane: Lane, size: int) -> bool:
        """Drop what must go for an item of so many bytes; whether there is room for it then."""
        while victim := self._victim(lane.name, size):
            if victim == lane.name and (not self._newest_wins or victim not in self._queues):
                return False
            self._drop(self._queues[victim].budget)
            self._remove(victim, oldest=self._newest_wins)
        return True

    def _victim(self, name: str, size: int) -> str:
        """Return the queue that has to give something up for an item; empty where nothing has to go."""
        own = self._queues.get(name)
        if own and (len(own.items) >= self._lane_limit or own.bytes + size > self._lane_bytes):
            return name
        if self._count >= self._limit:
            return max(self._queues, key=lambda one: len(self._queues[one].items))
        if self._count and self._bytes + size > self._limit_bytes:
            largest = max(self._queues, key=lambda one: self._queues[one].bytes)
            return largest if self._queues[largest].bytes >= size + (own.bytes if own else 0) else name
        return ""

    def _remove(self, name: str, *, oldest: bool) -> Item:
        queue = self._queues[name]
        item = queue.items.popleft() if oldest else queue.items.pop()
        self._hold(queue, -self._size(item), -1)
        if not queue.items:
            del self._queues[name]
        return item

    def _hold(self, queue: _Queue[Item], size: int, count: int = 1) -> None:
        queue.bytes += size
        self._bytes += size
        self._count += count

    def _drop(self, budget: str) -> None:
        self.dropped += 1
        self._dropped_of[budget] += 1

    def _budget(self, name: str) -> Allowance:
        budget = self._budgets.setdefault(name, Allowance(self._per_second, self._burst))
        self._budgets.move_to_end(name)
        if len(self._budgets) > MAX_BUDGETS:
            self._budgets.popitem(last=False)
        return budget
