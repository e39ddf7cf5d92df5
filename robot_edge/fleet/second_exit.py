"""The fleet's exit beside the robot's own: what it says of a frame, and which of the two is believed. No I/O."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from broker.wire.messages import FleetExit
from hierarchy.calibration import MIN_FRAMES, Calibration, calibrate, softmax
from hierarchy.exit_rows import ExitRows
from robot_edge.fleet.class_changes import GONE, ClassChanges

# A class's probability is how it compares with the others. With one class it is 1 for everything that there is.
MIN_CLASSES = 2
# Held-out frames in one forward pass.
TRIED_AT_ONCE = 64
# With both exits a robot may name so much less of its own held-out frames right than with its own alone, and one frame.
MARGIN = 0.05


@dataclass(frozen=True, kw_only=True)
class Says:
    """What an exit says of one frame.

    name: of the most probable class, whether it fits or not. confidence: its calibrated probability. unknown: no class
    fits. classes: that it tells apart. probabilities: float64, of each.
    """

    name: str
    confidence: float
    unknown: bool
    classes: tuple[str, ...]
    probabilities: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class HeldOutSays:
    """Some of a robot's own held-out frames: what each shows, and what its own exit says of it.

    crossed: float32 (N, C, ...), what crosses of each where it is sent alone, as the values that its codes stand for.
    """

    names: Sequence[str]
    crossed: NDArray[np.float32]
    own: Sequence[Says]


def second_is_believed(own: Says, second: Says) -> bool:
    """Whether the fleet's exit names a frame, and not the robot's own.

    The own exit does where it names a class that the fleet's has not: taught here just now, or kept private. Where it
    knows the class that the fleet's exit names, too, it has compared the two; else the higher confidence counts.
    """
    if own.unknown or not own.name or own.name in second.classes:
        return True
    return second.name not in own.classes and own.confidence <= second.confidence


class SecondExit:
    """A fleet's exit on one robot. It never changes, so threads may share it.

    classes: that it tells apart, as they are called here; those that were forgotten here are not among them.
    """

    def __init__(
        self,
        manifest: FleetExit,
        rows: ExitRows,
        *,
        encode: Callable[[NDArray[np.float32]], NDArray[np.float16]],
        changes: ClassChanges,
        own: Collection[str],
    ) -> None:
        """rows: of the fleet's classes. encode: makes of values that crossed (N, C, ...) what the rows take, (N, F).

        own: classes that the robot knows by itself. The calibration is the fleet's at first.
        """
        self.version = manifest.version
        self.calibration = Calibration(temperature=manifest.temperature, least_confidence=manifest.least_confidence)
        called = [changes.called(name) for name in rows.classes]
        self.classes = tuple(dict.fromkeys(name for name in called if name != GONE))
        self.elsewhere = tuple(name for name in self.classes if name not in own)
        self._rows, self._encode = rows, encode
        # Rows of two classes that are one here count together. The last place is for all that was forgotten.
        self._places = np.array([self.classes.index(name) if name != GONE else len(self.classes) for name in called])

    @property
    def misfit(self) -> str:
        """Why it tells nothing here; empty where it does."""
        return "" if len(self.classes) >= MIN_CLASSES else "it tells fewer than two classes apart here"

    def says(self, values: NDArray[np.float32]) -> Says:
        """Return what it says of one frame, by what crosses of it (1, C, ...). Raises Diverged."""
        return self.judged(self.logits(values))[0]

    def logits(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return its logits (N, rows) for what crosses of frames (N, C, ...), N > 0. Raises Diverged."""
        parts = range(0, len(values), TRIED_AT_ONCE)
        return np.concatenate(
            [self._rows.logits(self._encode(values[start : start + TRIED_AT_ONCE])) for start in parts]
        )

    def judged(self, logits: NDArray[np.float32]) -> list[Says]:
        """Return what it says of frames by their logits (N, rows)."""
        shares = np.zeros((len(logits), len(self.classes) + 1))
        for place, column in zip(self._places, softmax(logits, self.calibration.temperature).T, strict=True):
            shares[:, place] += column
        return [self._says(one) for one in shares]

    def _says(self, shares: NDArray[np.float64]) -> Says:
        probabilities, forgotten = shares[:-1], shares[-1]
        best = int(probabilities.argmax())
        confidence = float(probabilities[best])
        return Says(
            name=self.classes[best],
            confidence=confidence,
            unknown=bool(forgotten > confidence) or confidence < self.calibration.least_confidence,
            classes=self.classes,
            probabilities=probabilities,
        )

    def with_calibration(self, calibration: Calibration) -> SecondExit:
        """Return the same exit with another calibration."""
        other = copy.copy(self)
        other.calibration = calibration
        return other

    def calibrated(self, logits: NDArray[np.float32], names: Sequence[str]) -> SecondExit:
        """Return the same exit as frames of this robot calibrate it: logits (N, rows), and what each frame shows.

        From which confidence on a class fits is the fleet's to say where there are few frames.
        """
        places = {int(place): row for row, place in reversed(list(enumerate(self._places)))}
        labels = [places[self.classes.index(name)] if name in self.classes else -1 for name in names]
        kept = [row for row, label in enumerate(labels) if label >= 0]
        if not kept:
            return self
        found = calibrate(logits[kept], np.array(labels)[kept])
        if len(kept) < MIN_FRAMES:
            found = replace(found, least_confidence=self.calibration.least_confidence)
        return self.with_calibration(found)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How a robot names its own held-out frames: right with its own exit alone, and right with both, of all frames."""

    own: int
    both: int
    frames: int

    @property
    def refusal(self) -> str:
        """Why the fleet's exit is not used; empty where it is."""
        if self.both >= self.own - max(MARGIN * self.frames, 1):
            return ""
        return (
            f"with it {self.both:,} of {self.frames:,} held-out frames of this robot are named right, and without it "
            f"{self.own:,}"
        )


def trial(own: Sequence[Says], second: Sequence[Says], names: Sequence[str]) -> Trial:
    """Return how frames are named by both, and by the own exit alone. names: what each frame shows.

    Which frames are unknown is left out: it is found otherwise.
    """
    alone = [replace(one, unknown=False) for one in own]
    both = [two if second_is_believed(one, two) else one for one, two in zip(alone, second, strict=True)]
    return Trial(
        own=sum(one.name == name for one, name in zip(alone, names, strict=True)),
        both=sum(one.name == name for one, name in zip(both, names, strict=True)),
        frames=len(names),
    )


def tried_out(second: SecondExit, own: Collection[str], held_out: HeldOutSays | None) -> tuple[SecondExit, str]:
    """Return the fleet's exit as this robot's frames calibrate it, and why it is refused; empty where it is used.

    own: classes that the robot knows. held_out: N > 0 frames of these; None where it has none.
    """
    if held_out is None or second.misfit:
        return second, second.misfit
    logits = second.logits(held_out.crossed)
    second = second.calibrated(logits, held_out.names)
    if len(own) < MIN_CLASSES:
        return second, ""
    return second, trial(held_out.own, second.judged(logits), held_out.names).refusal
