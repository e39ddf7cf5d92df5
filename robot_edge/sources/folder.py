"""Frames from a folder of pictures with one sub-folder for each class, shuffled, for some epochs."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from broker.codec import check_class_name
from broker.errors import MalformedMessage, SourceError
from robot_edge.frames import Frame

SUFFIXES = {".jpg", ".jpeg", ".png"}
# Pillow's other decoders, of which it has forty, get no chance at a file of unknown origin.
FORMATS = ("JPEG", "PNG")

log = logging.getLogger("robot-edge")


class FolderSource:
    """Replays PATH/<class>/*.jpg|jpeg|png. Each picture is a scene of its own, the same in every epoch."""

    def __init__(self, path: Path, *, classes: Sequence[str] | None = None, epochs: int = 1, seed: int = 0) -> None:
        """List the pictures; classes restricts them. Raises SourceError where there are none."""
        pictures = list_pictures(path)
        known = {name for _, name in pictures}
        for name in classes or ():
            if name not in known:
                raise SourceError(f"{path} has no class {name!r}; it has {', '.join(sorted(known))}")
        # Numbered before the choice of classes, so that a picture is the same scene in whichever phase it comes.
        numbered = [(scene, *picture) for scene, picture in enumerate(pictures)]
        self._pictures = [one for one in numbered if classes is None or one[2] in classes]
        self._rng = random.Random(seed)
        self._epochs_left = epochs
        self.position = 0
        self._queue: list[tuple[int, Path, str]] = []
        self._unreadable: set[Path] = set()
        self.length = len(self._pictures) * epochs

    @property
    def skipped(self) -> int:
        """How many pictures could not be read."""
        return len(self._unreadable)

    def next(self) -> Frame | None:
        """Return the next picture that can be read; None after the last epoch."""
        while True:
            if not self._queue and not self._shuffle():
                return None
            scene, path, name = self._queue.pop()
            self.position += 1
            image = self._read(path)
            if image is not None:
                return Frame(image=image, label=name, scene=scene)
            if len(self._unreadable) == len(self._pictures):
                raise SourceError(f"none of the {len(self._pictures)} pictures can be read; the last was {path}")

    def seek(self, position: int) -> None:
        """Go on behind so many pictures, without reading them."""
        self.position = min(position, self.length)
        left = self.position
        while left and self._shuffle():
            del self._queue[max(0, len(self._queue) - left) :]
            left -= len(self._pictures) - len(self._queue)

    def close(self) -> None:
        """Nothing is held open."""

    def _shuffle(self) -> bool:
        """Mix the pictures for the next epoch; False where there is none."""
        if not self._epochs_left:
            return False
        self._epochs_left -= 1
        self._queue = self._rng.sample(self._pictures, len(self._pictures))
        return True

    def _read(self, path: Path) -> NDArray[np.uint8] | None:
        try:
            with Image.open(path, formats=FORMATS) as image:
                return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        # Pillow raises SyntaxError for some broken PNGs and ValueError for some broken headers.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            if path not in self._unreadable:
                log.warning("skipping %s: %s", path, error)
                self._unreadable.add(path)
            return None


def list_pictures(path: Path) -> list[tuple[Path, str]]:
    """Return (file, class name) of every picture, sorted. Raises SourceError where there are none."""
    if not path.is_dir():
        raise SourceError(f"folder {path} does not exist; expected {path}/<class>/*.jpg or *.png")
    try:
        pictures = sorted(
            (file, folder.name)
            for folder in path.iterdir()
            if folder.is_dir() and not folder.name.startswith(".")
            for file in folder.iterdir()
            if file.suffix.lower() in SUFFIXES
        )
    except OSError as error:
        raise SourceError(f"folder {path}: {error}") from error
    if not pictures:
        below = [folder.name for folder in sorted(path.iterdir()) if folder.is_dir()]
        nested = next((name for name in below if any(one.is_dir() for one in (path / name).iterdir())), None)
        hint = f"; did you mean folder:{path / nested}?" if nested else ""
        raise SourceError(f"folder {path} has no pictures in class folders ({path}/<class>/*.jpg or *.png){hint}")
    try:
        for name in {name for _, name in pictures}:
            check_class_name(name)  # or the trainer could not read a message with it
    except MalformedMessage as error:
        raise SourceError(f"folder {path}: {error}") from error
    return pictures
