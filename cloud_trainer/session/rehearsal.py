"""Steps on stored samples alone, as an event of the log asks for them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What the clock decided of idle rehearsal, so that a replay takes the same steps.

    steps: to take now. last: steps, with these, in which the rate falls to its end. due: steps that were owed. left:
    steps that are owed behind these. anew: the rate begins at its peak once more. test: whether the last round's
    held-out samples are predicted behind these steps. kind: of the event that says this.
    """

    steps: int
    last: int
    due: int
    left: int
    anew: bool = False
    test: bool = False
    kind: Literal["rehearse", "settle"] = "rehearse"

    @classmethod
    def idle(cls, steps: int, due: int) -> Rehearsal:
        """Return the next steps of all that are due."""
        return cls(steps=steps, last=due, due=due, left=due - steps, test=steps == due)

    @classmethod
    def settling(cls, steps: int, due: int, *, test: bool) -> Rehearsal:
        """Return last steps for now, though more are due."""
        return cls(steps=steps, last=steps, due=due, left=due - steps, test=test, kind="settle")

    @classmethod
    def behind_a_lesson(cls, steps: int, last: int, due: int, *, anew: bool, test: bool) -> Rehearsal:
        """Return the next steps where the last one has to come soon: what is due beyond it is given up."""
        return cls(steps=steps, last=last, due=due, left=last - steps, anew=anew, test=test or steps == last)

    def pack(self) -> bytes:
        """Return the event's payload."""
        if self.kind == "settle":
            return b"%d %d %d" % (self.steps, self.due, self.test)
        if self == Rehearsal.idle(self.steps, self.due):
            return b"%d %d" % (self.steps, self.due)
        return b"%d %d %d %d %d" % (self.steps, self.last, self.due, self.anew, self.test)

    @classmethod
    def unpack(cls, kind: str, payload: bytes) -> Rehearsal:
        """Return what an event says."""
        numbers = [int(number) for number in payload.split()]
        if kind == "settle":
            steps, due, test = numbers
            return cls.settling(steps, due, test=bool(test))
        if len(numbers) == 2:
            return cls.idle(*numbers)
        steps, last, due, anew, test = numbers
        return cls.behind_a_lesson(steps, last, due, anew=bool(anew), test=bool(test))
