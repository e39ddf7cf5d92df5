"""Frames that were learned from and are not sent yet: what the network encodes of them would still show them."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from broker.program.plain_text import counted
from broker.wire.messages import ClassEdit
from robot_edge.learning.batcher import Batch
from robot_edge.learning.frame_memory import FrameMemory, FramesState
from robot_edge.learning.settings import Privacy
from robot_edge.sources.frames import Pixels, relabelled

# How much closer to frames a linear attacker may come than the mean picture does, as a share of the way: structural
# similarity 0 for the mean picture, 1 for a copy. A decoder comes closer, so the lines are below what is promised.
MOST_TOLD: dict[Privacy, float] = {"low": 0.3, "medium": 0.2, "high": 0.1}
# What they take of memory, and of each checkpoint, at most: 21,800 of 32 pixels.
MOST_BYTES = 64_000_000
# Frames that an attack is made with at most. Where all of them as they are take more than so much, they are JPEGs.
FRAMES, EXACT_BYTES = 1280, 16_000_000
# With fewer an attack would find little for want of frames, not because there is little to find.
LEAST_FRAMES = 320


class _Held(NamedTuple):
    image: Pixels
    name: str
    position: int
    session: int


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldBackState:
    """All that is held. images: uint8 (N, H, W, 3), None for none. The rest is as of `HeldBack`.

    shown: None where the run remembers these frames anyway.
    """

    names: list[str]
    positions: list[int]
    sessions: list[int]
    lost: int
    released: bool
    since: int
    tried: int
    told: float | None
    images: Tensor | None
    shown: FramesState | None


class HeldBack:
    """Holds frames in the order in which they came while the front may not send, and knows what an attack found.

    A front that stands still holds nothing back: it will never tell less.

    lost: how many were let go of for newer ones, and will never be sent. released: whether the front may send by now.
    since: the training step from which on that is so. shown: of all frames so far, those to attack the front with.
    tried, told: the training step at which an attack was tried last, and what share of the way to a copy it got.
    """

    def __init__(
        self,
        size: int,
        level: Privacy,
        *,
        seed: int = 0,
        remembered: FrameMemory | None = None,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        """size: of a frame, in pixels a side. remembered: frames of a run whose front stands still."""
        self.level, self.line = level, MOST_TOLD[level]
        self.stands_still = remembered is not None
        if remembered is None:
            remembered = FrameMemory(FRAMES, size, seed, exact=FRAMES * 3 * size**2 <= EXACT_BYTES)
        self.shown = remembered
        self.lost, self.released = 0, self.stands_still
        self.since = self.tried = 0
        self.told: float | None = None
        self._frames: deque[_Held] = deque()
        self._frame_bytes = 3 * size**2
        self._most = max(1, most_bytes // self._frame_bytes)

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def bytes_held(self) -> int:
        """What they take of memory, and of a checkpoint."""
        return len(self) * self._frame_bytes

    @property
    def waits(self) -> bool:
        """Whether a frame that comes now has to wait: for the front, or for those before it."""
        return not self.released or bool(self._frames)

    @property
    def is_enough(self) -> bool:
        """Whether there are frames enough to attack the front with."""
        return self.is_enough_of(len(self.shown))

    @staticmethod
    def is_enough_of(frames: int) -> bool:
        """Whether so many frames are enough to attack a front with."""
        return frames >= LEAST_FRAMES

    @property
    def tells_too_much(self) -> bool:
        """Whether the last attack found more than the level allows."""
        return self.told is not None and self.told > self.line

    @property
    def found(self) -> str:
        """What the last attack found, or why there was none, for people."""
        if self.told is not None:
            told, line = 100 * self.told, 100 * self.line
            return f"an attack gets {told:.0f} % of the way to its frames, and {line:.0f} % is the line"
        return "an attack is due" if self.is_enough else f"an attack needs {LEAST_FRAMES:,} that differ"

    @property
    def status(self) -> str:
        """What a person who watches has to know, empty for nothing."""
        figures = "" if self.told is None else f"leak {self.told:.2f}, line {self.line:.2f}"
        if self.stands_still:
            return f"this front tells more than --privacy {self.level} lets it: {figures}" * self.tells_too_much
        if not self.waits:
            return ""
        until = "the outbox has room" if self.released else f"the front tells little: {figures or self.found}"
        return f"{counted(len(self), 'frame')} held back until {until}"

    @property
    def why(self) -> str:
        """Why nothing is sent, and what helps, for people; empty where the front may send."""
        if self.released:
            return ""
        held = f"{counted(len(self), 'frame')} held back, and {self.found}"
        if self.told is not None:
            advice = "use fewer channels, places or bits (--bottleneck, --pool, --bits)"
        else:
            advice = "let the run go on" if self.is_enough else "show or teach it more"
        return f"nothing is sent until an attack on the front finds little enough for --privacy: {held}; {advice}"

    def show(self, batch: Batch, numbers: Sequence[int]) -> None:
        """Note frames to attack the front with. numbers: of each, in the order in which they come."""
        if not self.stands_still:
            for image, name, number in zip(batch.images, batch.names, numbers, strict=True):
                self.shown.add(name, image, batch.session, number)

    def add(self, batch: Batch) -> None:
        """Hold a batch's frames."""
        for image, name, position in zip(batch.images, batch.names, batch.positions, strict=True):
            self._frames.append(_Held(image.copy(), name, position, batch.session))
        while len(self._frames) > self._most:
            self._frames.popleft()
            self.lost += 1

    def attacked(self, told: float, step: int) -> bool:
        """Take in what an attack found at a training step; return whether the front may send what it may not before, or
        the other way round.
        """
        self.told = told
        may_send = self.stands_still or not self.tells_too_much
        if may_send == self.released:
            return False
        self.released, self.since = may_send, step
        return True

    def take(self, size: int) -> Batch | None:
        """Hold the oldest frames no more, so many at most and of one session, and return them; None for none."""
        part: list[_Held] = []
        while self._frames and len(part) < size and self._frames[0].session == (part or self._frames)[0].session:
            part.append(self._frames.popleft())
        if not part:
            return None
        return Batch(
            images=np.stack([one.image for one in part]),
            names=[one.name for one in part],
            positions=[one.position for one in part],
            session=part[0].session,
        )

    def apply(self, edit: ClassEdit) -> None:
        """Do to them what a class edit says."""
        named = ((one, relabelled(one.name, one.session, edit)) for one in self._frames)
        self._frames = deque(one._replace(name=name) for one, name in named if name is not None)
        if not self.stands_still:
            self.shown.apply(edit)

    def forget(self, numbers: Collection[int], *, before: int) -> None:
        """Hold frames of these numbers no more, and attack no front with them. before: numbers of former runs."""
        self._frames = deque(one for one in self._frames if before + one.position not in numbers)
        if not self.stands_still:
            self.shown.forget_numbers(numbers)

    def state(self) -> HeldBackState:
        """Return what a checkpoint must hold."""
        return HeldBackState(
            names=[one.name for one in self._frames],
            positions=[one.position for one in self._frames],
            sessions=[one.session for one in self._frames],
            lost=self.lost,
            released=self.released,
            since=self.since,
            tried=self.tried,
            told=self.told,
            images=torch.from_numpy(np.stack([one.image for one in self._frames])) if self._frames else None,
            shown=None if self.stands_still else self.shown.state(),
        )

    def restore(self, state: HeldBackState) -> None:
        """Go on from a state. Raises ValueError where it is of frames of another size."""
        images = [] if state.images is None else [image.copy() for image in state.images.numpy()]
        self._frames = deque(map(_Held, images, state.names, state.positions, state.sessions))
        self.lost, self.released, self.since = state.lost, state.released, state.since
        self.tried, self.told = state.tried, state.told
        if state.shown is not None:
            self.shown.restore(state.shown)
            return
        for one in [] if self.stands_still else self._frames:  # an older checkpoint has no others
            self.shown.add(one.name, one.image, one.session, one.position)
