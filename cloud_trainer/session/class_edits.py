"""What class edits make of samples that were sent before them and arrive later. Pure.

Messages overtake one another on the way. So a batch says how many edits were made before it, and those with a higher
number apply to it, whenever they come.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from broker.wire.bounds import FORGOTTEN, MAX_EDITS
from broker.wire.messages import ActivationBatch, ClassEdit
from broker.wire.quantize import pack_activations, unpack_activations

# Lessons of which it is known what they showed. A person gives a few a day, and takes back the last one.
MAX_SESSIONS = 10_000
# Boots of which it is known whose run they were; what comes of others is taken for the present run's.
MAX_BOOTS = 10_000


@dataclass(kw_only=True)
class Wipes:
    """Where the log holds samples of forgotten classes: in batches up to an event, and in those of other ids."""

    up_to: int = 0
    others: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.up_to or self.others)

    def note(self, event: int) -> None:
        """Note a batch that came with such samples."""
        if event not in self.others:
            self.others.append(event)


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """A class that another robot of the fleet had forgotten everywhere.

    event: at which. What comes behind it in the log is taught later, so it stays. highest: the number of the robot's
    last sample before it. Up to that, what comes once more is old. behind: how many of the robot's own edits were made
    before.
    """

    name: str
    event: int
    highest: int
    behind: int


@dataclass(frozen=True, kw_only=True)
class EditsState:
    """As in `ClassEdits`. sessions: of each the run, its number, and the first and last number of its samples."""

    last: int
    run: int
    runs: dict[str, int]
    edits: list[ClassEdit]
    left: int
    elsewhere: list[Elsewhere]
    highest: int
    sessions: list[tuple[int, int, int, int]]
    early: list[ClassEdit]


class ClassEdits:
    """The edits of one robot, to the network of a run and of those that went on from it.

    Each run numbers its edits and sessions from 1. Those of a run apply to all samples of the runs before it.
    before: the number of the last one that was dealt with before this network began.
    """

    def __init__(self, before: int = 0) -> None:
        self._last = before
        self._run = 0  # how many runs were before this one
        self._runs: dict[str, int] = {}  # whose each boot was, of those that sent anything
        self._edits: list[ClassEdit] = []
        self._elsewhere: list[Elsewhere] = []  # in the order of the log
        self._highest = 0  # number of a sample that came, of this run
        self._left = 0  # samples up to this event were taken out
        self._sessions: dict[tuple[int, int], tuple[int, int]] = {}  # first and last number of each one's samples
        self._early: dict[int, ClassEdit] = {}  # which came before one with a lower number

    def take(self, edit: ClassEdit) -> list[ClassEdit]:
        """Take in an edit, and return what is to be done now, in the order in which the robot made it."""
        if self._run_of(edit.boot) != self._run:
            return []
        if edit.number > self._last:
            self._early[edit.number] = edit
        due: list[ClassEdit] = []
        while next_one := self._early.pop(self._last + 1, None):
            self._last += 1
            due.append(next_one)
        self._edits += due
        return due

    def knows(self, edit: ClassEdit) -> bool:
        """Whether taking an edit in, once more or at all, would change nothing."""
        if self._runs.get(edit.boot, self._run) != self._run:
            return True
        return edit.number <= self._last or edit.number in self._early

    def begin_run(self, before: int) -> None:
        """Hear the edits of another run from now on. before: the number of its last one that was dealt with."""
        self._run += 1
        self._last = before
        self._early.clear()
        self._highest = 0
        self._elsewhere = [replace(one, highest=0) for one in self._elsewhere]

    def forget_elsewhere(self, name: str, event: int) -> None:
        """Take in that another robot had a class forgotten everywhere, at an event."""
        one = Elsewhere(name=name, event=event, highest=self._highest, behind=len(self._edits))
        self._elsewhere = [*self._elsewhere, one][-MAX_EDITS:]

    def leave(self, event: int) -> None:
        """Take in that all samples up to an event were taken out."""
        self._left, self._elsewhere = event, []

    def note(self, batch: ActivationBatch) -> None:
        """Remember whose run a batch is of, which came just now, and which samples its session has."""
        run = self._run_of(batch.boot)
        numbers = batch.samples.tolist()
        if run == self._run:
            self._highest = max(self._highest, *numbers)
        if batch.session and all(numbers):
            first, last = self._sessions.get((run, batch.session), (numbers[0], numbers[0]))
            self._sessions[run, batch.session] = min(first, *numbers), max(last, *numbers)
            if len(self._sessions) > MAX_SESSIONS:
                del self._sessions[next(iter(self._sessions))]

    def _run_of(self, boot: str) -> int:
        run = self._runs.setdefault(boot, self._run)
        if len(self._runs) > MAX_BOOTS:
            del self._runs[next(iter(self._runs))]
        return run

    def is_of_session(self, its: int, sample: int, session: int) -> bool:
        """Whether a sample was taught in a session of the present run. its: the one that its batch names."""
        first, last = self._sessions.get((self._run, session), (1, 0))
        return its == session or first <= sample <= last

    def names_now(self, batch: ActivationBatch, event: int) -> list[str]:
        """Return what each sample of the batch is called now; empty names for those that are no more.

        event: that the batch is.
        """
        if event <= self._left:
            return [""] * len(batch.labels)
        # Which of the batch's classes each name stands for by now: an edit costs the same however many there are.
        meant = {name: [name] for name in batch.classes if name != FORGOTTEN}
        gone = np.zeros(len(batch.labels), bool)  # samples whose session was undone
        run = self._runs.get(batch.boot, self._run)
        elsewhere = iter(self._elsewhere)
        other = next(elsewhere, None)
        for place in range(len(self._edits) + 1):
            while other and other.behind <= place:
                gone |= _given_up(batch, event, meant.get(other.name, ()), other)
                other = next(elsewhere, None)
            if place == len(self._edits):
                break
            edit = self._edits[place]
            its = self._runs.get(edit.boot, self._run)
            if (its, edit.number) <= (run, batch.edits):
                continue
            if edit.change == "undo" and its == run:
                gone |= self._is_of_session(batch, run, edit.session)
            classes = meant.pop(edit.name, None)  # an undo may name one, to forget with it
            if classes and edit.change == "rename":
                meant.setdefault(edit.to, []).extend(classes)
        now = {one: name for name, classes in meant.items() for one in classes}
        return ["" if undone else now.get(name, "") for name, undone in zip(batch.names, gone.tolist(), strict=True)]

    def _is_of_session(self, batch: ActivationBatch, run: int, session: int) -> NDArray[np.bool_]:
        if batch.session == session:
            return np.ones(len(batch.labels), bool)
        first, last = self._sessions.get((run, session), (1, 0))
        within: NDArray[np.bool_] = (first <= batch.samples) & (batch.samples <= last)
        return within

    def wipe(self, batch: ActivationBatch, event: int) -> ActivationBatch | None:
        """Return the batch with nothing left of the samples that are no more; None where it has none of those.

        The rest keeps its place: the rehearsal memory refers to it. event: that the batch is.
        """
        now = self.names_now(batch, event)
        before = batch.names
        gone = [row for row, name in enumerate(now) if not name and before[row] != FORGOTTEN]
        if not gone:
            return None
        names = [name if current else FORGOTTEN for name, current in zip(before, now, strict=True)]
        quantized = unpack_activations(batch.activations)
        codes = quantized.codes.copy()
        codes[gone] = 0
        classes = tuple(dict.fromkeys(names))
        index = {name: number for number, name in enumerate(classes)}
        labels = np.array([index[name] for name in names], np.uint16)
        activations = pack_activations(replace(quantized, codes=codes))
        return replace(batch, classes=classes, labels=labels, activations=activations)

    def state(self) -> EditsState:
        """Return what a checkpoint must hold."""
        return EditsState(
            last=self._last,
            run=self._run,
            runs=self._runs,
            edits=self._edits,
            left=self._left,
            elsewhere=self._elsewhere,
            highest=self._highest,
            sessions=[(*of, *numbers) for of, numbers in self._sessions.items()],
            early=list(self._early.values()),
        )

    def restore(self, state: EditsState) -> None:
        """Go on from a state."""
        self._last = state.last
        self._run, self._runs = state.run, dict(state.runs)
        self._sessions = {(run, session): (first, last) for run, session, first, last in state.sessions}
        self._edits = list(state.edits)
        self._left, self._elsewhere, self._highest = state.left, list(state.elsewhere), state.highest
        self._early = {edit.number: edit for edit in state.early}


def _given_up(batch: ActivationBatch, event: int, classes: Collection[str], by: Elsewhere) -> NDArray[np.bool_]:
    """Return which samples another robot's edit gave up. classes: the batch's, as they were called when it was made."""
    labels = [index for index, name in enumerate(batch.classes) if name in classes]
    found: NDArray[np.bool_] = np.isin(batch.labels, labels)
    if event > by.event:
        found &= batch.again & (batch.samples > 0) & (batch.samples <= by.highest)
    return found
