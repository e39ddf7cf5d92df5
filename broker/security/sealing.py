"""Seals payloads, and opens them: authentic, for this topic, meant for us as we are now, and not seen before. No I/O.

A sealed payload (docs/protocol.md, "Sealed payloads"):

    0xC1      no message of ours begins with it: msgpack never uses it, and JSON begins with a brace
    version   1 byte
    boot      16 bytes, random for each link: the sender's incarnation
    sequence  8 bytes, big-endian: of this boot on this topic, from 1; 0 is its last will
    body      ChaCha20-Poly1305: a count of 1 byte, so many times the first 8 bytes of a boot that the sender has heard,
              and the payload. The associated data is all before it, and the topic
    signature 64 bytes, Ed25519 of all before it and the topic: on trainers' states, and on what is for a whole fleet

Each boot has a key of its own for each topic, and counts its messages: no nonce comes twice.

The boots that a sender has heard are what makes a replay of former days fail. Whoever starts draws a new boot, so a
message that names it was made after that.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from broker.errors import MalformedMessage, Unopened
from broker.security.payload_keys import PayloadKeys, TrainerKeys, derive
from broker.wire import topics
from broker.wire.bounds import RECEIVE_LIMIT_BYTES, SEALED
from broker.wire.topics import Topic

VERSION = 1
BOOT_BYTES, SEQUENCE_BYTES, TAG_BYTES, SIGNATURE_BYTES = 16, 8, 16, 64
HEADER_BYTES = 2 + BOOT_BYTES + SEQUENCE_BYTES
# Of a boot, in a list of those heard: nobody can choose one, and two that are alike are a chance of one in 2^64.
NAMED_BYTES = 8
# Processes of all trainers that a robot hears, and who speaks under a robot's own name.
MAX_NAMED, MAX_NAMED_OF_ROBOT = 64, 16
LEAST_BYTES = HEADER_BYTES + 1 + TAG_BYTES
# What sealing adds to a payload at most.
MOST_ADDED_BYTES = LEAST_BYTES + MAX_NAMED * NAMED_BYTES + SIGNATURE_BYTES
# Who was heard in so long is named in what we say: three times as long as a trainer counts as there.
NAMED_SECONDS = 60.0
# And these in any case, as for the result of a lesson of an hour.
ALWAYS_NAMED = 4
# Messages of one boot on one topic come in order, but for threads that send at the same time.
WINDOW = 64
# Boots, each on one topic, that are remembered to know a replay by. A robot has some for its trainer, and one for each
# command that it is sent.
MAX_REMEMBERED = 4096
WILL = 0


class Opened(NamedTuple):
    """What was sealed. fresh: whether its sender had heard us as we are now; else it may be of former days."""

    payload: bytes
    fresh: bool


# What is retained comes again with each subscription.
RETAINED = frozenset({"state", "exit", "piece"})


class _Group(NamedTuple):
    """Those who share a key: a robot with whoever speaks to it, or all trainers."""

    role: topics.Role
    name: str


@dataclass
class _Outgoing:
    cipher: ChaCha20Poly1305
    sequence: int = WILL


@dataclass
class _Incoming:
    """What came of one boot on one topic. seen: a bit for each of the last WINDOW sequences, the highest one's is 1."""

    cipher: ChaCha20Poly1305
    highest: int = WILL
    seen: int = 0
    fresh: bool = False

    def knows(self, sequence: int) -> bool:
        behind = self.highest - sequence
        return behind >= 0 and (behind >= WINDOW or bool(self.seen >> behind & 1))

    def note(self, sequence: int) -> None:
        ahead = sequence - self.highest
        if ahead > 0:
            self.highest = sequence
            self.seen = (self.seen << ahead | 1) & (1 << WINDOW) - 1 if ahead < WINDOW else 1
        else:
            self.seen |= 1 << -ahead


class Sealing:
    """Seals and opens for one link. Any thread may call."""

    def __init__(self, keys: PayloadKeys, clock: Callable[[], float] = time.monotonic) -> None:
        self.keys = keys
        self._clock = clock
        self._lock = threading.RLock()
        self._heard: dict[_Group, OrderedDict[bytes, float]] = {}  # when, by what a boot is named by
        self._has_will = False
        self._begin()

    def _begin(self) -> None:
        """Be a new incarnation: what was meant for the one before it is refused from now on."""
        self._boot = secrets.token_bytes(BOOT_BYTES)
        self._outgoing: dict[str, _Outgoing] = {}
        self._incoming: OrderedDict[tuple[str, bytes], _Incoming] = OrderedDict()
        self._met: dict[_Group, set[bytes]] = {}  # boots that have named ours
        self._newest: dict[str, bytes] = {}  # by topic, the boot that spoke last

    # Out

    def seal(self, topic: str, payload: bytes) -> bytes:
        """Return a payload for that topic. Raises MalformedMessage where there is no key for it."""
        with self._lock:
            place = topics.parse(topic)
            out = self._outgoing.get(topic)
            if out is None:
                out = self._outgoing[topic] = _Outgoing(self._cipher(place, topic, self._boot))
            out.sequence += 1
            return self._sealed(place, topic, out.cipher, out.sequence, self._named(place), payload)

    def seal_will(self, topic: str, payload: bytes) -> bytes:
        """Return the payload of a last will, which the broker may publish as often as the connection breaks."""
        with self._lock:
            if self._has_will:  # another one would be sealed with the same key and nonce
                raise RuntimeError("a link has one last will")
            self._has_will = True
            place = topics.parse(topic)
            return self._sealed(place, topic, self._cipher(place, topic, self._boot), WILL, [], payload)

    def has_met(self, topic: str) -> bool:
        """Whether somebody who reads there has said, since we began, that we were heard."""
        with self._lock:
            return bool(self._met.get(_group(topics.parse(topic))))

    def _sealed(
        self, place: Topic, topic: str, cipher: ChaCha20Poly1305, sequence: int, named: list[bytes], payload: bytes
    ) -> bytes:
        counted = sequence.to_bytes(SEQUENCE_BYTES, "big")
        header = SEALED + bytes([VERSION]) + self._boot + counted
        body = b"".join([bytes([len(named)]), *named, payload])
        sealed = header + cipher.encrypt(_nonce(counted), body, header + topic.encode())
        if _is_signed(place) and self.keys.signer:
            sealed += self.keys.signer.sign(sealed + topic.encode())
        return sealed

    def _named(self, place: Topic) -> list[bytes]:
        """Return those who may read there, as they were heard, the last one first."""
        named = self._lately_heard(_group(place))
        if place.role == "robot" and not isinstance(self.keys, TrainerKeys):
            named = named[:MAX_NAMED_OF_ROBOT] + self._lately_heard(_Group("trainer", ""))
        return named[:MAX_NAMED]

    def _lately_heard(self, group: _Group) -> list[bytes]:
        since = self._clock() - NAMED_SECONDS
        heard = reversed(self._heard.get(group, OrderedDict()).items())
        return [boot for number, (boot, at) in enumerate(heard) if at >= since or number < ALWAYS_NAMED]

    # In

    def open(self, topic: str, sealed: bytes) -> Opened:
        """Return what was sealed for that topic. Raises Unopened, and no other error, whatever the bytes are."""
        with self._lock:
            return self._open(topic, sealed)

    def _open(self, topic: str, sealed: bytes) -> Opened:
        if sealed[:1] != SEALED:
            raise Unopened("unsealed", "the payload is not sealed")
        if not LEAST_BYTES <= len(sealed) <= RECEIVE_LIMIT_BYTES or sealed[1] != VERSION:
            raise Unopened("foreign", f"{len(sealed):,} bytes of version {sealed[1:2].hex()} are no sealed payload")
        try:
            place = topics.parse(topic)
        except MalformedMessage as error:
            raise Unopened("foreign", str(error)) from error
        boot, counted = sealed[2 : 2 + BOOT_BYTES], sealed[2 + BOOT_BYTES : HEADER_BYTES]
        if boot == self._boot:
            raise Unopened("own", "our own message has come back")
        sequence = int.from_bytes(counted, "big")
        known = self._incoming.get((topic, boot))
        if known:  # before anything is computed
            self._check_new(topic, boot, place, sequence, known)
        cipher = known.cipher if known else self._cipher(place, topic, boot)
        named, payload = _parts(self._body(place, topic, cipher, counted, sealed))
        return self._judged(topic, place, boot, sequence, cipher, named, payload)

    def _body(self, place: Topic, topic: str, cipher: ChaCha20Poly1305, counted: bytes, sealed: bytes) -> bytes:
        try:
            if _is_signed(place):
                sealed, signature = sealed[:-SIGNATURE_BYTES], sealed[-SIGNATURE_BYTES:]
                self.keys.verifier.verify(signature, sealed + topic.encode())
            header, body = sealed[:HEADER_BYTES], sealed[HEADER_BYTES:]
            return cipher.decrypt(_nonce(counted), body, header + topic.encode())
        except (InvalidTag, InvalidSignature) as error:
            raise Unopened("foreign", "the payload does not open: another key, or changed on the way") from error

    def _judged(
        self,
        topic: str,
        place: Topic,
        boot: bytes,
        sequence: int,
        cipher: ChaCha20Poly1305,
        named: list[bytes],
        payload: bytes,
    ) -> Opened:
        """Decide what an authentic message counts for, and remember it."""
        group = _group(place)
        met = self._met.setdefault(group, set())
        # A will was sealed before anybody was heard.
        fresh = self._boot[:NAMED_BYTES] in named or (sequence == WILL and boot in met)
        if sequence == WILL and place.channel != "state":
            raise Unopened("foreign", "a last will is a state")
        if sequence != WILL:
            self._hear(group, boot)
        if not fresh and self._wants_fresh(place):
            raise Unopened("stale", "the payload is of before we began, or its sender has not heard us yet")
        if sequence == WILL:
            return Opened(payload, fresh)
        if fresh:
            met.add(boot)
        known = self._incoming.get((topic, boot))
        if known is None:
            known = self._incoming[topic, boot] = _Incoming(cipher)
        self._newest[topic] = boot
        known.note(sequence)
        known.fresh = known.fresh or fresh
        self._incoming.move_to_end((topic, boot))
        if len(self._incoming) > MAX_REMEMBERED:
            (old_topic, old), forgotten = self._incoming.popitem(last=False)
            self._met.get(_group(topics.parse(old_topic)), set()).discard(old)
            if forgotten.fresh:  # what it said could be replayed now, so nothing said to us until now counts any more
                self._begin()
        return Opened(payload, fresh)

    def _check_new(self, topic: str, boot: bytes, place: Topic, sequence: int, known: _Incoming) -> None:
        """Raise Unopened for what came before. What is retained comes again with each subscription, and a will."""
        is_retained = place.channel in RETAINED
        may_repeat = is_retained and sequence in {known.highest, WILL} and self._newest.get(topic) == boot
        is_old = sequence < known.highest if is_retained else known.knows(sequence)
        if not may_repeat and (is_old or known.knows(sequence)):
            raise Unopened("replayed", f"message {sequence:,} of its sender has come before")

    def _hear(self, group: _Group, boot: bytes) -> None:
        heard = self._heard.setdefault(group, OrderedDict())
        heard[boot[:NAMED_BYTES]] = self._clock()
        heard.move_to_end(boot[:NAMED_BYTES])
        if len(heard) > MAX_NAMED:
            heard.popitem(last=False)

    def _wants_fresh(self, place: Topic) -> bool:
        """Whether only what was said to us as we are now counts there.

        Trainers' words are for all robots, or all of a fleet, results and predictions for whoever listens: these name
        nobody. A state of former days is told from others by whoever reads it, but for a trainer, who would begin a
        network anew for it.
        """
        if place.role != "robot" or place.channel in {"result", "prediction"}:
            return False
        return place.channel != "state" or isinstance(self.keys, TrainerKeys)

    def _cipher(self, place: Topic, topic: str, boot: bytes) -> ChaCha20Poly1305:
        key = self.keys.key_for(*_group(place))
        if key is None:
            raise Unopened("foreign", f"there is no key for {topic} here")
        return ChaCha20Poly1305(derive(key, f"payload {topic}", salt=boot))


def _group(place: Topic) -> _Group:
    return _Group("robot", place.name) if place.role == "robot" else _Group("trainer", "")


def _is_signed(place: Topic) -> bool:
    return place.role == "fleet" or (place.role, place.channel) == ("trainer", "state")


def _nonce(counted: bytes) -> bytes:
    return bytes(4) + counted


def _parts(body: bytes) -> tuple[list[bytes], bytes]:
    """Return the boots that are named, and the payload. Only a holder of the key could get this wrong."""
    end = 1 + body[0] * NAMED_BYTES if body else 0
    if not body or body[0] > MAX_NAMED or len(body) < end:
        raise Unopened("foreign", "the payload opens to something else")
    return [body[at : at + NAMED_BYTES] for at in range(1, end, NAMED_BYTES)], body[end:]
