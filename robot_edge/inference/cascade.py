"""Who names a frame: the exit at once where it is sure, else the cloud, as long as it answers in time.

``Cascade`` decides and knows no clock and no link; ``CloudLine`` carries its asks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from broker.errors import MalformedMessage
from broker.link.base import Link
from broker.wire import topics
from broker.wire.codec import pack, unpack_as
from broker.wire.messages import Answer, AnsweredBy, Ask
from broker.wire.quantize import pack_activations
from hierarchy.runtime.command_line import SparseLog
from robot_edge.fleet.second_exit import MIN_CLASSES
from robot_edge.inference.exit_prediction import ExitPrediction

# Frames that wait for the cloud at the same time. At 10 frames a second more would wait longer than the deadline.
MAX_UNDER_WAY = 4
# So many asks in a row without an answer in time: the link is slow, or nobody answers.
MISSES = 3
# Then nothing is asked for so long, and after it one frame tries whether it is over.
PAUSE_SECONDS = 5.0

log = logging.getLogger("robot-edge")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a frame is taken for. taken_at: when it came, on the caller's clock. latency: seconds from then on.

    name: empty where no class fits, and where nothing is seen.
    """

    name: str
    confidence: float
    by: AnsweredBy
    taken_at: float
    latency: float


def nothing_seen(now: float) -> Decision:
    """Return what there is to say while no frame comes."""
    return Decision(name="", confidence=0.0, by="exit", taken_at=now, latency=0.0)


class Cascade:
    """Decides, for one frame after the other. All times are of one monotonic clock; all calls from one thread.

    threshold: calibrated confidence from which the exit answers alone. deadline: seconds to wait for an answer.
    answered, late, missed: asks that were answered in time, too late, and not at all by the deadline (the late ones
    are among them). asks_fleet: whether the cloud's half that answers is the fleet's.
    """

    def __init__(self, *, boot: str, split: str, threshold: float, deadline: float) -> None:
        self.threshold = threshold
        self.deadline = deadline
        self.asks_fleet = False
        self.answered = self.late = self.missed = 0
        self._boot = boot
        self._split = split
        self._number = 0
        self._waiting: dict[int, tuple[ExitPrediction, float]] = {}  # by number: what the exit said, and when it came
        self._misses = 0
        self._paused_until = float("-inf")

    def decide(self, exit_says: ExitPrediction, *, taken_at: float, now: float, reachable: bool) -> Decision | Ask:
        """Return what a frame is, or the ask to send for it; then answer(), expire() or give_up() will decide.

        reachable: whether there is anybody to ask.
        """
        sure = exit_says.confidence >= self.threshold and not exit_says.unknown
        # The cloud has heard of no more classes, so it could not tell either.
        sure = sure or len(exit_says.classes) < MIN_CLASSES
        # Nor does it remember any frame that is like this one, and it may be sure of the wrong class.
        sure = sure or (exit_says.unknown and exit_says.novelty is not None)
        # A half of the robot's own has never heard of what others taught.
        sure = sure or (exit_says.elsewhere and not self.asks_fleet)
        if sure or not reachable or not self._may_ask(now):
            return _by_exit(exit_says, taken_at, now)
        self._number += 1
        self._waiting[self._number - 1] = exit_says, taken_at
        return Ask(
            boot=self._boot,
            number=self._number - 1,
            split=self._split,
            deadline=max(0.0, self.deadline - (now - taken_at)),
            activations=pack_activations(exit_says.quantized),
        )

    def answer(self, answer: Answer, *, now: float) -> Decision | None:
        """Take in an answer; None where it is for no frame that still waits."""
        if answer.boot != self._boot or answer.number not in self._waiting:
            self.late += answer.boot == self._boot and answer.number < self._number
            return None
        exit_says, taken_at = self._waiting.pop(answer.number)
        if now > taken_at + self.deadline:
            self.late += 1
            self._miss(now)
            return _by_exit(exit_says, taken_at, now)
        self.answered += 1
        self._misses = 0
        if answer.probabilities[0] >= 1 and len(answer.classes) < MIN_CLASSES:  # it knows no other class yet
            return _by_exit(exit_says, taken_at, now)
        name, confidence = answer.classes[0], answer.probabilities[0]
        if exit_says.unknown and confidence < self.threshold:
            name = ""  # the cloud knows no more classes, so where it is not sure either, none fits
        return Decision(name=name, confidence=confidence, by="cloud", taken_at=taken_at, latency=now - taken_at)

    def expire(self, *, now: float) -> list[Decision]:
        """Return what the frames are that have waited long enough."""
        over = [number for number, (_, taken_at) in self._waiting.items() if now >= taken_at + self.deadline]
        decided = []
        for number in over:
            exit_says, taken_at = self._waiting.pop(number)
            self._miss(now)
            decided.append(_by_exit(exit_says, taken_at, now))
        return decided

    def give_up(self, ask: Ask, *, now: float) -> Decision:
        """Return what the frame of an ask is that could not be sent."""
        return _by_exit(*self._waiting.pop(ask.number), now)

    @property
    def next_deadline(self) -> float | None:
        """When the next frame will have waited long enough; None where none waits."""
        return min((taken_at + self.deadline for _, taken_at in self._waiting.values()), default=None)

    def _may_ask(self, now: float) -> bool:
        probing = self._misses >= MISSES
        return now >= self._paused_until and len(self._waiting) < (1 if probing else MAX_UNDER_WAY)

    def _miss(self, now: float) -> None:
        self.missed += 1
        self._misses += 1
        if self._misses >= MISSES:
            self._paused_until = now + PAUSE_SECONDS


def _by_exit(exit_says: ExitPrediction, taken_at: float, now: float) -> Decision:
    return Decision(
        name="" if exit_says.unknown else exit_says.name,
        confidence=exit_says.confidence,
        by="exit",
        taken_at=taken_at,
        latency=now - taken_at,
    )


class CloudLine:
    """Carries asks and answers of one robot. Made on the thread that receives, used on the one that sees."""

    def __init__(self, link: Link, robot: str) -> None:
        self._link = link
        self._topic = topics.topic("robot", robot, "ask")
        self._mailbox = link.mailbox(topics.topic("robot", robot, "answer"))
        self._garbage = SparseLog(log)

    def ask(self, ask: Ask) -> bool:
        """Send an ask; False where the link is down."""
        return self._link.publish(self._topic, pack(ask))

    def answers(self, timeout: float = 0.0) -> Iterator[Answer]:
        """Yield the answers that have come, waiting up to timeout seconds for the first one."""
        while (delivery := self._mailbox.take(timeout)) is not None:
            timeout = 0.0
            try:
                yield unpack_as(Answer, delivery.payload)
            except MalformedMessage as error:
                self._garbage.warn(f"ignoring an answer: {error}")
