"""Frames to rehearse, or to test on: a bounded, class-balanced memory of JPEGs that lie in one block."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from broker.errors import ConfigError
from broker.wire.messages import ClassEdit
from hierarchy.encoding import Encoding, EncodingLayout
from hierarchy.rehearsal import BalancedMemory
from robot_edge.learning.frame_codec import ExactCodec, FrameCodec
from robot_edge.sources.frames import Pixels

# What is known of each frame: the session it is from, its number, which head its JPEG has, and its bytes.
COLUMNS = ("session", "sample", "head", "length")
SESSION, SAMPLE = 0, 1
BYTES_OF_HALF = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class FramesState:
    """All that a memory needs to go on.

    size, exact: as of `FrameMemory`. room: bytes of the block that a frame has. heads: hexadecimal, of the JPEGs.
    random: of the random numbers. tensors: none where no frame is kept; else frames, uint8 (slots, room), a view of the
    block, and of each frame that is kept its slot and its label, int64 (N,), and its COLUMNS, int64 (N, columns). Of a
    network that stands still also encodings, float16 (slots, width).
    """

    size: int
    exact: bool
    room: int
    heads: list[str]
    classes: list[str]
    random: list[Any]
    tensors: dict[str, Tensor]


class KeptFrame(NamedTuple):
    """A frame out of memory: its class, uint8 (size, size, 3), and the number under which its activations go up."""

    name: str
    image: Pixels
    sample: int


class FrameMemory:
    """A BalancedMemory of frames, uint8 (size, size, 3), each in a twelfth of its bytes.

    exact: as they are, to test on: an accuracy on JPEGs is not that on a camera's frames. encoding: what is kept beside
    each frame of what a network that stands still makes of it.

    The frames lie in one block, which is reserved at the start and filled as they come. As arrays of their own they
    would come and go between those of the training steps, and a checkpoint would stack them all into one more: the
    heap fell to pieces of that, and a robot's resident memory grew while what it used stayed the same.
    """

    def __init__(
        self, limit: int, size: int, seed: int, *, exact: bool = False, encoding: EncodingLayout | None = None
    ) -> None:
        self.size = size
        self._exact = exact
        self._codec = ExactCodec(size) if exact else FrameCodec(size)
        self._slots: BalancedMemory[int] = BalancedMemory(limit, seed)
        # One more than may stay, for a new frame comes in before it is known which one goes.
        slots = max(0, limit) + 1
        self._block = np.zeros((slots, self._codec.room), np.uint8)
        self._columns = np.zeros((slots, len(COLUMNS)), np.int64)
        self._layout = encoding
        self._encodings = np.zeros((slots, encoding.width if encoding else 0), np.float16)
        self._free = list(reversed(range(slots)))  # the last one is the next to be filled

    @staticmethod
    def limit_of(megabytes: float, size: int, encoding: EncodingLayout | None = None) -> int:
        """Return how many frames of that size, in pixels, fit into so many megabytes, with their encodings.

        Raises ConfigError where the machine has no such memory.
        """
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6
        if megabytes > installed:
            raise ConfigError(f"--rehearsal-mb {megabytes:g}: this machine has {installed:,.0f} MB of memory; use less")
        return int(megabytes * 1e6 / (FrameCodec(size).room + (BYTES_OF_HALF * encoding.width if encoding else 0)))

    def __len__(self) -> int:
        return len(self._slots)

    def add(
        self, name: str, frame: Pixels, session: int = 0, sample: int = 0, encoding: Encoding | None = None
    ) -> None:
        """Keep a copy of a frame of the class of that name.

        session: of teaching, which it is from; 0 for none. sample: its number, 0 for one that is never sent. encoding:
        of this frame, where the memory keeps any.
        """
        slot = self._free.pop()
        gone = self._slots.add(name, slot)
        if gone is not None:
            self._let_go(gone)
        if gone != slot:
            head, body = self._codec.encode(frame)
            self._block[slot, : len(body)] = np.frombuffer(body, np.uint8)
            self._columns[slot] = session, sample, head, len(body)
            if self._layout:
                assert encoding is not None
                self._encodings[slot] = self._layout.row(encoding)

    @property
    def keeps_encodings(self) -> bool:
        """Whether there is one beside each frame."""
        return self._layout is not None

    def encodings(self) -> tuple[list[str], Encoding]:
        """Return the class of each frame and all their encodings."""
        return self._encoded(self._slots.all())

    def draw_encodings(self, count: int) -> tuple[list[str], Encoding]:
        """Draw as `draw` does, and return classes and encodings."""
        return self._encoded(self._slots.draw(count))

    def _encoded(self, chosen: list[tuple[str, int]]) -> tuple[list[str], Encoding]:
        assert self._layout
        return [name for name, _ in chosen], self._layout.encoding(self._encodings[[slot for _, slot in chosen]])

    def numbers(self) -> list[int]:
        """Return the number of each frame, in the order of ``encodings``."""
        return [int(self._columns[slot, SAMPLE]) for _, slot in self._slots.all()]

    def numbered(self, numbers: Collection[int]) -> Iterator[KeptFrame]:
        """Yield the frames of these numbers."""
        return self._frames([one for one in self._slots.all() if self._columns[one[1], SAMPLE] in numbers])

    def counts(self) -> dict[str, int]:
        """Return how many frames there are of each class."""
        return self._slots.counts()

    def has_other(self, name: str, session: int) -> bool:
        """Whether there is a frame of that class from another session."""
        return any(its == name and self._columns[slot, SESSION] != session for its, slot in self._slots.all())

    def apply(self, edit: ClassEdit) -> None:
        """Do to the frames what a class edit says."""
        if edit.change == "rename":
            self._slots.rename(edit.name, edit.to)
            return
        if edit.change == "undo":
            self._forget({slot for _, slot in self._slots.all() if self._columns[slot, SESSION] == edit.session})
        if edit.name:
            self.forget_class(edit.name)

    def forget_class(self, name: str) -> None:
        """Give up all frames of a class."""
        self._forget({slot for its, slot in self._slots.all() if its == name})

    def forget_numbers(self, numbers: Collection[int]) -> None:
        """Give up the frames of these numbers."""
        self._forget({slot for _, slot in self._slots.all() if self._columns[slot, SAMPLE] in numbers})

    def _forget(self, slots: set[int]) -> None:
        self._slots.forget(lambda slot: slot in slots)
        for slot in sorted(slots, reverse=True):
            self._let_go(slot)

    def _let_go(self, slot: int) -> None:
        self._block[slot] = self._encodings[slot] = 0  # nothing is left of it in the next checkpoint
        self._free.append(slot)

    def draw(self, count: int) -> list[KeptFrame]:
        """Return ``count`` different frames, or all where there are fewer: as BalancedMemory's."""
        return list(self.draw_one_by_one(count))

    def draw_one_by_one(self, count: int) -> Iterator[KeptFrame]:
        """Draw now and decode each when it is asked for, where all at once would take twelve times the memory."""
        return self._frames(self._slots.draw(count))

    def all(self) -> Iterator[KeptFrame]:
        """Yield every frame."""
        return self._frames(self._slots.all())

    def in_order(self, most: int) -> Iterator[KeptFrame]:
        """Yield frames by number, in the order in which they came: so many at most, of early and late ones."""
        every = sorted(self._slots.all(), key=lambda one: int(self._columns[one[1], SAMPLE]))
        count = min(most, len(every))
        return self._frames([every[row * len(every) // count] for row in range(count)])

    def _frames(self, chosen: list[tuple[str, int]]) -> Iterator[KeptFrame]:
        for name, slot in chosen:
            yield KeptFrame(name, self._frame(slot), int(self._columns[slot, SAMPLE]))

    def _frame(self, slot: int) -> Pixels:
        _, _, head, length = self._columns[slot].tolist()
        return self._codec.decode(head, self._block[slot, :length].tobytes())

    def one_of_each(self) -> dict[str, Pixels]:
        """Return one frame of each class; draws nothing, so what is drawn later stays the same."""
        first = dict(reversed(self._slots.all()))
        return {name: self._frame(slot) for name, slot in first.items()}

    def state(self) -> FramesState:
        held = self._slots.all()
        classes, slots = list(dict.fromkeys(name for name, _ in held)), [slot for _, slot in held]
        tensors = {
            "frames": torch.from_numpy(self._block[: max(slots, default=-1) + 1]),
            "slots": torch.tensor(slots),
            "columns": torch.from_numpy(self._columns[slots]),
            "labels": torch.tensor([classes.index(name) for name, _ in held]),
        }
        if self._layout:
            tensors["encodings"] = torch.from_numpy(self._encodings[: len(tensors["frames"])])
        return FramesState(
            size=self.size,
            exact=self._exact,
            room=self._codec.room,
            heads=[head.hex() for head in self._codec.heads],
            classes=classes,
            random=self._slots.random_state(),
            tensors=tensors if held else {},
        )

    def restore(self, state: FramesState) -> None:
        """Go on from a state. Raises ValueError where it is of frames of another size, or of one that keeps them so."""
        if (state.size, state.exact, state.room) != (self.size, self._exact, self._codec.room):
            raise ValueError(f"these frames are {state.size} pixels wide, not {self.size}, or kept otherwise")
        tensors, slots, names = state.tensors, [], []
        self._codec.heads = [bytes.fromhex(head) for head in state.heads]
        if tensors:
            slots, names = tensors["slots"].tolist(), [state.classes[label] for label in tensors["labels"].tolist()]
            self._block[: len(tensors["frames"])] = tensors["frames"].numpy()
            self._columns[slots] = tensors["columns"].numpy()
            if self._layout:
                self._take_encodings(tensors.get("encodings"))
        self._slots.restore(zip(names, slots, strict=True), state.random)
        self._free = sorted(set(range(len(self._block))) - set(slots), reverse=True)

    def _take_encodings(self, saved: Tensor | None) -> None:
        width = self._encodings.shape[1]
        if saved is None or saved.shape[1] != width:
            raise ValueError(f"these frames have no encodings of {width} numbers beside them")
        self._encodings[: len(saved)] = saved.numpy()


def encodings_in(state: FramesState, encoding: EncodingLayout) -> tuple[list[str], Encoding]:
    """Return the class of each frame of a memory's state, and all their encodings. Raises ValueError as restore."""
    slots = len(state.tensors.get("frames", ()))
    memory = FrameMemory(slots, state.size, 0, exact=state.exact, encoding=encoding)
    memory.restore(state)
    return memory.encodings()


def frames_in(state: FramesState) -> Iterator[KeptFrame]:
    """Yield the frames of a memory's state."""
    memory = FrameMemory(len(state.tensors.get("frames", ())), state.size, 0, exact=state.exact)
    memory.restore(state)
    return memory.all()
