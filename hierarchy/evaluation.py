"""How good a classifier is: prequential accuracy (test, then train) and accuracy on held-out frames. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

# Images behind the recent accuracy that people watch.
RECENT = 1000


class Prequential:
    """Accuracy of the predictions made before each sample was learned from (Gama et al., 2013)."""

    def __init__(self) -> None:
        self.count = 0
        self._right = 0
        self._recent: deque[bool] = deque(maxlen=RECENT)

    def add(self, correct: Iterable[bool]) -> None:
        """Add whether each prediction was right."""
        for one in correct:
            self.count += 1
            self._right += bool(one)
            self._recent.append(bool(one))

    def state(self) -> dict[str, Any]:
        """Return the state, as JSON can hold it."""
        recent = "".join("1" if one else "0" for one in self._recent)
        return {"count": self.count, "right": self._right, "recent": recent}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.count, self._right = state["count"], state["right"]
        self._recent = deque((one == "1" for one in state["recent"]), maxlen=RECENT)

    @property
    def overall(self) -> float | None:
        """The share that was right since the start."""
        return self._right / self.count if self.count else None

    @property
    def recent(self) -> float | None:
        """The share that was right among the last RECENT."""
        return sum(self._recent) / len(self._recent) if self._recent else None


class HeldOut:
    """Accuracy on frames that are never trained on, in all and for each class, and what is taken for what."""

    def __init__(self) -> None:
        self._confusion: dict[str, dict[str, int]] = {}

    def add(self, names: Sequence[str], predicted: Sequence[str]) -> None:
        """Add true and predicted class names; an empty prediction is none at all."""
        for name, guess in zip(names, predicted, strict=True):
            row = self._confusion.setdefault(name, {})
            row[guess] = row.get(guess, 0) + 1

    def rename(self, old: str, new: str) -> None:
        """Count what was of a class, or taken for it, as of another one."""
        if old == new:
            return
        if old in self._confusion:
            gone, row = self._confusion.pop(old), self._confusion.setdefault(new, {})
            for guess, count in gone.items():
                row[guess] = row.get(guess, 0) + count
        for row in self._confusion.values():
            if old in row:
                row[new] = row.get(new, 0) + row.pop(old)

    def remove(self, name: str) -> None:
        """Count a class no more; what was taken for it was taken for nothing."""
        self._confusion.pop(name, None)
        self.rename(name, "")

    def state(self) -> dict[str, Any]:
        """Return the state, as JSON can hold it."""
        return {"confusion": self.confusion}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._confusion = {name: dict(row) for name, row in state["confusion"].items()}

    @property
    def confusion(self) -> dict[str, dict[str, int]]:
        """How many frames of each class were taken for each class: true names, then predicted ones. A copy.

        It has as many entries as frames were predicted at most, and as pairs of classes.
        """
        return {name: dict(row) for name, row in self._confusion.items()}

    @property
    def count(self) -> int:
        """How many frames were predicted."""
        return sum(sum(row.values()) for row in self._confusion.values())

    @property
    def accuracy(self) -> float | None:
        """The share that was right; None before the first frame."""
        right = sum(row.get(name, 0) for name, row in self._confusion.items())
        return right / self.count if self._confusion else None

    @property
    def by_class(self) -> dict[str, float]:
        """The share that was right for each class."""
        return {name: row.get(name, 0) / sum(row.values()) for name, row in sorted(self._confusion.items())}
