"""What a Link that changes messages leaves as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from broker.link.base import Link


class ThroughLink:
    """All of a Link that another one answers. What publishes, delivers and closes is left to who changes messages."""

    def __init__(self, link: Link) -> None:
        self._link = link

    @property
    def connected(self) -> bool:
        return self._link.connected

    @property
    def connections(self) -> int:
        return self._link.connections

    @property
    def problem(self) -> str:
        return self._link.problem

    @property
    def heard_at(self) -> float:
        return self._link.heard_at

    @property
    def dropped(self) -> int:
        return self._link.dropped

    def take_dropped(self) -> Counter[str]:
        return self._link.take_dropped()

    def know(self, senders: Iterable[str]) -> None:
        self._link.know(senders)

    def subscribe(self, topic_filter: str) -> None:
        self._link.subscribe(topic_filter)

    def let_go(self, topic_filter: str) -> None:
        self._link.let_go(topic_filter)

    def reconnect(self) -> None:
        self._link.reconnect()
