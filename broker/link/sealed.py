"""A Link that seals what is published, and delivers only what opens. The broker sees topics, sizes and times."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable

from broker.errors import MalformedMessage, Unopened
from broker.link.base import Deliveries, Link
from broker.link.inbox import MESSAGES_PER_SECOND, Delivery, lane_of
from broker.link.through import ThroughLink
from broker.security.payload_keys import RobotKeys
from broker.security.sealing import Sealing
from broker.wire import topics

# Between two lines about the same sender and the same fault.
COMPLAINT_SECONDS = 60.0
# Senders and faults that are told from each other; names cost nothing where a broker lets anybody in.
MAX_COMPLAINTS = 256
# Between two hellos: who floods us should not make us flood others.
HELLO_SECONDS = 1.0
# A sealed hello has nothing in it.
HELLO = b""

FAULTS = {
    "unsealed": "sends payloads that are not sealed, so they are ignored: start it with its own --payload-key, or this "
    "end without",
    "foreign": "sends payloads that do not open with this end's --payload-key, so they are ignored: it has a key of "
    "another fleet, or somebody changes what it sends",
    "replayed": "has payloads come again that came before, so they are ignored: the broker repeats them",
}

log = logging.getLogger("link")


class SealedLink(ThroughLink):
    """Seals for, and opens from, the link that carries. What does not open is counted and never unpacked.

    refused: how many payloads were refused, by why.
    """

    def __init__(self, link: Link, sealing: Sealing, clock: Callable[[], float] = time.monotonic) -> None:
        """link: its will, if any, was sealed by the same sealing."""
        super().__init__(link)
        self.refused: Counter[str] = Counter()
        self._sealing = sealing
        self._clock = clock
        self._known: frozenset[str] = frozenset()
        self._lock = threading.Lock()  # of what follows
        self._dropped: Counter[str] = Counter()
        self._complaints: dict[tuple[str, str], float] = {}
        self._next_hello = float("-inf")

    @property
    def dropped(self) -> int:
        with self._lock:
            return self._link.dropped + sum(self.refused.values())

    def take_dropped(self) -> Counter[str]:
        with self._lock:
            dropped, self._dropped = self._dropped, Counter()
        return dropped + self._link.take_dropped()

    def know(self, senders: Iterable[str]) -> None:
        self._known = frozenset(senders)
        self._link.know(self._known)

    def mailbox(self, topic_filter: str, per_second: float = MESSAGES_PER_SECOND) -> Deliveries:
        return _Opening(self._link.mailbox(topic_filter, per_second), self._open)

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        if topic.endswith("/command") and not self._sealing.has_met(topic):
            # The robot obeys only what names it as it is now; it answers a hello with one, which tells us its boot.
            self._say_hello(topic)
            return False
        return self._link.publish(topic, self._sealing.seal(topic, payload), qos=qos, retain=retain)

    def receive(self, timeout: float) -> Delivery | None:
        return _next(self._link.receive, self._open, timeout)

    def close(self, farewell: tuple[str, bytes] | None = None) -> None:
        self._link.close(farewell and (farewell[0], self._sealing.seal(*farewell)))

    def _open(self, delivery: Delivery) -> Delivery | None:
        try:
            opened = self._sealing.open(delivery.topic, delivery.payload)
        except Unopened as error:
            self._refuse(delivery.topic, error.why)
            return None
        if opened.payload == HELLO:
            return None
        # A state that may be of former days is what a retained one is; nothing else of former days gets here.
        is_old = delivery.topic.endswith("/state") and not opened.fresh
        return dataclasses.replace(delivery, payload=opened.payload, retained=delivery.retained or is_old)

    def _refuse(self, topic: str, why: str) -> None:
        if why == "own":
            return
        with self._lock:
            self.refused[why] += 1
            if why != "stale":  # what is retained is of before we began, wherever anybody starts anew
                self._dropped[lane_of(topic, self._known).budget] += 1
        try:
            place = topics.parse(topic)
        except MalformedMessage:
            return
        if why in FAULTS:
            self._complain(place, why)
        if why in {"stale", "unsealed", "foreign"} and place.channel == "command":
            self._say_hello(topics.topic("robot", place.name, "result"))
        keys = self._sealing.keys
        if why in {"unsealed", "foreign"} and place.role == "trainer" and isinstance(keys, RobotKeys):
            # A trainer that we cannot read would wait for us for ever, and never know why.
            self._say_hello(topics.topic("robot", keys.name, "activations"))

    def _complain(self, place: topics.Topic, why: str) -> None:
        whose = "who commands robot" if place.channel == "command" else place.role
        now, key = self._clock(), (f"{whose} {place.name}", why)
        with self._lock:
            if now < self._complaints.get(key, float("-inf")) + COMPLAINT_SECONDS:
                return
            if key not in self._complaints and len(self._complaints) >= MAX_COMPLAINTS:
                return
            self._complaints[key] = now
        log.warning("%s %s", key[0], FAULTS[why])

    def _say_hello(self, topic: str) -> None:
        now = self._clock()
        with self._lock:
            if now < self._next_hello or not self._link.connected:
                return
            self._next_hello = now + HELLO_SECONDS
        self._link.publish(topic, self._sealing.seal(topic, HELLO))


class _Opening:
    """What comes into a mailbox, opened by whoever takes it."""

    def __init__(self, mailbox: Deliveries, open_: Callable[[Delivery], Delivery | None]) -> None:
        self._mailbox = mailbox
        self._open = open_

    def take(self, timeout: float) -> Delivery | None:
        return _next(self._mailbox.take, self._open, timeout)


def _next(
    take: Callable[[float], Delivery | None], open_: Callable[[Delivery], Delivery | None], timeout: float
) -> Delivery | None:
    """Return the next delivery that opens, waiting up to timeout seconds for it."""
    until = time.monotonic() + timeout
    while (sealed := take(max(0.0, until - time.monotonic()))) is not None:
        if opened := open_(sealed):
            return opened
    return None
