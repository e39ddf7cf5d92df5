"""The way to the broker, as everything else sees it. MQTT is behind it (mqtt.py), or memory alone (memory.py)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from broker.link.inbox import MESSAGES_PER_SECOND, Delivery
from broker.wire.messages import AWAY_SECONDS

log = logging.getLogger("link")


class Deliveries(Protocol):
    """What comes into a mailbox of its own."""

    def take(self, timeout: float) -> Delivery | None:
        """Return the next delivery, waiting up to timeout seconds for one; None where none came."""


class Link(Protocol):
    """Publishes and receives. Nothing here waits for the network except receive(), for as long as it is told.

    publish() may be called from any thread, all else from the one that calls receive().
    """

    @property
    def connected(self) -> bool:
        """Whether messages can leave now."""

    @property
    def connections(self) -> int:
        """How often the link has come up: a change means that retained states should be published again."""

    @property
    def problem(self) -> str:
        """Why the link is down, for people; empty while it is up."""

    @property
    def heard_at(self) -> float:
        """When the broker last sent us something or let us in, by time.monotonic(); at first, when the link began."""

    @property
    def dropped(self) -> int:
        """How many deliveries were dropped because nobody read them, their sender floods, or they were too large."""

    def take_dropped(self) -> Counter[str]:
        """Return how many were dropped since this was asked last, of each sender or topic that is known by itself."""

    def know(self, senders: Iterable[str]) -> None:
        """Tell these senders from each other, and from all others, as `topics.sender` names them.

        Each has a queue and a budget of its own, so that what the others send delays or displaces nothing of it.
        """

    def subscribe(self, topic_filter: str) -> None:
        """Receive what matches, from now on and after every reconnection."""

    def mailbox(self, topic_filter: str, per_second: float = MESSAGES_PER_SECOND) -> Deliveries:
        """Subscribe, and have what matches put into a mailbox of its own, not where receive() would find it.

        For threads that must not wait for whoever calls receive(). A full one lets go of its oldest. A broker that
        forbids to read there is no error. per_second: what is read of one sender.
        """

    def let_go(self, topic_filter: str) -> None:
        """Receive nothing more for a mailbox: neither what is published, nor, with the next connection, what is kept.

        What is in it already may still be taken.
        """

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        """Hand a message to the broker; False (and nothing kept) while the link is down.

        A sealed link does the same with a command, until it has heard the robot: then whoever waits receives, and tries
        again.
        """

    def receive(self, timeout: float) -> Delivery | None:
        """Return the next delivery, waiting up to timeout seconds; None where none came.

        Raises AccessDenied where the broker lets these credentials in but not to our topics, and what ended the link's
        thread, if that was a failure.
        """

    def reconnect(self) -> None:
        """Drop the connection and dial again, for a link that is silent though it looks connected."""

    def close(self, farewell: tuple[str, bytes] | None = None) -> None:
        """Publish a last retained message, if given, and let go of the connection."""


def redial_if_silent(link: Link, announced_at: float, now: float) -> bool:
    """Dial again where nothing comes in, not even what we announced ourselves: paho may take minutes to notice.

    announced_at: when our state was published first of all that nothing was heard behind; `unanswered` keeps it. An
    owner that was held up itself has only just announced: what it did not hear tells nothing of the broker. Both times
    are monotonic. Return whether it was necessary.
    """
    if not link.connected or announced_at <= link.heard_at or now - announced_at <= AWAY_SECONDS:
        return False
    log.warning("nothing came from the broker for %.0f seconds: connecting again", AWAY_SECONDS)
    link.reconnect()
    return True


def unanswered(announced_at: float, heard_at: float, now: float) -> float:
    """Return since when an announcement has no answer, where another one is made now."""
    return now if announced_at <= heard_at else announced_at
