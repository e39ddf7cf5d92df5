"""Messages of robots whose networks are not ready yet: kept for some seconds, as they come again only after more."""

from __future__ import annotations

from collections import deque

from broker.link.inbox import Delivery

# Of all robots together: four windows of a robot that sends as much as it may, or one of each of some fifty.
MAX_HELD, HELD_BYTES = 256, 16_000_000


class Held:
    """What waits, in the order in which it came. What does not fit gets no receipt, and so it comes again."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, Delivery]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, robot: str, delivery: Delivery) -> None:
        """Keep a message, if there is room."""
        if len(self._waiting) < MAX_HELD and self._bytes + len(delivery.payload) <= HELD_BYTES:
            self._waiting.append((robot, delivery))
            self._bytes += len(delivery.payload)

    def release(self, robot: str) -> list[Delivery]:
        """Return a robot's messages, and keep them no longer."""
        its = [delivery for name, delivery in self._waiting if name == robot]
        self._waiting = deque(one for one in self._waiting if one[0] != robot)
        self._bytes -= sum(len(delivery.payload) for delivery in its)
        return its
