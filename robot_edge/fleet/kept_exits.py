"""What a robot keeps of its fleet's exits across a restart: files in the run folder. A lost one comes again."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgpack

from broker.errors import ConfigError, MalformedMessage
from broker.wire.codec import pack, unpack_as
from broker.wire.messages import FleetExit
from hierarchy.runtime.checkpoint import write_bytes, write_json
from hierarchy.runtime.disk import DiskWatch
from hierarchy.runtime.state import Layout
from robot_edge.fleet.class_changes import ClassChanges
from robot_edge.fleet.fetching import Fetching

FLEET = "fleet"
# The exit that is here as a whole; the manifest of one that is coming; pieces are called by their digests.
WHOLE, COMING, PIECE = "exit.bin", "coming.bin", ".piece"
CHOICES = "choices.json"

Use = Literal["fleet", "own"]

log = logging.getLogger("robot-edge")


@dataclass(frozen=True)
class Choices:
    """use: whether the fleet's exit answers, or the robot's own alone. run: whose edits those of the changes are."""

    use: Use
    run: str
    changes: ClassChanges


LAYOUT = Layout(kind=Choices, migrations=())


class KeptExits:
    """The files of one run. A disk that takes nothing is said, and the robot goes on with what it has in memory."""

    def __init__(self, run: Path, disk: DiskWatch, former: Path | None = None) -> None:
        """run: its folder. former: that of the run which this one goes on from, whose choices it takes over."""
        self._path, self._former, self._disk = run / FLEET, former, disk

    def whole(self) -> Fetching | None:
        """Return the exit that is here as a whole; None where there is none, or its file is damaged."""
        return self._read(WHOLE)

    def coming(self) -> Fetching | None:
        """Return the exit that is coming, with the pieces that are here."""
        return self._read(COMING)

    def _read(self, name: str) -> Fetching | None:
        path = self._path / name
        try:
            if not path.exists():
                return None
            manifest, pieces = msgpack.unpackb(path.read_bytes())
            coming = Fetching(unpack_as(FleetExit, manifest), pieces)
            for one in coming.manifest.pieces:
                if (piece := self._piece(one)).exists():
                    coming.add(piece.read_bytes())
            if name == WHOLE:
                coming.whole()
        except (OSError, ValueError, TypeError, KeyError, MalformedMessage, msgpack.UnpackException) as error:
            log.warning("%s cannot be read (%s): the exit that it held comes again", path, error)
            return None
        return coming

    def begin(self, coming: Fetching) -> None:
        """Keep the manifest of an exit that is coming."""
        self._write(COMING, msgpack.packb([pack(coming.manifest), []]))

    def add(self, piece: bytes) -> None:
        """Keep a piece of it."""
        self._write(self._piece(hashlib.sha256(piece).digest()).name, piece)

    def finish(self, whole: Fetching) -> None:
        """Keep an exit as a whole, in place of the one before, and nothing more of one that is coming."""
        if self._write(WHOLE, msgpack.packb([pack(whole.manifest), list(whole.pieces)])):
            for path in [self._path / COMING, *self._path.glob(f"*{PIECE}")]:
                path.unlink(missing_ok=True)

    def choices(self, run: str) -> Choices:
        """Return what was chosen, and which classes changed. run: the one that goes on here. Raises ConfigError."""
        path = self._path / CHOICES
        is_former = self._former is not None and not path.exists()
        if self._former and is_former:
            path = self._former / FLEET / CHOICES
        try:
            kept = LAYOUT.read(path) if path.exists() else Choices("fleet", run, ClassChanges())
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(
                f"{path} is damaged ({error}): remove it, and the fleet's exit answers, classes that were forgotten "
                "here among it"
            ) from error
        if kept.run != run:
            kept = replace(kept, run=run, changes=replace(kept.changes, edits=0))
        if is_former and path.exists():
            self.keep_choices(kept)  # the former run's folder may go
        return kept

    def keep_choices(self, choices: Choices) -> None:
        """Have them after a restart, too."""
        try:
            self._path.mkdir(exist_ok=True)
            write_json(self._path / CHOICES, LAYOUT.pack(choices))
        except OSError as error:
            self._disk.failed(f"{FLEET}/{CHOICES}", error, ", after a restart it is as it was before")
        else:
            self._disk.written(f"{FLEET}/{CHOICES}")

    def _piece(self, digest: bytes) -> Path:
        return self._path / f"{digest.hex()}{PIECE}"

    def _write(self, name: str, data: bytes) -> bool:
        try:
            self._path.mkdir(exist_ok=True)
            write_bytes(self._path / name, data)
        except OSError as error:
            self._disk.failed(FLEET, error, ", after a restart the fleet's exit has to come again")
            return False
        self._disk.written(FLEET)
        return True
