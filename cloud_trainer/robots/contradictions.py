"""Looks now and then whether a robot of a fleet teaches what contradicts the others. Decides; others enter it.

It takes a slice of the training thread's time, so nobody waits for it, and changes nothing of a session. When there was
time is chance. So what is found becomes an event of the log: that the robot's samples are taken out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable

import numpy as np
from numpy.typing import NDArray

from broker.errors import ConfigError, MalformedMessage
from cloud_trainer.logs import title
from cloud_trainer.robots.entry import Verdict
from cloud_trainer.session.contradiction import LEAST_SAMPLES, LEAST_WITNESSES, Contradiction, contradicting
from cloud_trainer.session.sample_memory import SampleRef
from cloud_trainer.session.session import Session

# Between two looks at one fleet.
EVERY_SECONDS = 10.0
# Of the training thread, between two of its turns.
SLICE_SECONDS = 0.1
# The newest samples of a robot and class: a robot that turns bad is not shielded by what it taught before.
LATEST = 20
# Robots and classes that are compared, the newest ones: 80 MB of 1,280 features.
MAX_PAIRS = 800

log = logging.getLogger("cloud-trainer")

Work = Generator[None, None, Contradiction | None]


class Contradictions:
    """For the thread that trains."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked_at: dict[str, int] = {}  # images of each log's session, when it was looked at last
        self._next_at = 0.0
        self._work: tuple[str, Work] | None = None

    @property
    def at_work(self) -> bool:
        """Whether a look has begun and is not over."""
        return self._work is not None

    def turn(self, sessions: Iterable[Session]) -> Verdict | None:
        """Take a slice at a look that is due. sessions: that robots share."""
        now = self._clock()
        if self._work is None and now >= self._next_at:
            self._begin(sessions)
        if self._work is None:
            return None
        name, work = self._work
        try:
            while self._clock() < now + SLICE_SECONDS:
                next(work)
        except StopIteration as ended:
            self._work, self._next_at = None, self._clock() + EVERY_SECONDS
            return self._verdict(name, ended.value)
        except (ConfigError, MalformedMessage) as error:  # samples were given up meanwhile
            self._work, self._next_at = None, self._clock() + EVERY_SECONDS
            log.info("%s: nobody was compared: %s", title(name), error)
        return None

    def _begin(self, sessions: Iterable[Session]) -> None:
        for session in sessions:
            taught = sum(bool(one.taught) for one in session.members.values())
            if taught > LEAST_WITNESSES and self._looked_at.get(session.log) != session.images:
                self._looked_at[session.log] = session.images
                self._work = session.log, _look(session)
                return

    def _verdict(self, name: str, found: Contradiction | None) -> Verdict | None:
        if found is None:
            return None
        called = ", ".join(f"{one!r} is the others' {other!r}" for one, other in list(found.classes.items())[:5])
        log.warning("%s: robot %s: %s: its %s", title(name), found.robot, found.why, called)
        return Verdict(log=name, robot=found.robot, why=found.why)


def _look(session: Session) -> Work:
    robots, looks = list(session.members), dict[str, dict[str, NDArray[np.float32]]]()
    for (number, name), refs in _newest(session).items():
        features = session.network.features_of(refs).astype(np.float32)
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        looks.setdefault(robots[number], {})[name] = features / np.maximum(lengths, 1e-12)
        yield
    return contradicting(looks)


def _newest(session: Session) -> dict[tuple[int, str], list[SampleRef]]:
    """Return the newest samples by robot and class, of classes that enough robots teach."""
    by: dict[tuple[int, str], list[SampleRef]] = {}
    for name, ref in session.network.memory.all():
        by.setdefault((ref.member, name), []).append(ref)
    by = {pair: sorted(refs, key=lambda ref: ref.event)[-LATEST:] for pair, refs in by.items()}
    by = {pair: refs for pair, refs in by.items() if len(refs) >= LEAST_SAMPLES}
    teachers: dict[str, int] = {}
    for _, name in by:
        teachers[name] = teachers.get(name, 0) + 1
    shared = [pair for pair in by if teachers[pair[1]] > LEAST_WITNESSES]
    return {pair: by[pair] for pair in sorted(shared, key=lambda pair: -by[pair][-1].event)[:MAX_PAIRS]}
