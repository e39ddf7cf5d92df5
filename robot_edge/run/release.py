"""When what a front encodes may leave the robot: while an attack on it finds little. Until then frames are held."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from broker.program.plain_text import counted
from broker.wire.quantize import dequantize
from hierarchy.attack.leak import nothing_leaks, quick_leak
from hierarchy.attack.pairs import Pairs, shrunk
from robot_edge.learning.frame_memory import FrameMemory, KeptFrame
from robot_edge.learning.held_back import FRAMES, HeldBack
from robot_edge.learning.held_out import PREDICT_AT_ONCE
from robot_edge.run.checkpoint import RunState
from robot_edge.sources.frames import Pixels

# The frames are cut into so many blocks, each of frames that came one after the other: neighbours look alike, and an
# attacker that has one has the other. One block in so many is attacked.
BLOCKS, BLOCKS_TO_ONE_ATTACKED = 25, 5
# Steps between two attacks: as many as the front has been sending, or held back, by then, within these bounds. At 32
# pixels an attack takes as long as 15 steps.
LEAST_STEPS, MOST_STEPS = 25, 800

log = logging.getLogger("robot-edge")


class Release:
    """Attacks the front now and then, and says from which step on it may send, and from which on no more."""

    def __init__(self, state: RunState, most: int = FRAMES) -> None:
        """most: frames that an attack is made with."""
        self._state = state
        self._most = most

    def review(self, *, at_an_end: bool = False) -> None:
        """Attack the front if that is due.

        at_an_end: of a lesson or a source. Then an attack is due on any front that was not attacked yet.
        """
        held, steps = self._state.held, self._state.trainer.steps
        if held is None or not held.is_enough or not _is_due(held, steps, at_an_end=at_an_end):
            return
        held.tried = steps
        pairs = self._pairs(held.shown)
        if not held.is_enough_of(len(pairs)):
            return
        has_changed = held.attacked(how_much_is_told(pairs), steps)
        log.info("the front was attacked: %s", held.found)
        _say(held, has_changed=has_changed)

    def _pairs(self, frames: FrameMemory) -> Pairs:
        """Return what crosses of frames, and what they show. A frame that comes again is taken once."""
        values: list[NDArray[np.float32]] = []
        pictures: list[Pixels] = []
        different = _different(frames.in_order(self._most))
        while part := list(islice(different, PREDICT_AT_ONCE)):
            images = np.stack(part)
            _, quantized = self._state.trainer.evaluate(images)
            values.append(dequantize(quantized))
            pictures.append(shrunk(images))
        return Pairs(values=np.concatenate(values), pictures=np.concatenate(pictures))


def how_much_is_told(pairs: Pairs) -> float:
    """Return what share of the way from the mean picture to the frames an attack gets that knows the other frames.

    pairs: in the order in which they came.
    """
    is_attacked = np.arange(len(pairs)) * BLOCKS // len(pairs) % BLOCKS_TO_ONE_ATTACKED == BLOCKS_TO_ONE_ATTACKED // 2
    attacked, own = pairs[np.flatnonzero(is_attacked)], pairs[np.flatnonzero(~is_attacked)]
    least = nothing_leaks(own, attacked).ssim
    return max(0.0, (quick_leak(own, attacked).ssim - least) / max(1e-6, 1 - least))


def _is_due(held: HeldBack, steps: int, *, at_an_end: bool) -> bool:
    if held.stands_still and held.told is not None:
        return False
    between = min(MOST_STEPS, max(LEAST_STEPS, held.tried - held.since))
    return not held.tried or steps >= held.tried + (1 if at_an_end else between)


def _different(frames: Iterator[KeptFrame]) -> Iterator[Pixels]:
    met: set[bytes] = set()
    for one in frames:
        mark = hashlib.blake2b(one.image.tobytes(), digest_size=16).digest()
        if mark not in met:
            met.add(mark)
            yield one.image


def _say(held: HeldBack, *, has_changed: bool) -> None:
    """Say what came of an attack."""
    if held.stands_still and held.tells_too_much:
        log.warning(
            "this front stands still, and tells more than --privacy %s lets it: %s. It will never tell less, so what "
            "it encodes goes up all the same. Begin another run with a higher --privacy, or with fewer bits, places "
            "or channels (--bits, --pool, --bottleneck)",
            held.level,
            held.found,
        )
    elif has_changed and held.released:
        log.info("the front tells little enough: %s go up that were held back", counted(len(held), "frame"))
    elif has_changed:
        log.warning(
            "the front tells more by now than --privacy %s lets it: frames are held back again, until an attack finds "
            "little enough. What went up so far cannot be taken back",
            held.level,
        )
