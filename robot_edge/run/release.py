"""When what a front encodes may leave the robot: once an attack on it finds little. Until then frames are held."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from broker.wire.quantize import dequantize
from hierarchy.attack.leak import nothing_leaks, quick_leak
from hierarchy.attack.pairs import Pairs, shrunk
from robot_edge.learning.held_out import PREDICT_AT_ONCE
from robot_edge.learning.settings import Privacy
from robot_edge.run.checkpoint import RunState
from robot_edge.sources.frames import Pixels

# Frames that the attack is made with at most: it learns from the older ones, and is tried on the newest.
FRAMES = 1280
SHARE_TRIED = 0.2
# Steps between two attacks: each encodes all these frames.
STEPS_BETWEEN = 25
# How much closer to frames a linear attacker may come than the mean picture does, as a share of the way: structural
# similarity 0 for the mean picture, 1 for a copy. A decoder comes closer, so the lines are below what is promised.
MOST_TOLD: dict[Privacy, float] = {"off": 1.0, "low": 0.3, "medium": 0.2, "high": 0.1}

log = logging.getLogger("robot-edge")


class Release:
    """Attacks the front now and then, until it tells little enough."""

    def __init__(self, state: RunState, privacy: Privacy) -> None:
        self._state = state
        self._most = MOST_TOLD[privacy]

    def is_due(self, *, at_an_end: bool = False) -> bool:
        """Whether the front may send from now on: whether an attack was due, and found little.

        at_an_end: of a lesson or a source. Then an attack is due on any front that was not attacked yet.
        """
        state, held = self._state, self._state.held
        if held is None or held.released or not held.is_enough:
            return False
        between = 1 if at_an_end else STEPS_BETWEEN
        if held.told is not None and state.trainer.steps < held.tried + between:
            return False
        held.tried = state.trainer.steps
        newest = held.newest(FRAMES)
        pairs = Pairs(values=np.concatenate(list(self._encoded(newest))), pictures=shrunk(newest))
        tried = round(SHARE_TRIED * len(pairs))
        attacked, own = pairs[:tried], pairs[tried:]
        least = nothing_leaks(own, attacked).ssim
        held.told = max(0.0, (quick_leak(own, attacked).ssim - least) / max(1e-6, 1 - least))
        log.info(
            "an attack on the front gets %.0f %% of the way from a mean picture to its frames; nothing is sent above "
            "%.0f %%",
            100 * held.told,
            100 * self._most,
        )
        return held.told <= self._most

    def _encoded(self, images: Pixels) -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(images), PREDICT_AT_ONCE):
            _, quantized = self._state.trainer.evaluate(images[start : start + PREDICT_AT_ONCE])
            yield dequantize(quantized)
