"""How many bits a value is sent with, so that the link carries all that is learned from. Pure: time is an argument.

Down by one while the queue to the cloud grows, up by one when it has been short for a while and the link has room for
it, or may have: how much a link can carry is only known while it is full. Both are slow on purpose: goodput is an
average, and each change takes seconds to show.
"""

from __future__ import annotations

from typing import NamedTuple

# How often the queue is looked at: a few steps of training, and as long as a message may take.
REVIEW_SECONDS = 3.0
# Up only after so long without a queue: down is what a link in trouble needs at once, up can wait.
CALM_SECONDS = 15.0
# More bits were too many where the queue grows within so long: one that grows by a thirtieth of what the link carries
# takes as long to be noticed. Then the next attempt waits twice as long as this one did, up to ten minutes.
TRIAL_SECONDS = 300.0
MAX_CALM_SECONDS = 600.0
# The share of a link that more bits may fill.
MAX_LOAD = 0.8


class _Review(NamedTuple):
    """When the queue was looked at, what waited in it, and the bytes put into it until then."""

    time: float
    queued: int
    made: int


class RateControl:
    """Decides on the number of bits; ``bits`` is what the last review came to."""

    def __init__(self, *, most: int, least: int) -> None:
        self.bits = most
        self._most = most
        self._least = least
        self._last: _Review | None = None
        self._calm_since: float | None = None
        self._calm_seconds = CALM_SECONDS
        self._raised_at: float | None = None  # when bits last went up, until they come down

    def go_on(self, bits: int) -> None:
        """Begin with what a former process ended with, as far as that is allowed now."""
        self.bits = min(self._most, max(self._least, bits))

    def pause(self) -> None:
        """Forget the queue: what it was in an outage, or before, says nothing about the link."""
        self._last = self._calm_since = None

    def review(self, now: float, *, queued: int, behind: bool, made: int, capacity: float | None) -> bool:
        """Look at the queue, where that is due; whether the number of bits has changed.

        queued: messages that wait. behind: whether those are more than a link that keeps up would leave. made: bytes
        put into the queue since the beginning. capacity: bytes a second that the link can carry; None where that is
        not known.
        """
        last = self._last
        if last and now < last.time + REVIEW_SECONDS:
            return False
        self._last = _Review(now, queued, made)
        if last is None:
            return False
        before = self.bits
        if behind:
            self._calm_since = None
            if queued >= last.queued and self.bits > self._least:
                self.bits -= 1
                self._learn_from_trial(now)
        elif self._calm_since is None:
            self._calm_since = now
        elif now >= self._calm_since + self._calm_seconds and self.bits < self._most:
            needed = (made - last.made) / (now - last.time) * (self.bits + 1) / self.bits
            if capacity is None or needed <= MAX_LOAD * capacity:
                self.bits += 1
                self._calm_since, self._raised_at = None, now
        return self.bits != before

    def _learn_from_trial(self, now: float) -> None:
        """Bits have come down: where they had just gone up, wait longer before that is tried again."""
        if self._raised_at is not None:
            failed = now < self._raised_at + TRIAL_SECONDS
            self._calm_seconds = min(2 * self._calm_seconds, MAX_CALM_SECONDS) if failed else CALM_SECONDS
            self._raised_at = None
