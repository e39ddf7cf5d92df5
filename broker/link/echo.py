"""Whether the broker passes on what we announce, as it shows in our own subscription. No I/O; time is an argument.

Brokers may accept a message that their access rules forbid, and drop it without a word: mosquitto does.
"""

from __future__ import annotations

from typing import Protocol

from broker.wire.messages import HEARTBEAT_SECONDS

# An echo comes within a round trip. A broker may lose the first, sent while it still digests our subscription, so there
# is time for that of the next heartbeat, and for a line that is slow.
ECHO_SECONDS = 3 * HEARTBEAT_SECONDS
# A broker sends an echo right behind its acknowledgement.
REMINDER_SECONDS = 1.0


class Announcement(Protocol):
    """A message on its way."""

    def is_published(self) -> bool:
        """Whether the broker has acknowledged it."""


class Echo:
    """What was announced on a connection, and whether any of it ever came back.

    heard: whether something did, on any connection. Then a change of the broker's rules is no reason to end.
    """

    def __init__(self) -> None:
        self.heard = False
        self.begin()

    def begin(self) -> None:
        """Wait for what is announced on a new connection."""
        self._first: Announcement | None = None
        self._reminder: Announcement | None = None  # made when the echo was overdue
        self._due: float | None = None
        self._missing_at: float | None = None

    def announce(self, sent: Announcement, now: float) -> None:
        """Note that we announced ourselves."""
        if self._first is None:
            self._first = sent
        elif self._reminder is None and self._due and now > self._due:
            self._reminder = sent

    def is_missing(self, now: float) -> bool:
        """Whether nothing came back of what the broker has acknowledged, and late is no explanation any more."""
        if self._first is None or not self._first.is_published():
            return False
        self._due = self._due or now + ECHO_SECONDS
        # Nothing at all may come through for a while: access rules are the reason only where the broker still answers.
        if now > self._due and self._reminder and self._reminder.is_published():
            self._missing_at = self._missing_at or now + REMINDER_SECONDS
        return bool(self._missing_at and now > self._missing_at)
