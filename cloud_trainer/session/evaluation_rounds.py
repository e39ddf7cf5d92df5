"""How a session's network does on held-out samples, in round after round of tests. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hierarchy.continual import AccuracyRounds, Round
from hierarchy.evaluation import HeldOut

# Samples of a round of tests, and those of one message more, that are predicted once more behind idle rehearsal.
MAX_TESTED_AGAIN = 4000

# first: as the samples came. settled: once more, behind the idle rehearsal that followed. later: once more, behind more
# that was learned; a round is not to tell of that.
When = Literal["first", "settled", "later"]


@dataclass(frozen=True, kw_only=True)
class RoundsState:
    """The tests of the present round, and the rounds before it. tests: confusions, in the order of the tests."""

    number: int
    evaluated: int
    events: list[int]
    tests: dict[When, dict[str, dict[str, int]]]
    has_moved_on: bool
    before: list[Round]


class Rounds:
    """The tests of the present round, one for each ``When``, and what is kept of the rounds before it.

    number: of the present round. evaluated: its samples, each counted once however often it was predicted. events: of
    its samples, for a test once more.
    """

    def __init__(self) -> None:
        self.number = 0
        self.evaluated = 0
        self.events: list[int] = []
        self._tests: dict[When, HeldOut] = {"first": HeldOut()}
        self._has_moved_on = False  # whether more was learned since the round began
        self._before = AccuracyRounds()

    @property
    def newest(self) -> HeldOut:
        """The newest test of the present round."""
        return list(self._tests.values())[-1]

    def admit(self, number: int) -> bool:
        """Whether samples of a round are to be tested: not those of one that a later round has overtaken.

        A round that was there and comes once more, as a killed robot repeats some, takes the place of what was kept.
        """
        if self.evaluated and number <= self.number:
            return number == self.number
        self._before = self._kept()
        self._before.give_up(number)
        self.number, self.evaluated, self.events = number, 0, []
        self._tests, self._has_moved_on = {"first": HeldOut()}, False
        return True

    def add(self, event: int, names: Sequence[str], predicted: Sequence[str]) -> None:
        """Add samples of the present round: to each of its tests, as they may come behind the first one."""
        if self.evaluated < MAX_TESTED_AGAIN:
            self.events.append(event)
        self.evaluated += len(names)
        for held_out in self._tests.values():
            held_out.add(names, predicted)

    def begin_again(self) -> HeldOut:
        """Begin a test of the same samples once more, and return it: rehearsal has made another network of this one."""
        again = self._tests["later" if self._has_moved_on else "settled"] = HeldOut()
        return again

    def move_on(self) -> None:
        """Note that the network has learned something new."""
        self._has_moved_on = True

    def expect_repeats(self) -> None:
        """Note that the robot may have been killed: it repeats rounds, from the one behind its checkpoint on."""
        self.evaluated = 0

    def begin_run(self) -> None:
        """Keep what is here beside the rounds of another run, which counts them from 1 again."""
        self._before.begin_run()
        self.number = 0

    def forget(self, up_to: int) -> None:
        """Test nothing once more that the log is about to lose."""
        self.events = [event for event in self.events if event > up_to]

    def rename(self, old: str, new: str, *, merged: bool) -> None:
        """Give a class another name. merged: whether there is one of that name."""
        self._before.rename(old, new, merged=merged)
        for held_out in self._tests.values():
            held_out.rename(old, new)

    def remove(self, name: str) -> None:
        """Count a class no more."""
        self._before.remove(name)
        for held_out in self._tests.values():
            held_out.remove(name)

    def accuracies(self) -> AccuracyRounds:
        """Return how each class did in each round of tests, and at last how it does now."""
        rounds = self._kept()
        if "later" in self._tests and rounds.rows[-1:] != [self.newest.by_class]:
            rounds.add(self.newest.by_class, self.number)
        return rounds

    def _kept(self) -> AccuracyRounds:
        """Return the rounds with the present one: as it was first tested, and behind the idle rehearsal after that."""
        rounds = AccuracyRounds(self._before.rounds)
        for when, held_out in self._tests.items():
            if when != "later":
                rounds.add(held_out.by_class, self.number)
        return rounds

    def state(self) -> RoundsState:
        """Return what a checkpoint must hold."""
        return RoundsState(
            number=self.number,
            evaluated=self.evaluated,
            events=self.events,
            tests={when: held_out.confusion for when, held_out in self._tests.items()},
            has_moved_on=self._has_moved_on,
            before=self._before.rounds,
        )

    def restore(self, state: RoundsState) -> None:
        """Go on from a state."""
        self.number, self.evaluated, self.events = state.number, state.evaluated, list(state.events)
        self._has_moved_on = state.has_moved_on
        self._before = AccuracyRounds(state.before)
        self._tests = {when: HeldOut(confusion) for when, confusion in state.tests.items()}
