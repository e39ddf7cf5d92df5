"""A link on which class names are tokens: the one place where a robot's names leave it, and where they come in."""

from __future__ import annotations

import logging
from dataclasses import replace

from broker.errors import MalformedMessage
from broker.link.base import Deliveries, Link
from broker.link.inbox import MESSAGES_PER_SECOND, Delivery
from broker.link.through import ThroughLink
from broker.wire import topics
from broker.wire.codec import pack, unpack
from broker.wire.messages import Command, CommandResult
from broker.wire.names import MARK, ClassNames, KeyedNames

# A command that names a class in the clear has told the broker that name already; nothing else should follow from it.
NEEDS_KEY = (
    "this robot keeps its class names from the broker, and the command does not, or was given with another key: give "
    "the --names-key that the robot was started with"
)


log = logging.getLogger("link")


def named(link: Link, names: ClassNames) -> Link:
    """Return a link on which names are translated; the same one where there is no key."""
    return NamedLink(link, names) if isinstance(names, KeyedNames) else link


class NamedLink(ThroughLink):
    """A Link through another one."""

    def __init__(self, link: Link, names: KeyedNames) -> None:
        super().__init__(link)
        self._names = names
        self._said_unsent = False

    def mailbox(self, topic_filter: str, per_second: float = MESSAGES_PER_SECOND) -> Deliveries:
        return _Revealed(self._link.mailbox(topic_filter, per_second), self._names)

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        try:
            message = unpack(payload)
            concealed = self._names.conceal(message)
        except MalformedMessage as error:  # in an outbox whose disk fails: what cannot be read may hold a name
            if not self._said_unsent:
                self._said_unsent = True
                log.error("a message of ours is not sent: %s", error)
            return True
        return self._link.publish(topic, payload if concealed is message else pack(concealed), qos=qos, retain=retain)

    def receive(self, timeout: float) -> Delivery | None:
        while (delivery := self._link.receive(timeout)) is not None:
            if not self._refuses(delivery):
                return _revealed(delivery, self._names)
            timeout = 0.0
        return None

    def close(self, farewell: tuple[str, bytes] | None = None) -> None:
        self._link.close(farewell)

    def _refuses(self, delivery: Delivery) -> bool:
        """Whether this is a command with a class name that is no token of ours; its sender is told so."""
        try:
            topic, command = topics.parse(delivery.topic), unpack(delivery.payload)
        except MalformedMessage:
            return False
        if topic.channel != "command" or not isinstance(command, Command) or delivery.retained:
            return False
        if all(self._names.name_of(name) is not None for name in (command.name, command.to) if name):
            return False
        result = CommandResult(id=command.id, ok=False, done=True, text=NEEDS_KEY)
        self._link.publish(topics.topic("robot", topic.name, "result"), pack(result), qos=1)
        return True


class _Revealed:
    """What came into a mailbox, with names for tokens."""

    def __init__(self, mailbox: Deliveries, names: KeyedNames) -> None:
        self._mailbox = mailbox
        self._names = names

    def take(self, timeout: float) -> Delivery | None:
        delivery = self._mailbox.take(timeout)
        return delivery and _revealed(delivery, self._names)


def _revealed(delivery: Delivery, names: KeyedNames) -> Delivery:
    if MARK.encode() not in delivery.payload:  # as in nearly all that comes in
        return delivery
    try:
        message = unpack(delivery.payload)
    except MalformedMessage:
        return delivery  # whoever reads it says so
    revealed = names.reveal(message)
    return delivery if revealed is message else replace(delivery, payload=pack(revealed))
