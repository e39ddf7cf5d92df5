"""The exits that a fleet makes for one robot: they come, are kept and tried out, and answer beside its own or not."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from broker.errors import MalformedMessage
from broker.link.base import Deliveries, Link
from broker.program.plain_text import counted
from broker.wire.codec import unpack_as
from broker.wire.messages import ClassEdit, ExitPiece, FleetExit
from hierarchy.exit_rows import ExitRows
from hierarchy.runtime.command_line import SparseLog
from robot_edge.fleet.class_changes import GONE, ClassChanges
from robot_edge.fleet.fetching import Fetching, Place, unpacked
from robot_edge.fleet.kept_exits import KeptExits, Use
from robot_edge.fleet.second_exit import HeldOutSays, SecondExit, tried_out

# A piece that has not come by then was lost on the way, or dropped in a flood: the broker is asked for it again.
ASK_AGAIN_SECONDS = 30.0

log = logging.getLogger("robot-edge")


@dataclass(frozen=True, kw_only=True)
class FleetStatus:
    """What people see. version: of the exit that is here, 0 for none. coming: of one that is on its way, 0 for none.

    classes: that it tells apart; elsewhere: of these, that this robot was not taught. refusal: why it does not answer,
    empty where it does. use: as it was chosen.
    """

    fleet: str
    version: int
    coming: int
    classes: int
    elsewhere: int
    refusal: str
    use: Use

    @property
    def text(self) -> str:
        """What a person reads of it."""
        coming = f", version {self.coming} is coming" if self.coming else ""
        if self.use == "own":
            return f"own exit alone, as was asked for{coming}"
        if not self.version:
            return f"no exit of fleet {self.fleet} so far{coming}"
        what = f"exit of fleet {self.fleet} version {self.version}"
        if self.refusal:
            return f"{what} refused: {self.refusal}{coming}"
        if not self.classes:
            return f"{what} waits to be tried out{coming}"
        taught = f", {self.elsewhere} taught elsewhere" if self.elsewhere else ""
        return f"{what}: {counted(self.classes, 'class')}{taught}{coming}"


class FleetExits:
    """For the thread that trains; ``in_use`` may be read by others. in_use: None where the own exit answers alone."""

    def __init__(
        self,
        link: Link,
        place: Place,
        kept: KeptExits,
        *,
        encode: Callable[[NDArray[np.float32]], NDArray[np.float16]],
        run: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """encode: as a SecondExit's. run: the robot's, whose class edits count. Raises ConfigError."""
        self.in_use: SecondExit | None = None
        self._link, self._place, self._kept, self._encode, self._clock = link, place, kept, encode, clock
        self._choices = kept.choices(run)
        self._refusal = ""
        self._rows: tuple[FleetExit, ExitRows] | None = None  # of the exit that is here
        self._tried = False  # whether that was tried out
        self._coming: Fetching | None = None
        self._garbage = SparseLog(log)
        self._manifests = link.mailbox(place.topic)
        self._mailboxes: dict[int, Deliveries] = {}  # by the number of a piece that lacks
        self._asked_at = clock()
        if whole := kept.whole():
            self._arrive(whole)
        if (coming := kept.coming()) and self._is_wanted(coming.manifest):
            self._expect(coming)

    # What comes

    def turn(self) -> None:
        """Take in what has come, and ask for what lacks. It takes no time to speak of, and waits for nothing."""
        while (delivery := self._manifests.take(0.0)) is not None:
            try:
                manifest = unpack_as(FleetExit, delivery.payload)
            except MalformedMessage as error:
                self._garbage.warn(f"ignoring an exit of the fleet: {error}")
                continue
            if self._is_wanted(manifest):
                coming = Fetching(manifest, self._coming.pieces if self._coming else ())
                self._expect(coming)
                self._kept.begin(coming)
        self._take_pieces()

    def _is_wanted(self, manifest: FleetExit) -> bool:
        """Whether to fetch an exit: a later one than those that are here or coming, and one for this robot."""
        if manifest.version <= max(self._version, self._coming.manifest.version if self._coming else 0):
            return False
        if misfit := self._place.misfit(manifest):
            self._garbage.warn(f"the fleet's exit version {manifest.version} is not taken: {misfit}")
        return not misfit

    def _expect(self, coming: Fetching) -> None:
        self._coming = coming
        for number in [*self._mailboxes]:
            self._let_go(number)
        self._ask()

    def _ask(self) -> None:
        """Have the broker send what lacks: a subscription brings what is retained."""
        if self._coming and self._choices.use == "fleet":
            self._asked_at = self._clock()
            for number in self._coming.missing:
                self._let_go(number)
                self._mailboxes[number] = self._link.mailbox(self._place.topic_of(number))

    def _let_go(self, number: int) -> None:
        if self._mailboxes.pop(number, None) is not None:
            self._link.let_go(self._place.topic_of(number))

    def _take_pieces(self) -> None:
        coming = self._coming
        if coming is None:
            return
        for number, mailbox in list(self._mailboxes.items()):
            while number in self._mailboxes and (delivery := mailbox.take(0.0)) is not None:
                try:
                    piece = unpack_as(ExitPiece, delivery.payload)
                except MalformedMessage as error:
                    self._garbage.warn(f"ignoring a piece of the fleet's exit: {error}")
                    continue
                if coming.add(piece.data):
                    self._kept.add(piece.data)
                    self._let_go(number)
                else:  # of another version: the manifest that it belongs to is behind it
                    self._garbage.warn(f"a piece of the fleet's exit version {coming.manifest.version} is another one")
        if not coming.missing:
            self._coming = None
            self._arrive(coming)
            self._kept.finish(coming)
        elif self._clock() >= self._asked_at + ASK_AGAIN_SECONDS:
            self._ask()

    def _arrive(self, whole: Fetching) -> None:
        """Take in an exit that is here as a whole, to be tried out."""
        manifest = whole.manifest
        try:
            rows = unpacked(whole, self._place)
        except MalformedMessage as error:
            log.warning("the fleet's exit version %s is not taken: %s", manifest.version, error)
            return
        self._rows, self._tried = (manifest, rows), False

    # What becomes of it

    @property
    def is_new(self) -> bool:
        """Whether an exit is here that was not tried out yet."""
        return self._rows is not None and not self._tried and self._choices.use == "fleet"

    def try_out(self, own: Collection[str], held_out: HeldOutSays | None) -> None:
        """Use the exit that is here, or refuse it: by what it makes of the robot's own held-out frames, if any.

        own: classes that the robot knows. held_out: N > 0 frames of these; None where it has none.
        """
        before = self.status
        self._tried = True
        self._refusal, self.in_use = "", None
        second = self._second(own)
        if second is None:
            return
        second, self._refusal = tried_out(second, own, held_out)
        self.in_use = None if self._refusal else second
        if self.status != before:
            log.info("%s", self.status.text)

    def call_anew(self, own: Collection[str]) -> None:
        """Call the classes as they are called by now, as behind a class edit or a lesson."""
        if self.in_use and (second := self._second(own)):
            self._refusal = second.misfit
            self.in_use = None if self._refusal else second.with_calibration(self.in_use.calibration)

    def _second(self, own: Collection[str]) -> SecondExit | None:
        if self._rows is None or self._choices.use == "own":
            return None
        manifest, rows = self._rows
        self._choose(self._choices.use, self._choices.changes.without(manifest.version, rows.classes, own))
        return SecondExit(manifest, rows, encode=self._encode, changes=self._choices.changes, own=own)

    # What people say

    def use(self, which: Use) -> str:
        """Let the fleet's exit answer from the next frames on, once it was tried out; or the own one alone, at once.

        Return what there is to say of it.
        """
        self._choose(which, self._choices.changes)
        if which == "own":
            self.in_use, self._refusal = None, ""
            for number in [*self._mailboxes]:
                self._let_go(number)
        else:
            self._tried = False
            self._ask()
        return self.status.text

    def apply(self, edit: ClassEdit) -> None:
        """Do to what is here, and to what comes until the fleet knows of it, what a class edit of this robot says."""
        self._choose(self._choices.use, self._choices.changes.after(edit, self._version))

    def _choose(self, use: Use, changes: ClassChanges) -> None:
        choices = replace(self._choices, use=use, changes=changes)
        if choices != self._choices:
            self._choices = choices
            self._kept.keep_choices(choices)

    # What people see

    @property
    def _version(self) -> int:
        return self._rows[0].version if self._rows else 0

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the exit that is here, as they are called here."""
        if self._rows is None:
            return ()
        called = map(self._choices.changes.called, self._rows[1].classes)
        return tuple(dict.fromkeys(name for name in called if name != GONE))

    @property
    def status(self) -> FleetStatus:
        """What there is to say of it now."""
        second = self.in_use
        return FleetStatus(
            fleet=self._place.fleet,
            version=self._version,
            coming=self._coming.manifest.version if self._coming else 0,
            classes=len(second.classes) if second else 0,
            elsewhere=len(second.elsewhere) if second else 0,
            refusal=self._refusal,
            use=self._choices.use,
        )
