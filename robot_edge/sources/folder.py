"""Frames from a folder of pictures: a sub-folder for each class, or a file that names the class of each picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from broker.program.paths import shown
from robot_edge.sources.encoded import MAX_BYTES, decode
from robot_edge.sources.frames import Numbering, Pixels
from robot_edge.sources.indexed import IndexedSource, Record, Recording
from robot_edge.sources.listing import Listing, class_of, list_pictures


class FolderSource(IndexedSource):
    """Replays a folder of pictures, mixed."""

    def __init__(
        self,
        path: Path,
        *,
        classes: Sequence[str] | None = None,
        epochs: int = 1,
        seed: int = 0,
        numbering: Numbering | None = None,
    ) -> None:
        """List the pictures; the rest as read_folder and IndexedSource. Raises SourceError."""
        super().__init__(read_folder(path, numbering=numbering), classes=classes, epochs=epochs, seed=seed)


def read_folder(path: Path, label_field: str = "", numbering: Numbering | None = None) -> Recording:
    """List the pictures of PATH/<class>/, or of PATH/metadata.jsonl. Raises SourceError.

    label_field: of metadata.jsonl. numbering: of the pictures, their scenes; None counts them in the order of their
    paths.
    """
    listing = list_pictures(path, label_field)
    # As text, which has its hash ready and is opened faster than a Path.
    records = [Record(scene, os.path.join(path, file), name) for scene, file, name in _numbered(listing, numbering)]
    return Recording(
        where=f"folder {shown(path)}",
        records=records,
        read=read_picture,
        left_out=listing.left_out,
        hints=listing.hints,
    )


def read_picture(path: str) -> Pixels:
    """Return a picture in a file, (height, width, 3). Raises one of UNREADABLE."""
    with open(path, "rb", buffering=0) as file:  # half the time of read_bytes, for small pictures
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise ValueError(f"{size:,} bytes, limit {MAX_BYTES:,}")
        return decode(file.read())


def _numbered(listing: Listing, numbering: Numbering | None) -> list[tuple[int, str, str | None]]:
    """Return scene, path and class name of the pictures to show, by their scenes. What is gone may be among them."""
    if numbering is None:
        return [(scene, *picture) for scene, picture in enumerate(listing.pictures)]
    named: dict[str, str | None] = dict(listing.pictures)
    if numbering.is_all:
        gone = {file: None if listing.metadata else class_of(file) for file in numbering.numbers if file not in named}
        named = {file: named[file] for file in numbering.numbers if file in named} | gone
    numbers = numbering.numbers  # of what came meanwhile it has none
    return sorted((numbers[file], file, name) for file, name in named.items() if file in numbers)
