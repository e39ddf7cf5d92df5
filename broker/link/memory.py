"""A broker and links in memory, for programs and tests that run both ends in one process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable

from broker.link.inbox import MESSAGES_PER_SECOND, Delivery, Inbox, everything
from broker.link.mailbox import FairMailbox
from broker.wire import topics


class MemoryBroker:
    """Connects MemoryLinks in one process: retained messages and filters with '+', as a broker has them."""

    def __init__(self) -> None:
        self.links: list[MemoryLink] = []
        self.retained: dict[str, bytes] = {}

    def deliver(self, topic: str, payload: bytes, retain: bool) -> None:
        """Hand a message to every link that wants it."""
        if retain:
            self.retained[topic] = payload
        for link in self.links:
            link.offer(Delivery(topic, payload, retained=False))


class MemoryLink:
    """A Link without a network. ``connected`` may be set to False to try what an outage does."""

    def __init__(self, broker: MemoryBroker, wanted: Callable[[str], bool] = everything) -> None:
        """wanted: as of an MqttLink."""
        self.connected = True
        self.connections = 1
        self.problem = ""
        self.heard_at = time.monotonic()
        self._broker = broker
        self._inbox = Inbox(wanted)
        broker.links.append(self)

    @property
    def dropped(self) -> int:
        return self._inbox.common.dropped

    def take_dropped(self) -> Counter[str]:
        return self._inbox.take_dropped()

    def know(self, senders: Iterable[str]) -> None:
        self._inbox.know(frozenset(senders))

    def subscribe(self, topic_filter: str) -> None:
        self._inbox.add_filter(topic_filter)
        self._take_retained(topic_filter)

    def mailbox(self, topic_filter: str, per_second: float = MESSAGES_PER_SECOND) -> FairMailbox[Delivery]:
        mailbox = self._inbox.add_mailbox(topic_filter, per_second)
        self._take_retained(topic_filter)
        return mailbox

    def let_go(self, topic_filter: str) -> None:
        self._inbox.remove_mailbox(topic_filter)

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        if self.connected:
            self._broker.deliver(topic, payload, retain)
        return self.connected

    def offer(self, delivery: Delivery) -> None:
        """Take in a message that some link published, if a filter matches."""
        if self.connected and any(topics.matches(one, delivery.topic) for one in self._inbox.filters):
            self.heard_at = time.monotonic()
            self._inbox.put(delivery)

    def receive(self, timeout: float) -> Delivery | None:
        return self._inbox.common.take(timeout)

    def reconnect(self) -> None:
        if not self.connected:
            return
        self.connections += 1
        self.heard_at = time.monotonic()
        for topic_filter in self._inbox.filters:
            self._take_retained(topic_filter)

    def close(self, farewell: tuple[str, bytes] | None = None) -> None:
        if farewell:
            self.publish(*farewell, retain=True)
        self._broker.links.remove(self)

    def _take_retained(self, topic_filter: str) -> None:
        for topic, payload in list(self._broker.retained.items()):
            if topics.matches(topic_filter, topic):
                self._inbox.put(Delivery(topic, payload, retained=True))
