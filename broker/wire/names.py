"""Class names as tokens: what a fleet's broker and cloud see in place of them. No I/O, and no cryptography of its own.

A token is text of the form of a class name, always of TOKEN_CHARACTERS. Whoever holds the key makes the same token of
the same name, and reads each one back. Which fields of a message hold names is marked where the messages are defined.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol, TypeVar

from broker.errors import MalformedMessage
from broker.wire.bounds import MAX_CLASS_NAME, MAX_TEXT, check_class_name
from broker.wire.codec import KINDS
from broker.wire.messages import MENTIONS_CLASSES, NAMES_CLASSES, Message

# A '~', and base64 without padding as in URLs: a blank, a quote or a slash would have to be escaped somewhere.
MARK = "~"
TOKEN_CHARACTERS = MAX_CLASS_NAME
TOKEN_PATTERN = rf"{MARK}[A-Za-z0-9_-]{{{TOKEN_CHARACTERS - 1}}}"
TOKEN = re.compile(TOKEN_PATTERN)
TOKEN_IN_TEXT = re.compile(rf"{TOKEN_PATTERN}(?![A-Za-z0-9_-])")
SEALED_TEXT = re.compile(rf"{MARK}[A-Za-z0-9_-]{{{MAX_TEXT - 1}}}")
# Of a token on a page: two of a thousand classes look alike once in ten million fleets.
SHORT_CHARACTERS = 8
# Names that are remembered with their tokens. Those of a robot are far fewer; others may be invented.
REMEMBERED = 4096

AnyMessage = TypeVar("AnyMessage", bound=Message)


class ClassNames(Protocol):
    """How a robot's class names leave it, and how those that come in are read.

    fingerprint: 16 hexadecimal digits that tell the key from others; empty without one.
    """

    @property
    def fingerprint(self) -> str: ...

    def check(self, name: str) -> None:
        """Raise MalformedMessage unless a class of this robot may have that name."""

    def conceal(self, message: AnyMessage) -> AnyMessage:
        """Return one of our own messages as it leaves. What is concealed already stays as it is."""

    def reveal(self, message: AnyMessage) -> AnyMessage:
        """Return a message as it is meant. What is no token of this key's stays as it is."""


class Cipher(Protocol):
    """Deterministic authenticated encryption, to and from texts of one length."""

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell the key from others."""

    @property
    def most_bytes(self) -> int:
        """UTF-8 bytes that a name may have."""

    def token(self, name: str) -> str:
        """Return the token of a name of at most so many bytes."""

    def name(self, token: str) -> str | None:
        """Return the name that a token was made of; None where this key made it not."""

    def sealed(self, text: str) -> str:
        """Return a text that only this key reads: its beginning, where it is long."""

    def text(self, sealed: str) -> str | None:
        """Return the text that was sealed; None where that was not by this key."""


class PlainNames:
    """Without a key: names leave as they are."""

    fingerprint = ""

    def check(self, name: str) -> None:
        check_class_name(name)
        if TOKEN.fullmatch(name):
            raise MalformedMessage(
                f"{name!r} is no name but the token of one, and this robot has no key to read it: start the robot with "
                "the --names-key that made it, or give the name without that key"
            )

    def conceal(self, message: AnyMessage) -> AnyMessage:
        return message

    def reveal(self, message: AnyMessage) -> AnyMessage:
        return message


PLAIN_NAMES = PlainNames()


class KeyedNames:
    """With a key: tokens leave, and tokens of this key are read. Any thread may call."""

    def __init__(self, cipher: Cipher) -> None:
        self._cipher = cipher
        self._token_of = lru_cache(REMEMBERED)(self._make)
        self.name_of: Callable[[str], str | None] = lru_cache(REMEMBERED)(self._read)

    @property
    def fingerprint(self) -> str:
        return self._cipher.fingerprint

    def check(self, name: str) -> None:
        check_class_name(name)
        if TOKEN.fullmatch(name):
            whose = ", and this --names-key did not make it" if self.name_of(name) is None else ""
            raise MalformedMessage(f"class name {name!r} is no name but the token of one{whose}")
        size, most = len(name.encode()), self._cipher.most_bytes
        if size > most:
            raise MalformedMessage(
                f"class name {name!r} has {size} bytes in UTF-8, and with --names-key a name has {most} at most: "
                "choose a shorter one"
            )

    def token(self, name: str) -> str:
        """Return the token of a class name; a token of this key's as it is. Raises MalformedMessage for a long name."""
        return self._token_of(name)

    def conceal(self, message: AnyMessage) -> AnyMessage:
        """Return a message with tokens for names. Raises MalformedMessage for a name that is too long."""
        return _translated(message, self.token, self._seal)

    def reveal(self, message: AnyMessage) -> AnyMessage:
        return _translated(message, self._name_or_token, self.reveal_text)

    def reveal_text(self, text: str) -> str:
        """Return a text with names for tokens of this key's; the whole of it where this key sealed it."""
        if SEALED_TEXT.fullmatch(text) and (meant := self._cipher.text(text)) is not None:
            return meant
        return TOKEN_IN_TEXT.sub(lambda found: self._name_or_token(found[0]), text)

    def _seal(self, text: str) -> str:
        if SEALED_TEXT.fullmatch(text) and self._cipher.text(text) is not None:
            return text
        return self._cipher.sealed(text)

    def _make(self, name: str) -> str:
        if self.name_of(name) is not None:
            return name
        self.check(name)
        return self._cipher.token(name)

    def _read(self, token: str) -> str | None:
        return self._cipher.name(token) if TOKEN.fullmatch(token) else None

    def _name_or_token(self, token: str) -> str:
        name = self.name_of(token)
        return token if name is None else name


def _translated(message: AnyMessage, name: Callable[[str], str], text: Callable[[str], str]) -> AnyMessage:
    """Return a message with its names, and its words about them, translated; the same one where none changes."""
    changed: dict[str, Any] = {}
    kind: type = type(message)
    for field, translate in ((one, name if mark == NAMES_CLASSES else text) for one, mark in MARKED[kind]):
        before = getattr(message, field)
        after = tuple(map(translate, before)) if isinstance(before, tuple) else before and translate(before)
        if after != before:
            changed[field] = after
    return dataclasses.replace(message, **changed) if changed else message


def _marked(kind: type[Message]) -> list[tuple[str, dict[str, str]]]:
    marks = (NAMES_CLASSES, MENTIONS_CLASSES)
    return [
        (one.name, mark)
        for one in dataclasses.fields(kind)
        for mark in marks
        if one.metadata.get("holds") == mark["holds"]
    ]


# The fields that hold names, or words about them, by kind of message.
MARKED: dict[type, list[tuple[str, dict[str, str]]]] = {kind: _marked(kind) for kind in KINDS.values()}


def short(name: str) -> str:
    """Return a class name as a page shows it: of a token its beginning, which tells it from others."""
    return f"{name[:SHORT_CHARACTERS]}…" if TOKEN.fullmatch(name) else name


def is_sealed(text: str) -> bool:
    """Whether a text has the form of one that only a key reads."""
    return bool(SEALED_TEXT.fullmatch(text))
