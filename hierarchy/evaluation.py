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
    """Accuracy on frames that are never trained on, in all and for each class."""

    def __init__(self) -> None:
        self._right: dict[str, int] = {}
        self._count: dict[str, int] = {}

    def add(self, names: Sequence[str], predicted: Sequence[str]) -> None:
        """Add true and predicted class names."""
        for name, guess in zip(names, predicted, strict=True):
            self._count[name] = self._count.get(name, 0) + 1
            self._right[name] = self._right.get(name, 0) + (name == guess)

    def rename(self, old: str, new: str) -> None:
        """Count what was of a class as of another one."""
        for counts in (self._right, self._count):
            if old != new and old in counts:
                counts[new] = counts.get(new, 0) + counts.pop(old)

    def remove(self, name: str) -> None:
        """Count a class no more."""
        self._right.pop(name, None)
        self._count.pop(name, None)

    def state(self) -> dict[str, Any]:
        """Return the state, as JSON can hold it."""
        return {"right": dict(self._right), "count": dict(self._count)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._right, self._count = dict(state["right"]), dict(state["count"])

    @property
    def count(self) -> int:
        """How many frames were predicted."""
        return sum(self._count.values())

    @property
    def accuracy(self) -> float | None:
        """The share that was right; None before the first frame."""
        return sum(self._right.values()) / self.count if self.count else None

    @property
    def by_class(self) -> dict[str, float]:
        """The share that was right for each class."""
        return {name: self._right[name] / count for name, count in sorted(self._count.items())}
