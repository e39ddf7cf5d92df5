"""One version of a fleet's exit as it comes in, piece by piece, held to its digests. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from broker.errors import MalformedMessage
from broker.wire.messages import ExitOn, FleetExit, exit_place
from broker.wire.topics import exit_topic, piece_topic
from hierarchy.exit_rows import ExitRows, unpack_rows


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where exits lie for a robot.

    front: digest of its front. split: fingerprint. on, features: what its own exit's head takes, and how many numbers.
    """

    fleet: str
    front: str
    split: str
    on: ExitOn
    features: int

    @property
    def topic(self) -> str:
        """Where the manifest lies."""
        return exit_topic(self.fleet, exit_place(self.front, self.split, self.on))

    def topic_of(self, number: int) -> str:
        """Return where a piece lies."""
        return piece_topic(self.fleet, exit_place(self.front, self.split, self.on), number)

    def misfit(self, manifest: FleetExit) -> str:
        """Return why an exit is none for this robot; empty where it is."""
        if manifest.front != self.front:
            return f"it belongs behind another front ({manifest.front}, here {self.front})"
        if (manifest.split, manifest.on) != (self.split, self.on):
            return f"it is of another split ({manifest.split}, {manifest.on}; here {self.split}, {self.on})"
        if manifest.features != self.features:
            return f"it takes {manifest.features:,} features of a frame, and here are {self.features:,}"
        return ""


class Fetching:
    """The pieces of an exit. A piece is known by its digest, wherever it comes from."""

    def __init__(self, manifest: FleetExit, pieces: Iterable[bytes] = ()) -> None:
        """pieces: that are here already; those of other exits are left out."""
        self.manifest = manifest
        self._pieces: dict[bytes, bytes] = {}
        for one in pieces:
            self.add(one)

    @property
    def missing(self) -> tuple[int, ...]:
        """The numbers of the pieces that lack, as topics have them."""
        digests = enumerate(self.manifest.pieces, self.manifest.first)
        return tuple(number for number, digest in digests if digest not in self._pieces)

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """The pieces that are here."""
        return tuple(self._pieces.values())

    def add(self, data: bytes) -> bool:
        """Take in a piece; False for one that this exit does not have."""
        digest = hashlib.sha256(data).digest()
        if digest not in self.manifest.pieces:
            return False
        self._pieces[digest] = data
        return True

    def whole(self) -> bytes:
        """Return all pieces in a row, once none is missing. Raises MalformedMessage where they make another exit."""
        data = b"".join(self._pieces[digest] for digest in self.manifest.pieces)
        if hashlib.sha256(data).digest() != self.manifest.digest or len(data) != self.manifest.size:
            raise MalformedMessage("its pieces are right, and all of them together are not what its digest says")
        return data


def unpacked(whole: Fetching, place: Place) -> ExitRows:
    """Return the rows of an exit that is here as a whole. Raises MalformedMessage where it is none for that place."""
    if misfit := place.misfit(whole.manifest):
        raise MalformedMessage(misfit)
    return unpack_rows(whole.whole(), classes=whole.manifest.classes, features=whole.manifest.features)
