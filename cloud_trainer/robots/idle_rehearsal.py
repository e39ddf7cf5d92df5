"""When a network rehearses while nothing comes, and for how long. Decides; whoever asks enters it into the log."""

from __future__ import annotations

import math
import time

from cloud_trainer.session.rehearsal import Rehearsal
from cloud_trainer.session.session import Session

# A turn ends behind the step, test or edit in which it gets this old: others wait for it.
TURN_SECONDS = 1.0
# Steps on stored samples alone that are taken before looking whether anything came, as far as they fit into a turn.
# What a robot sends waits for them: four steps of a network at 224 pixels took 2.5 minutes on a busy machine.
IDLE_STEPS_AT_ONCE = 4
# Behind a lesson the rate falls to its end within so many seconds, or SETTLING_STEPS where steps are slow. People who
# taught something look at what came of it, and toys that 20 steps taught the cloud were known no better after 100.
LESSON_SECONDS = 30.0
# How often held-out samples are predicted meanwhile, so that what people see is what the cloud knows.
LESSON_TEST_SECONDS = 10.0
# Steps in which the rate falls to its end where idle rehearsal is cut short: whoever stopped it waits for them. A
# network that 20 steps near the peak rate had left at 70.0 % held-out came to 99.0 % with 4 more, and 100 % with 7; but
# another one had 94.5 % after 10, in place of 99.5 %.
SETTLING_STEPS = 30


class IdleRehearsal:
    """Of one network. practice: steps that each fresh sample is worth. step_seconds: that the last step took."""

    def __init__(self, practice: float) -> None:
        self.step_seconds = 0.0
        self._practice = practice
        self._left = 0  # steps that were left of what was due behind a lesson
        self._tested_at = -math.inf

    def due(self, session: Session) -> int:
        """Return how many steps are due."""
        return session.network.idle_steps_due(self._practice)

    def next(self, session: Session) -> Rehearsal | None:
        """Return the next steps; None where none are due."""
        if not (due := self.due(session)):
            return None
        steps = min(due, self._at_once)
        return self._behind_a_lesson(steps, due) if session.is_taught else Rehearsal.idle(steps, due)

    def last(self, session: Session, seconds: float) -> Rehearsal | None:
        """Return last steps for now of rehearsal that is in the middle; None where it is not, or none are due.

        seconds: to take fewer steps in, where they are slow, and not to test what comes of them; but one at least.
        """
        if not (session.network.rehearses and (due := self.due(session))):
            return None
        most = seconds / self.step_seconds if self.step_seconds else math.inf
        count = max(1, min(due, SETTLING_STEPS, int(min(most, SETTLING_STEPS))))
        return Rehearsal.settling(
            count, due, test=most >= count + SETTLING_STEPS
        )  # a test takes about as long as those

    def _behind_a_lesson(self, steps: int, due: int) -> Rehearsal:
        """Return the next steps of a robot that is being taught, or was just now."""
        now, last = time.monotonic(), min(due, max(SETTLING_STEPS, self._steps_in(LESSON_SECONDS)))
        test = now >= self._tested_at + LESSON_TEST_SECONDS
        if test or steps == last:
            self._tested_at = now
        # More than was left: the robot has sent more, or all that it knows as it is encoded now.
        anew, self._left = due > self._left, last - steps
        return Rehearsal.behind_a_lesson(steps, last, due, anew=anew, test=test)

    @property
    def _at_once(self) -> int:
        """How many steps are taken before looking whether anything came: where they are slow, one."""
        return max(1, min(IDLE_STEPS_AT_ONCE, self._steps_in(TURN_SECONDS)))

    def _steps_in(self, seconds: float) -> int:
        return int(seconds / self.step_seconds) if self.step_seconds else IDLE_STEPS_AT_ONCE
