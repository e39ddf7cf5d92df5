"""What comes in at a link, sorted by topic: whose it is, who reads it, and how much of it is kept for them.

A flood is let go of here, before anybody unpacks it. What a message may cost until then is a look into one dictionary.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from broker.link.mailbox import FairMailbox, Lane
from broker.wire import topics
from broker.wire.bounds import RECEIVE_LIMIT_BYTES

# Deliveries not yet read. A robot's window is a few messages, so a trainer has room for a good hundred robots.
INBOX_LIMIT = 1024
# The same in bytes: five hundred of the largest messages that a robot sends. Others may send a megabyte each, and a
# step that takes long should not cost a gigabyte.
INBOX_BYTES = 64_000_000
# Of one sender: four windows of a robot (64 messages, 8 MB at most), so what a robot sends by the rules always fits.
LANE_LIMIT, LANE_BYTES = 256, 16_000_000
# The same for a mailbox of its own, which a thread of its own reads at once: what it holds is soon too old.
MAILBOX_LIMIT, MAILBOX_LANE_LIMIT = 64, 32
# What is read of one sender. A robot that trains makes some 30 messages a second at most, and a link under a backlog
# is still read at up to 25 MB/s; garbage at this rate costs its reader a hundredth of its time.
MESSAGES_PER_SECOND = 200.0
# Senders that nobody vouched for share one budget, as names cost nothing. So many queues keep one of them from
# displacing all others.
STRANGER_LANES = 16
STRANGERS = "strangers"
NOBODY = Lane(STRANGERS, STRANGERS)
# Topics that are looked up without being taken apart. Invented ones may be many; then all are forgotten.
MAX_ROUTES = 4096
# What a robot says on these is in the order in which it says it: a state comes before what refers to it.
ORDERED_CHANNELS = frozenset({"state", "activations", "metrics"})


def _now() -> float:
    return time.monotonic()  # looked up anew each time, so that a test's clock counts


@dataclass(frozen=True)
class Delivery:
    """One message as it came in.

    retained: the broker kept it from before we subscribed. arrived: by time.monotonic(), which may be long before
    somebody reads it.
    """

    topic: str
    payload: bytes
    retained: bool
    arrived: float = field(default_factory=_now, compare=False)


class _Route(NamedTuple):
    mailbox: FairMailbox[Delivery]
    lane: Lane


def lane_of(topic: str, known: frozenset[str]) -> Lane:
    """Return whose queue a topic's messages wait in.

    known: senders as `topics.sender` names them. Each has a queue for what it says, and one for each topic under its
    name that others write to. All other senders share some.
    """
    sender, channel = topics.split(topic)
    if sender not in known:
        return Lane(f"{STRANGERS} {hash(sender) % STRANGER_LANES}", STRANGERS)
    # A trainer's metrics are about all robots, and may not displace its heartbeat.
    is_robot = sender == topics.sender("robot", sender.rpartition("/")[2])
    own = sender if is_robot and channel in ORDERED_CHANNELS else f"{sender}/{channel}"
    return Lane(own, own)


def everything(_topic: str, /) -> bool:
    """Want every message, whatever its topic."""
    return True


class Inbox:
    """The mailboxes of one link. put() may be called on any thread."""

    def __init__(self, wanted: Callable[[str], bool]) -> None:
        """wanted: given a topic, whether its messages are to be delivered."""
        self.filters: list[str] = []
        self.common: FairMailbox[Delivery] = FairMailbox(
            INBOX_LIMIT,
            per_second=MESSAGES_PER_SECOND,
            lane_limit=LANE_LIMIT,
            limit_bytes=INBOX_BYTES,
            lane_bytes=LANE_BYTES,
            size=_size,
        )
        self.own: dict[str, FairMailbox[Delivery]] = {}
        self._wanted = wanted
        self._known: frozenset[str] = frozenset()
        self._routes: dict[str, _Route | None] = {}

    def add_filter(self, topic_filter: str) -> None:
        """Deliver what matches."""
        self.filters.append(topic_filter)
        self._routes = {}

    def add_mailbox(self, topic_filter: str, per_second: float) -> FairMailbox[Delivery]:
        """Deliver what matches to a mailbox of its own."""
        mailbox = self.own[topic_filter] = FairMailbox(
            MAILBOX_LIMIT,
            per_second=per_second,
            lane_limit=MAILBOX_LANE_LIMIT,
            newest_wins=True,
            limit_bytes=INBOX_BYTES,
            lane_bytes=LANE_BYTES,
            size=_size,
        )
        self.add_filter(topic_filter)
        return mailbox

    def remove_mailbox(self, topic_filter: str) -> None:
        """Deliver nothing more to a mailbox of its own, if there is one for that filter."""
        if self.own.pop(topic_filter, None) is not None:
            self.filters = [one for one in self.filters if one != topic_filter]
            self._routes = {}

    def know(self, senders: frozenset[str]) -> None:
        """Give these senders, and no others, queues and budgets of their own."""
        if senders != self._known:
            self._known = senders
            self._routes = {}

    def put(self, delivery: Delivery) -> None:
        """Take a message in, if somebody wants it and its sender has not sent too much."""
        # Another thread may replace the routes; what this one finds out then must not get into the new ones.
        topic, routes = delivery.topic, self._routes
        route = routes[topic] if topic in routes else self._find(topic, routes)
        if route is None:
            return
        if len(delivery.payload) > RECEIVE_LIMIT_BYTES:
            route.mailbox.drop(route.lane)
        else:
            route.mailbox.put(delivery, route.lane)

    def take_dropped(self) -> Counter[str]:
        """Return how much was dropped of each sender since this was asked last, by topic or sender."""
        dropped = self.common.take_dropped()
        for mailbox in list(self.own.values()):
            dropped.update(mailbox.take_dropped())
        return dropped

    def _find(self, topic: str, routes: dict[str, _Route | None]) -> _Route | None:
        if len(routes) >= MAX_ROUTES:
            routes.clear()
        route = None
        # amqtt greets a client with all that is retained for the subscriptions of others.
        if any(topics.matches(one, topic) for one in self.filters) and self._wanted(topic):
            # A copy: the link's thread reads what another may be adding to.
            matching = (its for one, its in list(self.own.items()) if topics.matches(one, topic))
            route = _Route(next(matching, self.common), lane_of(topic, self._known))
        routes[topic] = route
        return route


def _size(delivery: Delivery) -> int:
    return len(delivery.payload)
