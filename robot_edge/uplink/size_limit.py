"""Finds out which size of message the broker lets through. Pure: no clock, no link.

Brokers may be set to take less than we send: some end the connection behind a message that is too large, some drop it
and acknowledge it all the same. Either looks like a link that loses messages. So where a message larger than all that
arrived got lost, the trainer is asked to answer a probe of that size with a small one behind it. A small one that is
answered alone, or a connection that ends behind the large one, is a strike. After some strikes messages get half as
large, until a probe of that size is answered; then the limit is sought between the two.
"""

from __future__ import annotations

from broker.wire.bounds import SEND_LIMIT_BYTES

# A link may break, and a broker be full, just when a probe is on its way; hardly ever so often in a row.
STRIKES = 3
# A message of one small sample is hardly less; whoever lets no more through is not for us.
MIN_BYTES = 1000
# How much larger the smallest size may be that does not get through.
PRECISION = 1.25
# The probe that is answered where the large one is not.
SMALL_BYTES = 16


class SizeLimit:
    """limit: bytes that a message may have at most, as far as is known."""

    def __init__(self) -> None:
        self.limit = SEND_LIMIT_BYTES
        self._failed = SEND_LIMIT_BYTES + 1  # the smallest size that did not get through
        self._arrived = 0  # the largest size that ever did
        self._suspect = 0  # the size that is tried, 0 for none
        self._strikes = 0
        self._open: tuple[int, int] | None = None  # numbers of the large and the small probe that are on the way

    @property
    def to_try(self) -> tuple[int, int] | None:
        """The sizes of the two probes that are to be sent now, one behind the other; None where none is due."""
        return (self._suspect, SMALL_BYTES) if self._suspect and self._open is None else None

    def arrived(self, size: int) -> None:
        """Note that a message of that size got through."""
        self._arrived = max(self._arrived, size)
        if self._suspect and size >= self._suspect:
            self.limit = max(self.limit, self._suspect)
            self._seek()

    def lost(self, size: int) -> None:
        """Note that a message of that size had no receipt in time, or that the connection ended behind it."""
        if self._arrived < size <= self.limit and size > self._suspect:
            self._suspect, self._strikes, self._open = size, 0, None

    def sent(self, large: int, small: int) -> None:
        """Note the numbers under which the probes have left."""
        self._open = large, small

    def answered(self, number: int) -> bool:
        """Take in an answer; whether it made the limit smaller."""
        if self._open is None or number not in self._open:
            return False
        if number == self._open[0]:
            self.arrived(self._suspect)
            return False
        return self._strike()

    def connection_ended(self) -> bool:
        """Note that what is on the way will have no answer; whether that made the limit smaller."""
        return self._open is not None and self._strike()

    def give_up(self) -> None:
        """Try nothing any more: neither probe is answered."""
        self._suspect, self._open = 0, None

    def _strike(self) -> bool:
        self._strikes, self._open = self._strikes + 1, None
        if self._strikes < STRIKES:
            return False
        self._failed = self._suspect
        shrunk = self._failed <= self.limit
        if shrunk:
            self.limit = self._failed // 2
            self._suspect = self.limit if self.limit >= MIN_BYTES else 0
            self._strikes = 0
        else:
            self._seek()
        return shrunk

    def _seek(self) -> None:
        """Try the middle between what gets through and what does not, if these are far apart."""
        found = self._failed <= PRECISION * self.limit or self._failed > SEND_LIMIT_BYTES
        self._suspect = 0 if found else (self.limit + self._failed) // 2
        self._strikes, self._open = 0, None
