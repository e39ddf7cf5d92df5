"""How well classes are kept while others are learned: their accuracies in round after round of tests. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# A robot that is taught for months has no end of rounds. And the accuracies in all of them: a checkpoint holds them.
MOST_ROUNDS, MOST_ACCURACIES = 1000, 50_000


# A round's number, and the accuracy of each class in it.
Round = tuple[int, dict[str, float]]


class AccuracyRounds:
    """The accuracy of each class in each round of tests. A round has what was held out of the classes known by then."""

    def __init__(self, rounds: Sequence[Round] = ()) -> None:
        """Begin, or go on from the rounds of another one."""
        self._rounds = [(number, dict(one)) for number, one in rounds]

    def __len__(self) -> int:
        return len(self._rounds)

    @property
    def rows(self) -> list[dict[str, float]]:
        """The accuracy of each class in each round."""
        return [dict(one) for _, one in self._rounds]

    def add(self, by_class: Mapping[str, float], number: int = 0) -> None:
        """Add a round. Of more than MOST_ROUNDS, or MOST_ACCURACIES in all, the last ones are kept.

        number: of the round in its run, by which `give_up` finds it; 0 where none has to.
        """
        if by_class:
            self._rounds.append((number, dict(by_class)))
            del self._rounds[:-MOST_ROUNDS]
            total = sum(len(one) for _, one in self._rounds)
            while total > MOST_ACCURACIES and len(self._rounds) > 1:
                total -= len(self._rounds.pop(0)[1])

    def give_up(self, number: int) -> None:
        """Give up the rounds of the present run from that number on: they are tested once more."""
        self._rounds = [(its, one) for its, one in self._rounds if its < number]

    def begin_run(self) -> None:
        """Keep what is here beside the rounds of another run, which counts them from 1 again."""
        self._rounds = [(0, one) for _, one in self._rounds]

    def rename(self, old: str, new: str, *, merged: bool) -> None:
        """Give a class another name.

        merged: whether there is one of that name, which then keeps its own history, as it keeps its row in the head.
        """
        if merged:
            self.remove(old)
        for _, one in self._rounds:
            if old in one:
                one[new] = one.pop(old)

    def remove(self, name: str) -> None:
        """Count a class no more."""
        for _, one in self._rounds:
            one.pop(name, None)
        self._rounds = [(number, one) for number, one in self._rounds if one]

    @property
    def rounds(self) -> list[Round]:
        """Each round with its number. A copy."""
        return [(number, dict(one)) for number, one in self._rounds]

    def figures(self, end: str) -> dict[str, Any]:
        """Return what summary.json says of one end, ``exit`` or ``cloud``; nothing of what takes two tasks to tell.

        accuracy_matrix: a row for each round, and which test of the run it is of: 0 for one of a former run, the same
        once more where idle rehearsal came between. A column for each class in the order in which they were first
        tested, None before that.

        A task is what brought new classes, and its row is the last round before another one did: later rounds of a
        task tell of practice. average_incremental_accuracy: mean over tasks of the mean over the classes known by then
        (Rebuffi et al., "iCaRL", 2017). forgetting: mean, over the classes of tasks before the last, of their best
        accuracy behind one of those less their last one (Chaudhry et al., "Riemannian walk", 2018). backward_transfer:
        the same with the first accuracy, and the other sign (Lopez-Paz and Ranzato, "Gradient episodic memory", 2017).
        """
        if not self._rounds:
            return {}
        rounds = self.rows
        classes = list(dict.fromkeys(name for one in rounds for name in one))
        tasks, last = _tasks(rounds), rounds[-1]
        figures: dict[str, Any] = {
            "accuracy_matrix": {
                "classes": classes,
                "rounds": [[one.get(name) for name in classes] for one in rounds],
                "tests": [number for number, _ in self._rounds],
            },
            "final_average_accuracy": _mean(list(last.values())),
            "average_incremental_accuracy": _mean([_mean(list(one.values())) for one in tasks]),
        }
        before = {name: its for name in last if (its := [one[name] for one in tasks[:-1] if name in one])}
        if before:
            figures["forgetting"] = _mean([max(its) - last[name] for name, its in before.items()])
            figures["backward_transfer"] = _mean([last[name] - its[0] for name, its in before.items()])
        return {f"{end}_{name}": value for name, value in figures.items()}


def _tasks(rounds: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return the last of each group of rounds on the same classes."""
    following = [set(one) for one in rounds[1:]]
    return [one for one, other in zip(rounds, [*following, None], strict=True) if set(one) != other]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
