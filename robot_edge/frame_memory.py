"""Frames to rehearse, or to test on: a bounded, class-balanced memory whose pixels lie in one block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hierarchy.rehearsal import BalancedMemory
from robot_edge.frames import Pixels


class KeptFrame(NamedTuple):
    """A frame in memory: its class, uint8 (size, size, 3), and the number under which its activations go up.

    The pixels are a view, good until the next `add`.
    """

    name: str
    image: Pixels
    sample: int


class FrameMemory:
    """A BalancedMemory of frames, uint8 (size, size, 3).

    The frames lie in one block, which is reserved at the start and filled as they come. As arrays of their own they
    would come and go between those of the training steps, and a checkpoint would stack them all into one more: the
    heap fell to pieces of that, and a robot's resident memory grew while what it used stayed the same.
    """

    def __init__(self, limit: int, size: int, seed: int) -> None:
        self.size = size
        self._slots: BalancedMemory[int] = BalancedMemory(limit, seed)
        # One more than may stay, for a new frame comes in before it is known which one goes.
        slots = max(0, limit) + 1
        self._block = np.empty((slots, size, size, 3), np.uint8)
        self._sessions = np.zeros(slots, np.int64)
        self._samples = np.zeros(slots, np.int64)
        self._free = list(reversed(range(slots)))  # the last one is the next to be filled

    def __len__(self) -> int:
        return len(self._slots)

    def add(self, name: str, frame: Pixels, session: int = 0, sample: int = 0) -> None:
        """Keep a copy of a frame of the class of that name.

        session: of teaching, which it is from; 0 for none. sample: its number, 0 for one that is never sent.
        """
        slot = self._free.pop()
        self._block[slot] = frame
        self._sessions[slot] = session
        self._samples[slot] = sample
        gone = self._slots.add(name, slot)
        if gone is not None:
            self._free.append(gone)

    def counts(self) -> dict[str, int]:
        """Return how many frames there are of each class."""
        return self._slots.counts()

    def has_other(self, name: str, session: int) -> bool:
        """Whether there is a frame of that class from another session."""
        return any(its == name and self._sessions[slot] != session for its, slot in self._slots.all())

    def rename(self, old: str, new: str) -> None:
        """Give a class another name, which may be that of another class."""
        self._slots.rename(old, new)

    def forget_class(self, name: str) -> None:
        """Give up all frames of a class."""
        self._forget({slot for its, slot in self._slots.all() if its == name})

    def forget_session(self, session: int) -> None:
        """Give up all frames from a session."""
        self._forget({slot for _, slot in self._slots.all() if self._sessions[slot] == session})

    def _forget(self, slots: set[int]) -> None:
        self._slots.forget(lambda slot: slot in slots)
        for slot in slots:
            self._block[slot] = 0  # nothing is left of it in the next checkpoint
        self._free.extend(sorted(slots, reverse=True))

    def draw(self, count: int) -> list[KeptFrame]:
        """Return ``count`` different frames, or all where there are fewer: as BalancedMemory's."""
        return self._frames(self._slots.draw(count))

    def all(self) -> list[KeptFrame]:
        """Return every frame."""
        return self._frames(self._slots.all())

    def _frames(self, chosen: list[tuple[str, int]]) -> list[KeptFrame]:
        return [KeptFrame(name, self._block[slot], int(self._samples[slot])) for name, slot in chosen]

    def one_of_each(self) -> dict[str, Pixels]:
        """Return a copy of one frame of each class; draws nothing, so what is drawn later stays the same."""
        first = dict(reversed(self._slots.all()))
        return {name: self._block[slot].copy() for name, slot in first.items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a checkpoint must hold, and what goes into its JSON.

        The tensors: frames, uint8 (slots, size, size, 3), a view of the block; and of each frame that is kept its
        slot, its session, its number and its label, int64 (N,).
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
            "sessions": torch.from_numpy(self._sessions[slots]),
            "samples": torch.from_numpy(self._samples[slots]),
            "labels": torch.tensor([classes.index(name) for name, _ in held]),
        }, about

    def restore(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Go on from a state. Raises ValueError where it is of frames of another size."""
        slots = tensors["slots"].tolist() if tensors else []
        names = _names(tensors, about)
        if tensors:
            self._block[: len(tensors["frames"])] = tensors["frames"].numpy()
            self._sessions[slots] = tensors["sessions"].numpy()
            self._samples[slots] = tensors["samples"].numpy()
        self._slots.restore(zip(names, slots, strict=True), about["random"])
        self._free = sorted(set(range(len(self._block))) - set(slots), reverse=True)


def frames_in(tensors: dict[str, Tensor], about: dict[str, Any]) -> Iterator[tuple[str, Pixels]]:
    """Yield the frames of a memory's state, uint8 (size, size, 3), with their class names."""
    for name, slot in zip(_names(tensors, about), tensors.get("slots", ()), strict=True):
        yield name, tensors["frames"][int(slot)].numpy()


def _names(tensors: dict[str, Tensor], about: dict[str, Any]) -> list[str]:
    return [about["classes"][label] for label in tensors["labels"].tolist()] if tensors else []
