"""So many a second on average: what one sender may cost. Pure: time is an argument."""

from __future__ import annotations


class Allowance:
    """So many a second on average, and a burst of so many at once at most (by default, a second's worth)."""

    def __init__(self, per_second: float, burst: float | None = None) -> None:
        self._per_second = per_second
        self._most = self._left = per_second if burst is None else burst
        self._at = float("-inf")

    def take(self, now: float) -> bool:
        """Whether one more is within the allowance; then it is used up."""
        self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def wait(self, now: float) -> float:
        """Return the seconds from now until one more is within the allowance."""
        return max(0.0, (1 - self._left) / self._per_second - (now - self._at))
