"""Frames to batches: held-out scenes set apart, the rest in batches. Pure but for the source it reads."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from broker.errors import MalformedMessage, SourceError
from broker.wire.bounds import check_class_name
from broker.wire.messages import ClassEdit
from hierarchy.encoding import Encoding
from robot_edge.learning.frame_memory import FrameMemory
from robot_edge.sources.encoded import encode_jpeg
from robot_edge.sources.frames import Frame, Frames, Pixels, relabelled

# One frame in so many is also encoded as JPEG, at what is Pillow's default, to know what sending pictures would cost.
JPEG_SAMPLED_EVERY, USUAL_QUALITY = 50, 75
# So many sizes give the mean to a percent or two.
JPEG_SAMPLES = 400


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Labelled frames of the robot's image size: uint8 (N, H, W, 3) and a class name each.

    positions: how far the source had been read with each of them. session: that all of them are from, 0 for none.
    phase: that all of them are from. encodings: of each frame, by a network that stands still, None where it was not
    encoded yet; or none at all. Held-out frames of such a network have encodings and no images.
    """

    images: Pixels
    names: list[str]
    positions: list[int]
    session: int = 0
    phase: int = 0
    encodings: list[Encoding | None] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, eq=False)
class BatcherState:
    """Where a batcher stands; the source and the held-out frames have states of their own.

    marks: int64, of held-out pictures that may come again. images: uint8 (N, H, W, 3), of a batch that is not full yet,
    or not learned yet: it is the next one to come.
    """

    frames_read: int
    unlabelled: int
    jpeg_sizes: list[int]
    taught: list[str]
    spared: list[tuple[int, str]]
    names: list[str]
    positions: list[int]
    session: int
    phase: int
    marks: Tensor
    images: Tensor | None


@dataclass
class Batcher:
    """Reads a source batch by batch. Its frames come as the network sees them, uint8 (image_size, image_size, 3).

    A batch that was given out stays in ``state`` until ``learned`` is called, or the next one is asked for: its frames
    may not come again.
    held_out_every: one scene in so many goes to ``held_out`` and is never trained on; 0 for none. A class is not tested
    before it is learned: the scene that shows it first is trained on.
    encode: of a network that stands still; what it makes of a held-out frame is kept beside it. check_name: raises
    MalformedMessage for what no class of this robot may be called.
    """

    source: Frames
    size: int
    image_size: int
    held_out_every: int
    held_out: FrameMemory
    encode: Callable[[Pixels], Encoding] | None = None
    check_name: Callable[[str], object] = check_class_name
    frames_read: int = 0
    unlabelled: int = 0
    _jpeg_sizes: list[int] = field(default_factory=list)
    _held_out_met: set[int] = field(default_factory=set)
    _taught: set[str] = field(default_factory=set)  # classes that frames to train on came of
    # Scenes that would be held out, had they not shown the class first: no twin of theirs is held out later, either.
    _spared: set[tuple[int, str]] = field(default_factory=set)
    # Of the batch that is not full yet, or is given out and not learned yet.
    _images: list[Pixels] = field(default_factory=list)
    _names: list[str] = field(default_factory=list)
    _positions: list[int] = field(default_factory=list)
    _encodings: list[Encoding | None] = field(default_factory=list)
    _session: int = 0
    _phase: int = 0
    _is_in_hand: bool = False  # whether that batch is given out
    _ahead: Frame | None = None  # of another session or phase than that batch

    @property
    def ended(self) -> bool:
        return self.source.ended and not self.filled and self._ahead is None

    @property
    def position(self) -> int:
        """How far the source is read, but for a frame that was only looked at: whoever goes on there loses none."""
        return self.source.position - (self._ahead is not None)

    @property
    def filled(self) -> int:
        """How many frames the batch that is not full yet has."""
        return 0 if self._is_in_hand else len(self._images)

    def next(self, timeout: float | None = None) -> Batch | None:
        """Return the next batch, or a smaller one at the end of the source; None after it, or where a batch does not
        get full within about so many seconds: its frames are kept for the next call. Raises SourceError.
        """
        self.learned()
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while len(self._images) < self.size:
            frame, self._ahead = self._ahead, None
            if frame is None:
                frame = self.source.next(None if timeout is None else max(0.0, deadline - time.monotonic()))
            if frame is None and not self.source.ended:
                return None
            if frame is None:
                break
            if (
                self._images
                and frame.label is not None
                and (frame.session, frame.phase) != (self._session, self._phase)
            ):
                self._ahead = frame
                break
            if frame.label is not None and frame.label not in self._taught:
                self._check(frame.label)
            image = frame.image
            self._measure_jpeg(image)
            self.frames_read += 1
            if frame.label is None:
                self.unlabelled += 1
            elif self._is_held_out(frame.scene, frame.label, image):
                if not self._is_met_again(image):
                    self._hold_out(frame, image)
            else:
                self._taught.add(frame.label)
                self._images.append(image)
                self._names.append(frame.label)
                self._positions.append(self.source.position)
                self._encodings.append(frame.encoding)
                self._session, self._phase = frame.session, frame.phase
        return self.finish()

    def finish(self) -> Batch | None:
        """Return the batch as full as it is; None where it is empty."""
        if not self.filled:
            return None
        self._is_in_hand = True
        return Batch(
            images=np.stack(self._images),
            names=self._names,
            positions=self._positions,
            session=self._session,
            phase=self._phase,
            encodings=self._encodings,
        )

    def learned(self) -> None:
        """Let go of the batch that was given out, if there is one: what came of it is kept elsewhere."""
        if self._is_in_hand:
            self._is_in_hand = False
            self._images, self._names, self._positions, self._encodings = [], [], [], []

    def state(self) -> BatcherState:
        return BatcherState(
            frames_read=self.frames_read,
            unlabelled=self.unlabelled,
            jpeg_sizes=self._jpeg_sizes,
            taught=sorted(self._taught),
            spared=sorted(self._spared),
            names=self._names,
            positions=self._positions,
            session=self._session,
            phase=self._phase,
            marks=torch.tensor(sorted(self._held_out_met), dtype=torch.int64),
            images=torch.from_numpy(np.stack(self._images)) if self._images else None,
        )

    def restore(self, state: BatcherState) -> None:
        self.frames_read, self.unlabelled = state.frames_read, state.unlabelled
        self._jpeg_sizes = list(state.jpeg_sizes)
        self._held_out_met = set(state.marks.tolist())
        self.inherit(state)
        # A view would keep its whole file.
        self._images = [] if state.images is None else [image.copy() for image in state.images.numpy()]
        self._names, self._positions = list(state.names), list(state.positions)
        self._encodings = [None] * len(self._names)
        self._session, self._phase = state.session, state.phase

    def inherit(self, state: BatcherState) -> None:
        """Begin with what the run of that state had taught: what it trained on is nothing to test with."""
        self._taught, self._spared = set(state.taught), set(state.spared)

    def apply(self, edit: ClassEdit) -> None:
        """Do to the batch that is not full yet, or not learned yet, what a class edit says, and to what is known of
        classes.
        """
        if self._ahead is not None:
            label = relabelled(self._ahead.label, self._ahead.session, edit)
            self._ahead = replace(self._ahead, label=label)
        if edit.change == "rename":
            self._names = [edit.to if name == edit.name else name for name in self._names]
            self._taught = {edit.to if name == edit.name else name for name in self._taught}
            self._spared |= {(scene, edit.to) for scene, name in self._spared if name == edit.name}
            return
        self._taught.discard(edit.name)
        gone = edit.change == "undo" and self._session == edit.session
        kept = [row for row, name in enumerate(self._names) if name != edit.name and not gone]
        self._images = [self._images[row] for row in kept]
        self._names = [self._names[row] for row in kept]
        self._positions = [self._positions[row] for row in kept]
        self._encodings = [self._encodings[row] for row in kept]

    @property
    def progress(self) -> float | None:
        """The share of the source that is read; None where it has no end."""
        length = self.source.length
        return min(1.0, self.frames_read / length) if length else None

    @property
    def raw_bytes_per_image(self) -> int:
        """What a frame of the robot's image size takes, uncompressed."""
        return 3 * self.image_size**2

    @property
    def jpeg_bytes_per_image(self) -> float | None:
        """What a frame of the robot's image size would cost as JPEG; None before the first."""
        return sum(self._jpeg_sizes) / len(self._jpeg_sizes) if self._jpeg_sizes else None

    def _check(self, name: str) -> None:
        """Raise SourceError for a name that may not be, before anything is learned of it."""
        try:
            self.check_name(name)
        except MalformedMessage as error:
            raise SourceError(str(error)) from error

    def _hold_out(self, frame: Frame, image: Pixels) -> None:
        assert frame.label is not None
        encoding = frame.encoding
        if self.encode and encoding is None:
            encoding = self.encode(image[None])
        self.held_out.add(frame.label, image, frame.session, encoding=encoding)

    def _is_held_out(self, scene: int, name: str, image: Pixels) -> bool:
        if not self.held_out_every or scene % self.held_out_every:
            return False
        # A class that was renamed or forgotten comes again in the next epoch, with pictures that were held out before.
        if name not in self._taught and _mark(image) not in self._held_out_met:
            self._spared.add((scene, name))
        return (scene, name) not in self._spared

    def _is_met_again(self, image: Pixels) -> bool:
        """Whether a held-out picture came in a former epoch or phase, which a stream without an end does not have."""
        if self.source.length is None:
            return False
        mark = _mark(image)
        known = mark in self._held_out_met
        self._held_out_met.add(mark)
        return known

    def _measure_jpeg(self, image: Pixels) -> None:
        if self.frames_read % JPEG_SAMPLED_EVERY == 0 and len(self._jpeg_sizes) < JPEG_SAMPLES:
            self._jpeg_sizes.append(len(encode_jpeg(image, USUAL_QUALITY, dense=False)))


def _mark(image: Pixels) -> int:
    # Python's own hash is salted, so it would not know a picture again in the next process.
    digest = hashlib.blake2b(image.tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
