"""A question to the trainer that takes long: it may be busy, lose the question in a restart, or go."""

from __future__ import annotations

import time

from broker.errors import NoAnswer
from broker.wire.messages import ProbeResult, SplitSpec
from robot_edge.planning.probing import Prober

# How often it is asked again, how often for a sign of life, and for how long there may be none; a step takes seconds.
AGAIN_SECONDS, KNOCK_SECONDS, DEAD_SECONDS = 20.0, 5.0, 45.0


class Question:
    """How long the trainer takes for its half of a network."""

    def __init__(self, prober: Prober, split: SplitSpec, patience: float) -> None:
        """Begin to ask. patience: seconds in which there has to be a result."""
        self._prober = prober
        self._probe = prober.probe(split)
        self._begin = time.monotonic()
        self._give_up = self._begin + patience
        self._ask_at = self._knock_at = self._begin

    @property
    def result(self) -> ProbeResult | None:
        """What the trainer found; None as long as that is not known."""
        return self._prober.result(self._probe)

    def over(self) -> bool:
        """Take in what has come, and ask again where that is due; whether there is a result, or time is up.

        Raises ConfigError where the trainer shows no sign of life.
        """
        now = time.monotonic()
        if now >= self._ask_at and self._prober.send(self._probe):
            self._ask_at = now + AGAIN_SECONDS
        if now >= self._knock_at and self._prober.send(self._prober.probe()):
            self._knock_at = now + KNOCK_SECONDS
        self._prober.read(0.0)
        if now > max(self._begin, self._prober.heard_at) + DEAD_SECONDS:
            raise NoAnswer("the trainer stopped answering: is it still running, and the link up?")
        return self.result is not None or now > self._give_up
