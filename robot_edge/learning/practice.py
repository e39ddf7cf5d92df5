"""How many steps a robot takes on what it remembers alone, and how far along it is with them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from hierarchy.schedule import settling

# Behind a replay: as many as show each remembered frame so often, but not more than it took to learn them, or so many
# if that is more. A small replay has fewer, as --practice says.
REPLAY_PRACTICE, PRACTICE_EPOCHS = 200, 5
# Of a live robot, that wait at most: who teaches all day should not leave the robot practising all night.
MAX_PRACTICE = 2000
# And at least, after a lesson and after a class was renamed, merged, forgotten or taken back: while a lesson goes on
# all of its practice may have been taken, at the peak rate.
SETTLING_STEPS = 20


def practice_steps(kept: int, batch: int, learned: int) -> int:
    """Return how many steps of that batch size a replay practises on so many frames, learned in so many steps."""
    return max(REPLAY_PRACTICE, min(PRACTICE_EPOCHS * (kept // batch), learned))


@dataclass(frozen=True, kw_only=True)
class PracticeState:
    """As in `LivePractice`."""

    due: float
    done: int


class LivePractice:
    """What a live robot owes to its lessons.

    per_image: steps for each taught image; 0 for no practice behind lessons. due: steps still to be taken. done: steps
    taken since anything new was learned.
    """

    def __init__(self, per_image: float) -> None:
        self._per_image = per_image
        self.due = 0.0
        self.done = 0

    def learned(self, images: int) -> None:
        """Take in that so many images were taught."""
        self.done = 0
        self.due = min(self.due + self._per_image * images, MAX_PRACTICE)

    def lesson_over(self) -> None:
        """Leave enough to do for the rate to fall."""
        if self._per_image:
            self.due = max(self.due, SETTLING_STEPS)

    def class_changed(self) -> None:
        """Leave enough to do for the rest to make up for what the class, or its name, leaves behind."""
        self.done = 0
        self.due = max(self.due, SETTLING_STEPS)

    def take(self, *, lesson_open: bool) -> float | None:
        """Take one of the steps due, and return the progress that its rate is of; None for the peak rate.

        Learning at its peak rate leaves a network wherever the last few steps took it, so practice ends at none.
        """
        progress = None if lesson_open else settling(self.done, self.due)
        self.due -= 1
        self.done += 1
        return progress

    def state(self) -> PracticeState:
        return PracticeState(due=self.due, done=self.done)

    def restore(self, state: PracticeState) -> None:
        self.due, self.done = state.due, state.done
