"""A curve that never grows: the older and longer it is, the fewer of its points are kept. Pure."""

from __future__ import annotations

# A chart on a page is some 400 pixels wide.
MAX_POINTS = 240

Point = tuple[float, tuple[float | None, ...]]


class History:
    """Values over time, at most MAX_POINTS of them, evenly spread over all of it."""

    def __init__(self, most: int = MAX_POINTS, every: float = 1.0) -> None:
        """every: seconds between two points at first; twice as many whenever there are too many points."""
        self._most = most
        self._every = every
        self._points: list[Point] = []

    def add(self, now: float, *values: float | None) -> bool:
        """Add values, unless the last ones are too recent. Return whether they were added."""
        if self._points and now < self._points[-1][0] + self._every:
            return False
        self._points.append((now, values))
        if len(self._points) > self._most:
            self._points = self._points[::2]
            self._every *= 2
        return True

    def points(self) -> tuple[Point, ...]:
        """Return the points: when, in seconds, and the values."""
        return tuple(self._points)
