"""What a link asked the broker for, and what came of it. No I/O; time is an argument.

MQTT 3.1.1 has one answer to a subscription that fails, 0x80. Access rules are behind it, or a cluster that could not
make the subscription in time because a node of it has just died. So what was refused is asked for again. A broker that
looks up its rules refuses at once, and each time.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

# What took longer is no look into rules: NATS waits for its cluster for 4 s.
QUICK_SECONDS = 1.0
# Quick refusals of one filter after which it counts as forbidden: with the waits between them, 15 s. A cluster has
# chosen other leaders by then.
MOST_REFUSALS = 5
# Before a filter is asked for again; twice as long each time.
WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 30.0
# The node that refuses may be the one that is ill: after so many refusals in a row another connection is tried.
REFUSALS_OF_A_CONNECTION = 3


class Subscriptions:
    """Filters by what the broker says to them. Any thread may call.

    denied: those that access rules forbid. What was granted once is never denied: a rule that changes is no reason to
    end who learns.
    """

    def __init__(self) -> None:
        self.denied: set[str] = set()
        self._lock = threading.Lock()
        self._asked: dict[int, tuple[str, float]] = {}  # without an answer yet, and since when
        self._granted: set[str] = set()  # on this connection
        self._ever_granted: set[str] = set()
        self._refused: Counter[str] = Counter()  # in a row
        self._refused_quickly: Counter[str] = Counter()
        self._again_at: dict[str, float] = {}

    def begin(self) -> None:
        """Forget what was asked and granted on a connection that is gone."""
        with self._lock:
            self._asked.clear()
            self._granted.clear()
            self._again_at.clear()

    def ask(self, topic_filter: str, send: Callable[[str], int | None], now: float) -> None:
        """Ask for a filter. send: does so, and returns the request's number; None where there is no connection."""
        with self._lock:  # the answer, on another thread, must not come before its number is known
            self._again_at.pop(topic_filter, None)
            if (number := send(topic_filter)) is not None:
                self._asked[number] = topic_filter, now

    def answer(self, number: int, *, granted: bool, now: float) -> str:
        """Take in an answer; return the filter that it is to, empty where that is not known."""
        with self._lock:
            topic_filter, asked_at = self._asked.pop(number, ("", now))
            if granted:
                self._granted.add(topic_filter)
                self._ever_granted.add(topic_filter)
                self.denied.discard(topic_filter)
                del self._refused[topic_filter], self._refused_quickly[topic_filter]
            elif topic_filter:
                self._refuse(topic_filter, now, quickly=now - asked_at < QUICK_SECONDS)
            return topic_filter

    def due(self, now: float) -> list[str]:
        """Return the filters to ask for again now."""
        with self._lock:
            return [topic_filter for topic_filter, at in self._again_at.items() if now >= at]

    def forget(self, topic_filter: str) -> None:
        """Ask for a filter no more."""
        with self._lock:
            self._again_at.pop(topic_filter, None)

    def is_granted(self, topic_filter: str) -> bool:
        """Whether what matches it comes in on this connection."""
        with self._lock:
            return topic_filter in self._granted

    def needs_another_connection(self, topic_filter: str) -> bool:
        """Whether a filter that is due was refused so often that another connection should be tried."""
        with self._lock:
            return self._refused[topic_filter] % REFUSALS_OF_A_CONNECTION == 0

    def _refuse(self, topic_filter: str, now: float, *, quickly: bool) -> None:
        self._refused[topic_filter] += 1
        self._refused_quickly[topic_filter] += quickly
        if topic_filter not in self._ever_granted and self._refused_quickly[topic_filter] >= MOST_REFUSALS:
            self.denied.add(topic_filter)
            return
        wait = WAIT_SECONDS * 2.0 ** (self._refused[topic_filter] - 1)
        self._again_at[topic_filter] = now + min(wait, LONGEST_WAIT_SECONDS)
