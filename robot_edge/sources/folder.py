"""Frames from a folder of pictures with one sub-folder for each class, shuffled, for some epochs."""

from __future__ import annotations

import logging
import os
import random
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from broker.errors import SourceError
from broker.program.paths import shown
from hierarchy.runtime.command_line import SparseLog
from robot_edge.sources.encoded import MAX_BYTES, UNREADABLE, decode
from robot_edge.sources.frames import NOMINAL_RATE, Frame, Numbering
from robot_edge.sources.listing import class_of, describe, list_pictures
from robot_edge.sources.replay import Replay

# Decoded pictures that are kept for the next epoch: 20,000 of 32 pixels, 70 of 640 x 480.
MAX_KEPT_BYTES = 64_000_000

log = logging.getLogger("robot-edge")


Item = TypeVar("Item")


class ShuffledSource(Replay, ABC, Generic[Item]):
    """Shows pictures that can be read in any order, shuffled, for some epochs.

    Each picture is a scene of its own, the same in every epoch.
    """

    def __init__(
        self,
        where: str,
        pictures: Sequence[tuple[int, Item, str]],
        *,
        classes: Sequence[str] | None = None,
        epochs: int = 1,
        seed: int = 0,
    ) -> None:
        """Take (scene, picture, class name) of all there are; classes restricts them.

        where: what has the pictures, for people. Raises SourceError for a class that there is not.
        """
        known = {name for _, _, name in pictures}
        for name in classes or ():
            if name not in known:
                raise SourceError(f"{where} has no class {name!r}; it has {', '.join(sorted(known))}")
        self._pictures = [one for one in pictures if classes is None or one[2] in classes]
        self._rng = random.Random(seed)
        self._epochs_left = epochs
        self.position = 0
        self._queue: list[tuple[int, Item, str]] = []
        self._unreadable: set[int] = set()  # by scene
        self._skips = SparseLog(log)
        self.length = len(self._pictures) * epochs

    @abstractmethod
    def _read(self, item: Item) -> NDArray[np.uint8]:
        """Return the picture, (height, width, 3). Raises one of UNREADABLE."""

    @property
    def classes(self) -> frozenset[str]:
        return frozenset(name for _, _, name in self._pictures)

    @property
    def skipped(self) -> int:
        return len(self._unreadable)

    @property
    def ended(self) -> bool:
        return self.position >= self.length

    def next(self, timeout: float | None = None) -> Frame | None:
        while True:
            if not self._queue and not self._shuffle():
                return None
            scene, item, name = self._queue.pop()
            self.position += 1
            try:
                image = self._read(item)
            except UNREADABLE as error:
                self._skip(scene, item, error)
            else:
                return Frame(image=image, label=name, scene=scene, time=(self.position - 1) / NOMINAL_RATE)

    def seek(self, position: int) -> None:
        """Go on behind so many pictures, without reading them."""
        self.position = min(position, self.length)
        left = self.position
        while left and self._shuffle():
            del self._queue[max(0, len(self._queue) - left) :]
            left -= len(self._pictures) - len(self._queue)

    def _shuffle(self) -> bool:
        """Mix the pictures for the next epoch; False where there is none."""
        if not self._epochs_left:
            return False
        self._epochs_left -= 1
        self._queue = self._rng.sample(self._pictures, len(self._pictures))
        return True

    def _skip(self, scene: int, item: Item, error: Exception) -> None:
        if scene not in self._unreadable:
            self._skips.warn(f"skipping {shown(str(item))}: {shown(str(error))}")
            self._unreadable.add(scene)
        if len(self._unreadable) == len(self._pictures):
            last = f"{shown(str(item))}: {shown(str(error))}"
            raise SourceError(f"none of the {len(self._pictures)} pictures can be read; the last was {last}")


class FolderSource(ShuffledSource[str]):
    """Replays PATH/<class>/, with whatever folders are below that."""

    def __init__(
        self,
        path: Path,
        *,
        classes: Sequence[str] | None = None,
        epochs: int = 1,
        seed: int = 0,
        numbering: Numbering | None = None,
    ) -> None:
        """List the pictures; classes restricts them. Says once what is left out. Raises SourceError.

        classes: in either of the two ways in which Unicode writes an accent. numbering: of the pictures, their scenes;
        None counts them in the order of their paths.
        """
        listing = list_pictures(path)
        self.left_out = listing.left_out
        for line in (*(f"left out: {describe(one)}" for one in listing.left_out), *listing.hints):
            _say_once(f"folder {shown(path)}: {line}")
        # As text, which has its hash ready and is opened faster than a Path.
        pictures = [
            (scene, os.path.join(path, file), name) for scene, file, name in _numbered(listing.pictures, numbering)
        ]
        composed = classes and [unicodedata.normalize("NFC", name) for name in classes]
        super().__init__(shown(path), pictures, classes=composed, epochs=epochs, seed=seed)
        self._kept: dict[str, NDArray[np.uint8]] = {}
        self._room = MAX_KEPT_BYTES

    def _read(self, item: str) -> NDArray[np.uint8]:
        kept = self._kept.get(item) if self._epochs_left else self._kept.pop(item, None)
        if kept is not None:
            return kept
        image = read_picture(item)
        if self._epochs_left and image.nbytes <= self._room:
            image.flags.writeable = False  # it is given out more than once
            self._kept[item] = image
            self._room -= image.nbytes
        return image


def read_picture(path: str) -> NDArray[np.uint8]:
    """Return a picture in a file, (height, width, 3). Raises one of UNREADABLE."""
    with open(path, "rb", buffering=0) as file:  # half the time of read_bytes, for small pictures
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise ValueError(f"{size:,} bytes, limit {MAX_BYTES:,}")
        return decode(file.read())


def _numbered(pictures: Sequence[tuple[str, str]], numbering: Numbering | None) -> list[tuple[int, str, str]]:
    """Return scene, path and class name of the pictures to show, by their scenes. What is gone may be among them."""
    if numbering is None:
        return [(scene, *picture) for scene, picture in enumerate(pictures)]
    named = dict(pictures)
    if numbering.is_all:
        named = {file: named.get(file) or class_of(file) for file in numbering.numbers}
    numbers = numbering.numbers  # of what came meanwhile it has none
    return sorted((numbers[file], file, name) for file, name in named.items() if file in numbers)


@lru_cache(maxsize=1000)  # each phase, and each test, opens a folder anew
def _say_once(line: str) -> None:
    log.warning(line)
