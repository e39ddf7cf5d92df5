"""Frames that were learned from and are not sent yet: what the network encodes of them would still show them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from broker.program.plain_text import counted
from broker.wire.messages import ClassEdit
from robot_edge.learning.batcher import Batch
from robot_edge.sources.frames import Pixels, relabelled

# What they take of memory, and of each checkpoint, at most: 21,800 of 32 pixels.
MOST_BYTES = 64_000_000
# With fewer an attack would find little for want of frames, not because there is little to find.
LEAST_FRAMES = 320


class _Held(NamedTuple):
    image: Pixels
    name: str
    position: int
    session: int


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldBackState:
    """All that is held. images: uint8 (N, H, W, 3), None for none. The rest is as of `HeldBack`."""

    names: list[str]
    positions: list[int]
    sessions: list[int]
    lost: int
    released: bool
    tried: int
    told: float | None
    images: Tensor | None


class HeldBack:
    """Holds frames in the order in which they came, until they are released.

    lost: how many were let go of for newer ones, and will never be sent. released: whether the front may send by now.
    tried, told: the training step at which an attack was tried last, and what share of the way to a copy it got.
    """

    def __init__(self, size: int, most_bytes: int = MOST_BYTES) -> None:
        """size: of a frame, in pixels a side."""
        self.lost, self.released = 0, False
        self.tried = 0
        self.told: float | None = None
        self._frames: deque[_Held] = deque()
        self._most = max(1, most_bytes // (3 * size**2))

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def is_enough(self) -> bool:
        """Whether there are frames enough to attack the front with."""
        return len(self) >= LEAST_FRAMES

    @property
    def found(self) -> str:
        """What the last attack found, or why there was none, for people."""
        if self.told is not None:
            return f"an attack gets {100 * self.told:.0f} % of the way to them"
        return "an attack is due" if self.is_enough else f"an attack needs {LEAST_FRAMES:,}"

    @property
    def why(self) -> str:
        """Why nothing has been sent, and what helps, for people; empty where the front may send."""
        if self.released:
            return ""
        held = f"{counted(len(self), 'frame')} held back, and {self.found}"
        if self.told is not None:
            advice = "use fewer channels, places or bits (--bottleneck, --pool, --bits)"
        else:
            advice = "let the run go on" if self.is_enough else "show or teach it more"
        return f"nothing is sent until an attack on the front finds little enough for --privacy: {held}; {advice}"

    def add(self, batch: Batch) -> None:
        """Hold a batch's frames."""
        for image, name, position in zip(batch.images, batch.names, batch.positions, strict=True):
            self._frames.append(_Held(image.copy(), name, position, batch.session))
        while len(self._frames) > self._most:
            self._frames.popleft()
            self.lost += 1

    def newest(self, count: int) -> Pixels:
        """Return the newest frames, uint8 (N, H, W, 3), so many at most."""
        return np.stack([one.image for one in islice(reversed(self._frames), count)])

    def release(self, size: int) -> Iterator[Batch]:
        """Hold nothing from now on. Yield all frames, in batches of that size at most, each of one session."""
        self.released = True
        frames, self._frames = self._frames, deque()
        for session, its in groupby(frames, lambda one: one.session):
            while part := list(islice(its, size)):
                yield Batch(
                    images=np.stack([one.image for one in part]),
                    names=[one.name for one in part],
                    positions=[one.position for one in part],
                    session=session,
                )

    def apply(self, edit: ClassEdit) -> None:
        """Do to them what a class edit says."""
        named = ((one, relabelled(one.name, one.session, edit)) for one in self._frames)
        self._frames = deque(one._replace(name=name) for one, name in named if name is not None)

    def state(self) -> HeldBackState:
        """Return what a checkpoint must hold."""
        return HeldBackState(
            names=[one.name for one in self._frames],
            positions=[one.position for one in self._frames],
            sessions=[one.session for one in self._frames],
            lost=self.lost,
            released=self.released,
            tried=self.tried,
            told=self.told,
            images=torch.from_numpy(np.stack([one.image for one in self._frames])) if self._frames else None,
        )

    def restore(self, state: HeldBackState) -> None:
        """Go on from a state."""
        images = [] if state.images is None else [image.copy() for image in state.images.numpy()]
        self._frames = deque(map(_Held, images, state.names, state.positions, state.sessions))
        self.lost, self.released = state.lost, state.released
        self.tried, self.told = state.tried, state.told
