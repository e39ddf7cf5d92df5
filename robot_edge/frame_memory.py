"""Frames to rehearse, or to test on: a bounded, class-balanced memory whose pixels lie in one block."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hierarchy.rehearsal import BalancedMemory
from robot_edge.frames import Pixels


class FrameMemory:
    """A BalancedMemory of frames, uint8 (size, size, 3).

    The frames lie in one block, which is reserved at the start and filled as they come. As arrays of their own they
    would come and go between those of the training steps, and a checkpoint would stack them all into one more: the
    heap fell to pieces of that, and a robot's resident memory grew while what it used stayed the same.
    """

    def __init__(self, limit: int, size: int, seed: int) -> None:
        self._slots: BalancedMemory[int] = BalancedMemory(limit, seed)
        # One more than may stay, for a new frame comes in before it is known which one goes.
        self._block = np.empty((max(0, limit) + 1, size, size, 3), np.uint8)
        self._free = 0  # where the next frame goes

    def __len__(self) -> int:
        return len(self._slots)

    def add(self, name: str, frame: Pixels) -> None:
        """Keep a copy of a frame of the class of that name."""
        self._block[self._free] = frame
        gone = self._slots.add(name, self._free)
        self._free = len(self._slots) if gone is None else gone

    def draw(self, count: int) -> list[tuple[str, Pixels]]:
        """Return ``count`` different frames with their class names, or all where there are fewer: as BalancedMemory's.

        The frames are views, good until the next `add`.
        """
        return [(name, self._block[slot]) for name, slot in self._slots.draw(count)]

    def all(self) -> list[tuple[str, Pixels]]:
        """Return every frame with its class name; the frames are views, good until the next `add`."""
        return [(name, self._block[slot]) for name, slot in self._slots.all()]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a checkpoint must hold, and what goes into its JSON.

        The tensors: frames, uint8 (slots, size, size, 3), a view of the block; and of each frame that is kept its slot
        and its label, int64 (N,).
        """
        held = self._slots.all()
        classes = list(dict.fromkeys(name for name, _ in held))
        about = {"classes": classes, "random": self._slots.random_state()}
        if not held:
            return {}, about
        slots = [slot for _, slot in held]
        return {
            "frames": torch.from_numpy(self._block[: max(slots) + 1]),
            "slots": torch.tensor(slots),
            "labels": torch.tensor([classes.index(name) for name, _ in held]),
        }, about

    def restore(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Go on from a state. Raises ValueError where it is of frames of another size."""
        slots = tensors["slots"].tolist() if tensors else []
        names = [about["classes"][label] for label in tensors["labels"].tolist()] if tensors else []
        if tensors:
            self._block[: len(tensors["frames"])] = tensors["frames"].numpy()
        self._slots.restore(zip(names, slots, strict=True), about["random"])
        self._free = min(set(range(len(slots) + 1)) - set(slots))
