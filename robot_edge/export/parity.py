"""Whether an exported network says what the run says, and how fast. Pure but for the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from robot_edge.export.formats import Runner
from robot_edge.sources.frames import Pixels

# Answers that may differ: float32 rounds otherwise in another runtime.
MOST_DIFFERENT = 0.001
# Frames in one pass, and frames that are timed one by one; the first ones warm up.
AT_ONCE, TIMED, WARM_UP = 32, 30, 3


@dataclass(frozen=True, kw_only=True)
class Said:
    """Of each frame: the most probable class, and whether it is unknown."""

    names: tuple[str, ...]
    unknown: tuple[bool, ...]

    @property
    def answers(self) -> list[str]:
        """The names, empty where the frame is unknown."""
        return ["" if unknown else name for name, unknown in zip(self.names, self.unknown, strict=True)]

    def accuracy(self, labels: Sequence[str], classes: Sequence[str]) -> float | None:
        """Return the share named right of frames that show one of the classes; None where there are none."""
        right = [name == label for name, label in zip(self.names, labels, strict=True) if label in classes]
        return float(np.mean(right)) if right else None


def said_by(run: Runner, frames: Pixels, classes: Sequence[str]) -> Said:
    """Return what a file says of frames uint8 (N, H, W, 3)."""
    names, unknown = list[str](), list[bool]()
    for start in range(0, len(frames), AT_ONCE):
        probabilities, _, new, *_ = run(frames[start : start + AT_ONCE])
        names += [classes[index] for index in probabilities.argmax(1).tolist()]
        unknown += new.tolist()
    return Said(names=tuple(names), unknown=tuple(unknown))


def share_different(one: Said, other: Said) -> float:
    """Return the share of frames that are answered otherwise."""
    return float(np.mean([first != second for first, second in zip(one.answers, other.answers, strict=True)]))


def seconds_a_frame(run: Callable[[Pixels], object], frames: Pixels) -> float:
    """Return the median seconds that one frame takes that comes alone."""
    taken = list[float]()
    for number in range(WARM_UP + TIMED):
        frame = frames[number % len(frames)][None]
        begin = time.perf_counter()
        run(frame)
        taken.append(time.perf_counter() - begin)
    return float(np.median(taken[WARM_UP:]))
