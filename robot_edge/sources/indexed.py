"""Frames of a recording whose pictures can be read in any order: mixed, or as they came, for some epochs."""

from __future__ import annotations

import logging
import random
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from broker.errors import SourceError
from broker.program.paths import shown
from hierarchy.runtime.command_line import SparseLog
from robot_edge.sources.encoded import UNREADABLE
from robot_edge.sources.frames import NOMINAL_RATE, Frame, LeftOut, Pixels
from robot_edge.sources.replay import Replay
from robot_edge.sources.tally import say_left_out

# Decoded pictures that are kept for the next epoch: 20,000 of 32 pixels, 70 of 640 x 480.
MAX_KEPT_BYTES = 64_000_000

log = logging.getLogger("robot-edge")


class Record(NamedTuple):
    """One picture of a recording, not read yet.

    item: what the recording's ``read`` takes, hashable. label: its class; None where nobody said. time: when it was
    taken, in seconds; None where there is no clock.
    """

    scene: int
    item: Any
    label: str | None
    time: float | None = None


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What a reader of one format found, with all that is needed to show it.

    where: what has the pictures, for people. read: returns a record's picture, (height, width, 3), or raises one of
    UNREADABLE. in_order: whether records are shown as they came, as a robot met them; mixed else. fields: those that
    may have the class. left_out: what is there beside the records. hints: what looks like a slip. unlabelled: what to
    say where no record has a label. close: lets go of files; may be called twice.
    """

    where: str
    records: Sequence[Record]
    read: Callable[[Any], Pixels]
    in_order: bool = False
    fields: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    hints: tuple[str, ...] = ()
    unlabelled: str = ""
    close: Callable[[], object] = lambda: None


class IndexedSource(Replay):
    """Shows the records of a recording for some epochs. A picture is the same scene in every epoch."""

    def __init__(
        self, recording: Recording, *, classes: Sequence[str] | None = None, epochs: int = 1, seed: int = 0
    ) -> None:
        """Show all records, or those of some classes, in either of the two ways in which Unicode writes an accent.

        Says once what the recording leaves out. seed: of the order, where records are mixed. Raises SourceError for a
        class that there is not.
        """
        say_left_out(recording.where, recording.left_out, recording.hints)
        self._recording = recording
        records = recording.records
        if classes is not None:
            wanted = {unicodedata.normalize("NFC", name) for name in classes}
            known = {record.label for record in records if record.label is not None}
            if missing := sorted(wanted - known):
                raise SourceError(f"{recording.where} has no class {missing[0]!r}; it has {', '.join(sorted(known))}")
            records = [record for record in records if record.label in wanted]
        self._records = records
        self._rng = random.Random(seed)
        self._epochs_left = epochs
        self._queue: list[Record] = []
        self._unreadable = set[Any]()  # by item
        self._skips = SparseLog(log)
        self._kept: dict[Any, Pixels] = {}
        self._room = MAX_KEPT_BYTES
        self.position = 0
        self.length = len(records) * epochs
        self.left_out = recording.left_out

    @property
    def unlabelled(self) -> str:
        return "" if self.classes else self._recording.unlabelled

    @property
    def classes(self) -> frozenset[str]:
        return frozenset(record.label for record in self._records if record.label is not None)

    @property
    def skipped(self) -> int:
        return len(self._unreadable)

    @property
    def ended(self) -> bool:
        return self.position >= self.length

    def next(self, timeout: float | None = None) -> Frame | None:
        while self._queue or self._begin_epoch():
            record = self._queue.pop()
            self.position += 1
            try:
                image = self._picture(record.item)
            except UNREADABLE as error:
                self._skip(record, error)
            else:
                time = (self.position - 1) / NOMINAL_RATE if record.time is None else record.time
                return Frame(image=image, label=record.label, scene=record.scene, time=time)
        return None

    def seek(self, position: int) -> None:
        """Go on behind so many pictures, without reading them."""
        self.position = min(position, self.length)
        left = self.position
        while left and self._begin_epoch():
            del self._queue[max(0, len(self._queue) - left) :]
            left -= len(self._records) - len(self._queue)

    def close(self) -> None:
        self._recording.close()

    def _begin_epoch(self) -> bool:
        """Queue the records of the next epoch, the first one last; False where there is no further epoch."""
        if not self._epochs_left:
            return False
        self._epochs_left -= 1
        in_order = self._recording.in_order
        self._queue = list(reversed(self._records)) if in_order else self._rng.sample(self._records, len(self._records))
        return bool(self._queue)

    def _picture(self, item: Any) -> Pixels:
        kept = self._kept.get(item) if self._epochs_left else self._kept.pop(item, None)
        if kept is not None:
            return kept
        image = self._recording.read(item)
        if self._epochs_left and image.nbytes <= self._room:
            image.flags.writeable = False  # it is given out more than once
            self._kept[item] = image
            self._room -= image.nbytes
        return image

    def _skip(self, record: Record, error: Exception) -> None:
        what = f"{shown(str(record.item))}: {shown(str(error))}"
        if record.item not in self._unreadable:
            self._skips.warn(f"skipping {what}")
            self._unreadable.add(record.item)
        if len(self._unreadable) == len(self._records):
            raise SourceError(f"none of the {len(self._records)} pictures can be read; the last was {what}")
