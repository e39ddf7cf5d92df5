"""What became of the training samples of each class. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

# What came of a message.
Outcome = Literal["receipted", "rejected", "dropped"]


class ClassCounts(NamedTuple):
    """What became of the training samples of one class: taken = queued + receipted + rejected + dropped."""

    taken: int
    queued: int
    receipted: int
    rejected: int
    dropped: int


class Ledger:
    """Counts samples by class and outcome.

    rows: (class, taken, receipted, rejected, dropped), as the disk has them. changed: classes that it has not got as
    they are now.
    """

    def __init__(self, rows: Iterable[tuple[str, int, int, int, int]]) -> None:
        self._classes = {
            name: Counter(taken=taken, receipted=receipted, rejected=rejected, dropped=dropped)
            for name, taken, receipted, rejected, dropped in rows
        }
        self.changed: set[str] = set()

    def count(self, what: Outcome | Literal["taken"], samples: Mapping[str, int]) -> None:
        """Count samples, by class."""
        for name, count in samples.items():
            self._classes.setdefault(name, Counter())[what] += count
            self.changed.add(name)

    def counts(self) -> dict[str, ClassCounts]:
        """Return what became of the samples, by class in the order of names."""
        return {
            name: ClassCounts(
                counts["taken"], _queued(counts), counts["receipted"], counts["rejected"], counts["dropped"]
            )
            for name, counts in sorted(self._classes.items())
        }

    def changed_rows(self) -> list[tuple[str, int, int, int, int]]:
        """Return the rows that the disk has to be told."""
        return [
            (name, counts["taken"], counts["receipted"], counts["rejected"], counts["dropped"])
            for name in self.changed
            for counts in [self._classes[name]]
        ]

    @property
    def longest_queue(self) -> str:
        """The class with the most samples in the outbox; empty where there is no class."""
        return max(self._classes, key=lambda name: _queued(self._classes[name]), default="")

    def commonness(self, samples: Mapping[str, int]) -> float:
        """Return how much more often than the mean class those of a message were taken; 0 for one without samples."""
        mean = sum(counts["taken"] for counts in self._classes.values()) / max(1, len(self._classes))
        of_each = sum(count * self._classes[name]["taken"] for name, count in samples.items())
        return of_each / sum(samples.values()) / mean if samples else 0.0


def _queued(counts: Mapping[str, int]) -> int:
    return counts["taken"] - counts["receipted"] - counts["rejected"] - counts["dropped"]
