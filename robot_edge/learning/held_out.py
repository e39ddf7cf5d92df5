"""The frames that a robot is tested on and never learns from: set apart on its way, or of a source of their own."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing

import numpy as np

from broker.errors import SourceError
from broker.wire.bounds import check_class_name
from broker.wire.messages import ClassEdit
from hierarchy.encoding import Encoding, EncodingLayout
from robot_edge.learning.batcher import Batch, Batcher
from robot_edge.learning.class_edits import ClassMemory
from robot_edge.learning.frame_memory import BYTES_OF_HALF, FrameMemory
from robot_edge.learning.framed import Framed
from robot_edge.sources.frames import FrameSource, Pixels
from robot_edge.sources.opening import open_source
from robot_edge.sources.settings import SourceOptions, SourceSettings

# Frames to test on that are set apart, or shown by a simulated camera: a percentage point of accuracy is 20 of them.
HELD_OUT_FRAMES = 2000
# What they take of memory, and of each checkpoint. Where as many as above take more they are kept as JPEG, or fewer.
HELD_OUT_MB = 32
# Added to the seed for --held-out sim:, or it would show the scenes that were trained on. Phases add their number.
HELD_OUT_SEED = 1_000_000
# Frames predicted at a time.
PREDICT_AT_ONCE = 256
# Of frames whose encodings are kept.
NO_IMAGES = np.empty((0, 1, 1, 3), np.uint8)

# The flags of --source that --held-out has its own of, and what those are called.
OWN_FLAGS, OWN_FLAG = re.compile(r"--(labels|image-topic|label-topic)\b"), r"--held-out-\1"

# Opens a source of frames to test on, of the classes named beside those of the run's phases.
OpenSource = Callable[[Sequence[str]], FrameSource]


def open_held_out(
    source: SourceSettings,
    image_size: int,
    seed: int,
    known: Sequence[str],
    *,
    check_name: Callable[[str], object] = check_class_name,
) -> FrameSource:
    """Open --held-out, with phases of their classes and those known before. check_name: as of open_source.

    Raises SourceError.
    """
    shown = list(dict.fromkeys([*known, *(name for phase in source.phase_classes for name in phase)]))
    try:
        return _open(source, image_size, seed, shown if source.phases else [], check_name)
    except SourceError:
        if not known:
            raise
        return open_held_out(
            source, image_size, seed, (), check_name=check_name
        )  # a former run knew classes that this source has not


def _options(source: SourceSettings) -> SourceOptions:
    """Return how --held-out is read: as --source is, but for what it has flags of its own for."""
    is_bag = source.held_out.startswith("bag:")
    return dataclasses.replace(
        source.options,
        rate="max",
        labels=source.held_out_labels,
        image_topic=source.held_out_image_topic or (source.options.image_topic if is_bag else ""),
        label_topic=source.held_out_label_topic or (source.options.label_topic if is_bag else ""),
    )


def _open(
    source: SourceSettings, image_size: int, seed: int, classes: list[str], check_name: Callable[[str], object]
) -> FrameSource:
    try:
        return open_source(
            source.held_out,
            _options(source),
            image_size=image_size,
            phases=[classes] if classes else [],
            images=HELD_OUT_FRAMES if source.held_out == "sim:" else 0,  # it has no end of its own
            seed=seed + HELD_OUT_SEED,
            needs_labels=True,
            check_name=check_name,
        )
    except SourceError as error:
        raise SourceError(f"--held-out: {OWN_FLAGS.sub(OWN_FLAG, str(error))}") from error


def held_out_memory(size: int, seed: int, encoding: EncodingLayout | None) -> FrameMemory:
    """Return a memory for frames to test on, of so many pixels, that stays within HELD_OUT_MB.

    encoding: what is kept beside each frame of a network that stands still, which is tested on that; None for others.
    """
    width = encoding.width if encoding else 0
    exact = HELD_OUT_FRAMES * (3 * size**2 + BYTES_OF_HALF * width) <= HELD_OUT_MB * 1e6
    frames = HELD_OUT_FRAMES if exact else min(HELD_OUT_FRAMES, FrameMemory.limit_of(HELD_OUT_MB, size, encoding))
    return FrameMemory(frames, size, seed, exact=exact, encoding=encoding)


class HeldOutFrames:
    """Yields them in batches, as often as there is a test.

    edits: returns the class edits of the run so far. opener: opens the source that they come from, anew for each test;
    None where they were set apart. see: returns what the network sees of a frame of that source.
    """

    def __init__(
        self,
        memory: ClassMemory,
        edits: Callable[[], Iterable[ClassEdit]],
        opener: OpenSource | None,
        see: Callable[[Pixels], Pixels],
    ) -> None:
        self._memory = memory
        self._edits = edits
        self._opener = opener
        self._see = see
        self._met: dict[bytes, Encoding] = {}  # of frames of the source, by what their pixels come to

    def batches(self, most: int = 0) -> Iterator[Batch]:
        """Yield them mixed, at most about so many; 0 for all. Raises SourceError."""
        if self._opener is not None:
            yield from self._of_source(self._opener, most)
            return
        if self._memory.held_out.keeps_encodings:
            yield from self._encoded(most or HELD_OUT_FRAMES)
            return
        frames = self._memory.held_out.draw(most or HELD_OUT_FRAMES)
        for start in range(0, len(frames), PREDICT_AT_ONCE):
            part = frames[start : start + PREDICT_AT_ONCE]
            yield Batch(images=np.stack([one.image for one in part]), names=[one.name for one in part], positions=[])

    def batches_of_known_classes(self, most: int) -> Iterator[Batch]:
        """Yield those of classes that were learned by now. Raises SourceError."""
        for batch in self.batches(most):
            yield from _only(batch, {name: name for name in self._memory.classes})

    def _encoded(self, most: int) -> Iterator[Batch]:
        names, encoding = self._memory.held_out.draw_encodings(most)
        for start in range(0, len(names), PREDICT_AT_ONCE):
            rows = range(start, min(start + PREDICT_AT_ONCE, len(names)))
            yield Batch(
                images=NO_IMAGES,
                names=names[rows.start : rows.stop],
                positions=[],
                encodings=[encoding[row : row + 1] for row in rows],
            )

    def _of_source(self, opener: OpenSource, most: int) -> Iterator[Batch]:
        with closing(opener(self._memory.classes)) as source:
            size = self._memory.held_out.size
            nothing = FrameMemory(0, size, 0)
            frames = Framed(source, self._see)
            reader = Batcher(source=frames, size=PREDICT_AT_ONCE, image_size=size, held_out_every=0, held_out=nothing)
            while (not most or reader.frames_read < most) and (batch := reader.next()) is not None:
                for known in _only(batch, self._called_now(batch)):
                    yield self._encoded_once(known) if self._memory.held_out.keeps_encodings else known

    def _encoded_once(self, batch: Batch) -> Batch:
        """Return a batch with encodings; those of a source that is read for each test are computed for the first."""
        marks = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in batch.images]
        new = [row for row, mark in enumerate(marks) if mark not in self._met]
        encoding = self._memory.trainer.encode(batch.images[new]) if new else None
        found = [self._met.get(mark) for mark in marks]
        for place, row in enumerate(new):
            assert encoding
            found[row] = encoding[place : place + 1]
            if len(self._met) < HELD_OUT_FRAMES:
                self._met[marks[row]] = encoding[place : place + 1]
        return dataclasses.replace(batch, encodings=found)

    def _called_now(self, batch: Batch) -> dict[str, str]:
        """Return what the labels of --held-out, which knows nothing of class edits, are called by now."""
        edits = list(self._edits())
        called = {name: self._memory.called_now(name, edits) for name in set(batch.names)}
        return {name: now for name, now in called.items() if now is not None}


def _only(batch: Batch, names: dict[str, str]) -> Iterator[Batch]:
    """Yield what is left of a batch by those names; nothing where that is nothing."""
    rows = [row for row, name in enumerate(batch.names) if name in names]
    if rows:
        yield Batch(
            images=batch.images[rows] if len(batch.images) else batch.images,
            names=[names[batch.names[row]] for row in rows],
            positions=[],
            encodings=[batch.encodings[row] for row in rows] if batch.encodings else [],
        )
