"""Which photos of a folder are taught, and which are kept back to judge by."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from broker.errors import MalformedMessage, SourceError
from broker.program.paths import shown
from broker.program.plain_text import counted
from broker.wire.bounds import check_class_name
from robot_edge.photos.config import PhotosConfig
from robot_edge.sources.encoded import UNREADABLE
from robot_edge.sources.folder import FolderSource, read_picture
from robot_edge.sources.frames import Numbering, Pixels
from robot_edge.sources.listing import list_pictures

# Pixels that the longer side of a shown photo has at most, about as many as a camera's picture.
SHOWN_SIDE = 1024

log = logging.getLogger("robot-edge")


@dataclass(frozen=True, kw_only=True)
class ClassPhotos:
    """A class's photos: paths of those that are taught, and of those to judge by."""

    name: str
    taught: Sequence[str]
    judged: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Album:
    """classes: in the order in which they are taught. folder: of the photos to judge by."""

    classes: Sequence[ClassPhotos]
    folder: Path

    def judged(self) -> FolderSource:
        """Return a source of all photos to judge by."""
        paths = [path for one in self.classes for path in one.judged]
        numbers = {str(Path(path).relative_to(self.folder)): number for number, path in enumerate(paths)}
        return FolderSource(self.folder, numbering=Numbering(numbers=numbers, is_all=False))


def open_album(config: PhotosConfig, check_name: Callable[[str], object] = check_class_name) -> Album:
    """Choose the photos. A class of fewer than two photos is left out, and named.

    check_name: raises MalformedMessage for what no class of the robot may be called. Raises SourceError.
    """
    folder, rng = Path(config.photos), random.Random(max(config.seed, 0))
    held_out = _by_class(Path(config.held_out)) if config.held_out else {}
    classes = []
    for name, paths in _by_class(folder).items():
        mixed = rng.sample(paths, len(paths))
        back = 0 if config.held_out else -(-len(mixed) // config.keep_back)
        taught, judged = mixed[back:], held_out.get(name, []) if config.held_out else mixed[:back]
        if taught and judged:
            _check(name, folder, check_name)
            classes.append(ClassPhotos(name=name, taught=taught[: config.each], judged=judged[: config.each]))
        else:
            log.warning(
                "%s is left out: of %d photos none is left to %s", name, len(paths), "teach" if judged else "judge by"
            )
    if len(classes) < 2:
        raise SourceError(
            f"--photos {shown(folder)} has {counted(len(classes), 'class')} with photos to teach and to judge by: give "
            "at least two, as a name is right only beside another"
        )
    return Album(classes=classes, folder=Path(config.held_out) if config.held_out else folder)


def _check(name: str, folder: Path, check_name: Callable[[str], object]) -> None:
    try:
        check_name(name)
    except MalformedMessage as error:
        raise SourceError(f"--photos {shown(folder)}: {error}") from error


def readable(paths: Sequence[str]) -> list[Pixels]:
    """Return photos, uint8 (H, W, 3), as large as a camera's picture at most; what cannot be read is named."""
    return [photo for path in paths if (photo := _read(path)) is not None]


def _read(path: str) -> Pixels | None:
    try:
        pixels = read_picture(path)
    except UNREADABLE as error:
        log.warning("skipping %s: %s", shown(path), shown(str(error)))
        return None
    if max(pixels.shape) <= SHOWN_SIDE:
        return pixels
    image = Image.fromarray(pixels)
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return np.asarray(image)


def _by_class(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path, name in list_pictures(folder).pictures:
        found.setdefault(name, []).append(str(folder / path))
    return found
