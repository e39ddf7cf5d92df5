"""How many bits a value is sent with, so that the link carries all that is learned from. Pure: time is an argument.

Down by one while the queue to the cloud grows, up by one when it has been short for a while and the link has room for
it. Both are slow on purpose: goodput is an average, and each change takes seconds to show.
"""

from __future__ import annotations

import math

# How often the queue is looked at: a few steps of training, and as long as a message may take.
REVIEW_SECONDS = 3.0
# Up only after so long without a queue: down is what a link in trouble needs at once, up can wait.
CALM_SECONDS = 15.0
# The share of a link that more bits may fill.
MOST_LOAD = 0.8


class Thrift:
    """Decides on the number of bits; ``bits`` is what the last review came to."""

    def __init__(self, *, most: int, least: int) -> None:
        self.bits = most
        self._most = most
        self._least = least
        self._next_review = -math.inf
        self._queued = 0
        self._made = 0
        self._calm_since: float | None = None

    def review(self, now: float, *, queued: int, behind: bool, made: int, goodput: float | None) -> bool:
        """Look at the queue, where that is due; whether the number of bits has changed.

        queued: messages that wait. behind: whether those are more than a link that keeps up would leave. made: bytes
        put into the queue since the beginning. goodput: bytes a second that the link carries; None where that is not
        known.
        """
        if now < self._next_review:
            return False
        seconds = now - self._next_review + REVIEW_SECONDS  # nonsense the first time, when nothing is compared
        rate, grown = (made - self._made) / seconds, queued >= self._queued
        first = self._next_review == -math.inf
        self._next_review, self._queued, self._made = now + REVIEW_SECONDS, queued, made
        if behind or first:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now
        before = self.bits
        if behind and grown and not first:
            self.bits = max(self._least, self.bits - 1)
        elif self._calm_since is not None and now - self._calm_since >= CALM_SECONDS:
            fits = goodput is None or rate * (self.bits + 1) / self.bits <= MOST_LOAD * goodput
            self.bits = min(self._most, self.bits + fits)
        if self.bits != before:
            self._calm_since = None
        return self.bits != before
