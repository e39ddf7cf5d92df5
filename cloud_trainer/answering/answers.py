"""Answers robots' asks within milliseconds, on a thread of its own, while the main one trains.

It predicts with copies of the segments, some seconds old at most, so it never waits for a step and no step for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from broker.errors import MalformedMessage
from broker.link.allowance import Allowance
from broker.link.base import Link
from broker.link.inbox import Delivery
from broker.program.threads import LoudThread
from broker.wire import topics
from broker.wire.bounds import MAX_ANSWERED_CLASSES
from broker.wire.codec import pack, unpack_as
from broker.wire.messages import ASKS_PER_SECOND, Answer, Ask, SplitSpec
from broker.wire.quantize import dequantize, unpack_activations
from cloud_trainer.session.session import Session
from hierarchy.calibration import softmax
from hierarchy.cloud import CloudSegment
from hierarchy.device import Compute
from hierarchy.runtime.command_line import SparseLog
from hierarchy.shadow import Shadow

# A robot that has not asked for so long gives up its copy.
IDLE_SECONDS = 30.0
# Copies at the same time, for the robots that asked last, or their fleets; each takes twice a segment's weights, 90 MB
# for ResNet-18.
MAX_COPIES = 8
# How old a copy may get, in seconds. Taking one costs a few milliseconds of training.
REFRESH_SECONDS = 2.0
# Asks a second that one robot gets answers to, a few more than it should make; and all robots together, which at 20 ms
# each is what one core can do.
ROBOT_ASKS_PER_SECOND, ALL_ASKS_PER_SECOND = 1.2 * ASKS_PER_SECOND, 2 * ASKS_PER_SECOND
# Asks that wait. At 20 ms each the last of them would be past any sensible deadline.
MAX_WAITING = 32
# Robots that are remembered to have asked; names cost nothing where a broker lets anybody in.
MAX_ASKERS = 256

log = logging.getLogger("cloud-trainer")


class Asks:
    """The asks that wait, and who has been asking. Pure: time is an argument. Any thread may call."""

    def __init__(self) -> None:
        self.refused = 0  # too many, or too late
        self._lock = threading.Lock()
        self._waiting: deque[tuple[str, Ask, float]] = deque()
        self._askers: OrderedDict[str, tuple[Allowance, float]] = OrderedDict()
        self._all = Allowance(ALL_ASKS_PER_SECOND)

    def add(self, robot: str, ask: Ask, now: float, *, answerable: bool = True) -> None:
        """Take in an ask that came now, if its robot, and all robots together, have not asked too much.

        answerable: whether there is anything to answer it with. Else it only says that its robot asks: names
        may be invented, and theirs must not use up what all may ask together.
        """
        with self._lock:
            allowance, _ = self._askers.get(robot, (Allowance(ROBOT_ASKS_PER_SECOND), 0.0))
            self._askers[robot] = allowance, now
            self._askers.move_to_end(robot)
            if len(self._askers) > MAX_ASKERS:
                self._askers.popitem(last=False)
            if not answerable:
                return
            has_room = len(self._waiting) < MAX_WAITING
            if not (has_room and allowance.take(now) and self._all.take(now)):
                self.refused += 1
                return
            self._waiting.append((robot, ask, now + ask.deadline))

    def next(self, now: float) -> tuple[str, Ask] | None:
        """Return the oldest ask that is still waited for, with its robot."""
        with self._lock:
            while self._waiting:
                robot, ask, until = self._waiting.popleft()
                if now < until:
                    return robot, ask
                self.refused += 1
        return None

    def robots(self, now: float) -> list[str]:
        """Return the robots that asked not long ago, the last one first."""
        with self._lock:
            return [robot for robot, (_, at) in reversed(self._askers.items()) if now <= at + IDLE_SECONDS]


@dataclass(kw_only=True)
class Copy:
    """A segment to answer a robot with. boots: of the robot's processes whose front belongs to it."""

    shadow: Shadow[CloudSegment]
    compute: Compute
    split: SplitSpec
    boots: frozenset[str]
    steps: int
    images: int
    taken_at: float


class Answerer:
    """Answers asks. The training thread calls update() between steps; ``work`` runs on a thread of its own."""

    def __init__(self, link: Link, clock: Callable[[], float] = time.monotonic) -> None:
        self.asks = Asks()
        self.answered = 0
        self._link = link
        self._clock = clock
        self._mailbox = link.mailbox(topics.topic("robot", topics.ANYONE, "ask"), ROBOT_ASKS_PER_SECOND)
        self._logs: dict[str, Copy] = {}
        self._copies: dict[str, Copy] = {}  # by robot
        self._garbage = SparseLog(log)
        self._thread = LoudThread("answers", self._run, restarts=True)

    def start(self) -> None:
        """Begin to answer."""
        torch.get_num_threads()  # the training thread's, before this one sets its own
        self._thread.start()

    def close(self) -> None:
        """Stop, within a moment."""
        self._thread.close()

    # The training thread

    def update(self, find: Callable[[str], tuple[Session, frozenset[str]] | None]) -> None:
        """Renew the copies that robots ask for, and let go of the others. Robots that share a network share a copy.

        find: given a robot, returns the session that may answer it now, and the boots whose front belongs to it.
        """
        now = self._clock()
        wanted: dict[str, tuple[Session, frozenset[str]]] = {}
        logs: dict[str, Copy] = {}
        for robot in self.asks.robots(now):
            its = find(robot)
            if its and its[0].trainer.classes and (its[0].log in logs or len(logs) < MAX_COPIES):
                wanted[robot] = its
                if its[0].log not in logs:
                    logs[its[0].log] = self._renewed(its[0], now)
        self._logs = logs
        self._copies = {robot: replace(logs[its.log], boots=boots) for robot, (its, boots) in wanted.items()}

    def _renewed(self, session: Session, now: float) -> Copy:
        """Return a copy of a session's segment that is new enough."""
        trainer, copy = session.trainer, self._logs.get(session.log)
        if copy is None or copy.split != session.split or copy.steps > trainer.steps:
            shadow = Shadow(trainer.segment)
        elif copy.steps == trainer.steps or now < copy.taken_at + REFRESH_SECONDS:
            return copy
        else:
            shadow = copy.shadow
            if not shadow.refresh(trainer.segment):
                return copy
        return Copy(
            shadow=shadow,
            compute=trainer.learner.compute,
            split=session.split,
            boots=frozenset(),
            steps=trainer.steps,
            images=session.images,
            taken_at=now,
        )

    # The answering thread

    def _run(self, ending: threading.Event) -> None:
        torch.set_num_threads(1)
        while not ending.is_set():
            self.work(timeout=0.2)

    def work(self, timeout: float) -> None:
        """Answer the next ask, waiting up to timeout seconds for one."""
        while (delivery := self._mailbox.take(timeout)) is not None:
            timeout = 0.0  # all that came is looked at before any is answered, or its time would not be known
            self._take(delivery)
        if (found := self.asks.next(self._clock())) is None:
            return
        robot, ask = found
        copy = self._copies.get(robot)
        if copy is None:
            return
        try:
            answer = answer_to(ask, copy)
        except MalformedMessage as error:
            self._garbage.warn(f"robot {robot}: ask ignored: {error}")
            return
        if answer and self._link.publish(topics.topic("robot", robot, "answer"), pack(answer)):
            self.answered += 1

    def _take(self, delivery: Delivery) -> None:
        try:
            robot = topics.parse(delivery.topic).name
            ask = unpack_as(Ask, delivery.payload)
        except MalformedMessage as error:
            self._garbage.warn(f"ignoring an ask: {error}")
            return
        self.asks.add(robot, ask, self._clock(), answerable=robot in self._copies)


def answer_to(ask: Ask, copy: Copy) -> Answer | None:
    """Return what a segment takes an ask's frame for; None where it has no finite answer, or the boot is another's.

    Raises MalformedMessage where the ask is not of the robot's split.
    """
    packed, split = ask.activations, copy.split
    if ask.boot not in copy.boots:
        return None
    if ask.split != split.fingerprint or packed.shape[1:] != split.shape or packed.bits != split.bits:
        raise MalformedMessage(f"{packed.shape[1:]} at {packed.bits} bits of split {ask.split} are not its robot's")
    activations = dequantize(unpack_activations(packed))
    with copy.shadow.network() as segment:
        with copy.compute.autocast():
            logits = segment(copy.compute.tensor(activations)).float().cpu().numpy()
        classes = segment.head.classes
    if not np.isfinite(logits).all():
        return None
    probabilities = softmax(logits)[0]
    best = np.argsort(-probabilities, kind="stable")[:MAX_ANSWERED_CLASSES]
    return Answer(
        boot=ask.boot,
        number=ask.number,
        classes=tuple(classes[index] for index in best),
        probabilities=tuple(float(probabilities[index]) for index in best),
        images=copy.images,
    )
