"""How good a classifier is: prequential accuracy (test, then train) and accuracy on held-out frames. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# Images behind the recent accuracy that people watch.
RECENT = 1000


@dataclass(kw_only=True)
class Prequential:
    """Accuracy of the predictions made before each sample was learned from (Gama et al., 2013).

    It is saved as it is. window: "1" or "0" for each of the last RECENT, whether that was right.
    """

    count: int = 0
    right: int = 0
    window: str = ""

    def add(self, correct: Iterable[bool]) -> None:
        """Add whether each prediction was right."""
        new = "".join("1" if one else "0" for one in correct)
        self.count += len(new)
        self.right += new.count("1")
        self.window = (self.window + new)[-RECENT:]

    @property
    def overall(self) -> float | None:
        """The share that was right since the start."""
        return self.right / self.count if self.count else None

    @property
    def recent(self) -> float | None:
        """The share that was right among the last RECENT."""
        return self.window.count("1") / len(self.window) if self.window else None


class HeldOut:
    """Accuracy on frames that are never trained on, in all and for each class, and what is taken for what."""

    def __init__(self, confusion: Mapping[str, Mapping[str, int]] | None = None) -> None:
        """Begin, or go on from the confusion of another one."""
        self._confusion = {name: dict(row) for name, row in (confusion or {}).items()}

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
    def right(self) -> int:
        """How many of them were named right."""
        return sum(row.get(name, 0) for name, row in self._confusion.items())

    @property
    def accuracy(self) -> float | None:
        """The share that was right; None before the first frame."""
        return self.right / self.count if self._confusion else None

    @property
    def by_class(self) -> dict[str, float]:
        """The share that was right for each class."""
        return {name: row.get(name, 0) / sum(row.values()) for name, row in sorted(self._confusion.items())}
