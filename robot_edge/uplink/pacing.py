"""How much may be on the way to the trainer, measured by what arrives. Pure: time is an argument.

Goodput is what arrived in each second in which something was on the way. It sets the size of the messages, and tells
whether the link keeps up. The window follows what was receipted meanwhile: that counts a trainer's steps, too, during
which receipts wait, so that robots with a fast link do not swamp one that is slow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from broker.wire.bounds import SEND_LIMIT_BYTES
from robot_edge.uplink.size_limit import SizeLimit

# A window of 64 messages fills 1,000 kB/s at 2 s round trip, and is little for a broker, which may keep only 1,000.
MAX_MESSAGES = 64
# Before anything is known: enough for 20 ms round trip, little enough for a trainer with 50 robots.
FIRST_MESSAGES = 16
# With fewer, goodput could never be seen to grow.
MIN_MESSAGES = 2
# The window in time. More than any round trip, and little enough that live data is not stuck behind it for long.
WINDOW_SECONDS = 3.0
# What one message may take: so a person sees figures move, and a link that breaks wastes little.
MESSAGE_SECONDS = 2.0
# Goodput is an average that forgets at this rate.
SMOOTHING_SECONDS = 10.0
# Less time than this says nothing about a link.
MIN_BUSY_SECONDS = 0.05
# A message without a receipt for this long is sent again: ten windows.
RESEND_SECONDS = 30.0
# A link that needs longer for a message is not helped by more copies of it: each time the wait doubles, up to this.
MAX_RESEND_SECONDS = 600.0


@dataclass(frozen=True)
class _Flight:
    size: int
    backlog: bool
    sent_at: float


class _Rate:
    """Bytes a second while something was on the way."""

    def __init__(self) -> None:
        self._bytes = self._busy = 0.0  # both forgotten at the same rate
        self._last_arrival = -math.inf

    @property
    def value(self) -> float | None:
        """None while nothing is known."""
        return self._bytes / self._busy if self._busy >= MIN_BUSY_SECONDS else None

    def add(self, flight: _Flight, arrived: float) -> None:
        # Since this one left, or since the link was done with the one before. What got lost on the way, and is only
        # waited for, does not count.
        elapsed = max(0.0, arrived - max(self._last_arrival, flight.sent_at))
        kept = math.exp(-elapsed / SMOOTHING_SECONDS)
        self._busy = self._busy * kept + elapsed
        self._bytes = self._bytes * kept + flight.size
        self._last_arrival = max(arrived, self._last_arrival)


class Pace:
    """Knows what is on the way, and what the link has carried."""

    def __init__(self) -> None:
        self.under_way: dict[int, _Flight] = {}
        self._arrived, self._receipted = _Rate(), _Rate()
        self._full_at = -math.inf  # when the window last held a message back
        self._patience = RESEND_SECONDS
        self.size_limit = SizeLimit()

    @property
    def goodput(self) -> float | None:
        """Bytes a second while something is on the way; None while nothing is known."""
        return self._arrived.value

    def capacity(self, now: float) -> float | None:
        """Bytes a second that the link can carry; None where the window was not full lately.

        Where receipts take longer than the time between two messages, something is always on the way, however fast the
        link is; goodput then is only what was asked of it.
        """
        return self.goodput if now < self._full_at + SMOOTHING_SECONDS else None

    @property
    def message_limit(self) -> int:
        """Bytes that a new message should have at most."""
        goodput, most = self.goodput, self.size_limit.limit
        return most if goodput is None else min(most, math.ceil(goodput * MESSAGE_SECONDS))

    def sent(self, message: int, size: int, now: float, *, backlog: bool = False) -> None:
        """Note that a message of so many bytes has left."""
        self.under_way[message] = _Flight(size, backlog, now)

    def arrived(self, message: int, now: float, *, held: float = 0.0) -> None:
        """Note a message's receipt, which its trainer held back for so many seconds."""
        flight = self.under_way.pop(message, None)
        if flight is None:
            return  # sent in another life of the link: who knows how long it took
        self._arrived.add(flight, now - held)
        self._receipted.add(flight, now)
        self.size_limit.arrived(flight.size)
        self._patience = RESEND_SECONDS

    def expire(self, now: float) -> None:
        """Give up what has had no receipt for too long, so that it is sent again."""
        late = [message for message, flight in self.under_way.items() if now - flight.sent_at > self._patience]
        for message in late:
            self.size_limit.lost(self.under_way.pop(message).size)
        if late:
            self._patience = min(2 * self._patience, MAX_RESEND_SECONDS)

    def connection_ended(self) -> bool:
        """Give up all that was on the way on a connection; whether its end shows that messages must be smaller."""
        smaller = self.size_limit.connection_ended()
        self.size_limit.lost(max((flight.size for flight in self.under_way.values()), default=0))
        self.forget()
        return smaller

    def forget(self) -> None:
        """Give up all that is on the way: the connection or the trainer that had it is gone."""
        self.under_way.clear()
        self._patience = RESEND_SECONDS

    def was_full(self, now: float) -> None:
        """Note that the window held a message back."""
        self._full_at = now

    def admission(self, now: float, *, live: bool) -> Admission:
        """Return what decides about the next messages. live: whether live data needs a place in the window."""
        rate = self._receipted.value
        if rate is None:
            return Admission(self, now, FIRST_MESSAGES, FIRST_MESSAGES * SEND_LIMIT_BYTES, live)
        return Admission(self, now, MAX_MESSAGES, rate * WINDOW_SECONDS, live)


class Admission:
    """Decides which messages may be sent next, one after the other."""

    def __init__(self, pace: Pace, now: float, messages: int, size: float, live: bool) -> None:
        self._pace = pace
        self._now = now
        self._window = (messages, size)
        # Half of the window stays free for what is live, or it would wait behind the backlog.
        self._backlog_window = (messages // 2, size / 2) if live else self._window
        flights = pace.under_way.values()
        self._all = _Load(len(flights), sum(flight.size for flight in flights))
        backlog = [flight.size for flight in flights if flight.backlog]
        self._backlog = _Load(len(backlog), sum(backlog))

    def __call__(self, size: int, /, *, backlog: bool) -> bool:
        """Whether a message of so many bytes may be on the way too; if so, it counts as being there."""
        if size > self._pace.size_limit.limit:
            return False  # it is about to be cut into smaller ones
        fits = self._all.fits(size, *self._window)
        if not fits or (backlog and not self._backlog.fits(size, *self._backlog_window)):
            self._pace.was_full(self._now)
            return False
        self._all.add(size)
        if backlog:
            self._backlog.add(size)
        return True


@dataclass
class _Load:
    messages: int
    size: int

    def fits(self, size: int, most_messages: int, most_bytes: float) -> bool:
        fits = self.messages < most_messages and self.size + size <= most_bytes
        return fits or self.messages < MIN_MESSAGES

    def add(self, size: int) -> None:
        self.messages += 1
        self.size += size
