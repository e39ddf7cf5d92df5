"""Whether what a recording's source names is there; which source shows what is at a path."""

from __future__ import annotations

import os
from pathlib import Path

from broker.errors import SourceError
from broker.program.paths import shown, typed_path, what_is_wrong
from robot_edge.sources.encoded import SUFFIXES

BAGS = (".bag", ".mcap", ".db3")
# Kinds that are at a path, beside folders of pictures, and what of it says which frames there are: other contents of
# these files are another recording.
INDEX_FILES: dict[str, tuple[str, ...]] = {
    "video": (),
    "bag": (*(f"*{suffix}" for suffix in BAGS), "metadata.yaml"),
    "tub": ("manifest.json", "*.catalog"),
    "hdf5": ("*.hdf5", "*.h5"),
    "lerobot": ("meta/*.json*", "meta/*.parquet", "meta/episodes/*/*.parquet"),
    "coco": (),
    "webdataset": ("*.tar",),
    "yolo": ("*.yaml", "*.yml", "**/*.txt"),
}
# What a file of each kind is called, but for videos, which have too many names.
FILES: dict[str, tuple[str, ...]] = {
    "bag": BAGS,
    "hdf5": (".hdf5", ".h5"),
    "coco": (".json",),
    "yolo": (".yaml", ".yml"),
    "webdataset": (".tar",),
}
# Kinds of which a folder may have many files, and nothing else.
MANY_FILES = ("bag", "hdf5", "webdataset")
# What the folder of each kind has in it, one of these.
FOLDERS: dict[str, tuple[str, ...]] = {
    "bag": ("metadata.yaml",),
    "lerobot": ("meta/info.json",),
    "tub": ("catalog_0.catalog",),
    "yolo": ("data.yaml", "data.yml", "dataset.yaml", "labels/classes.txt"),
}
PICTURES = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)


def check_is_folder(path: Path) -> None:
    """Raise SourceError unless there is a folder to be read."""
    expected = f"expected {shown(path)}/<class>/*.jpg, *.png and so on"
    if wrong := what_is_wrong(path):
        raise SourceError(f"folder {shown(path)} {wrong}; {expected}")
    if not path.is_dir():
        raise SourceError(f"folder {shown(path)} is a file (did you mean {source_for(path)}?); {expected}")


def check_is_video(path: Path) -> None:
    """Raise SourceError unless there is a file to be read."""
    if wrong := what_is_wrong(path):
        raise SourceError(f"video {shown(path)} {wrong}")
    if not path.is_file():
        raise SourceError(f"video {shown(path)} is no file (did you mean {source_for(path)}?)")


def check_is_bag(path: Path) -> None:
    """Raise SourceError unless there is a file or a folder to be read."""
    if wrong := what_is_wrong(path):
        raise SourceError(f"bag {shown(path)} {wrong}")


def check_is_recording(path: Path) -> None:
    """Raise SourceError unless something is at the path; what it is its reader says."""
    if wrong := what_is_wrong(path):
        raise SourceError(f"{shown(path)} {wrong}")


def source_for(path: Path) -> str:
    """Return the source that shows what is at a path, by what it is and how it is called."""
    if path.is_dir():
        return f"{_kind_of_folder(path)}:{shown(path)}"
    if path.is_char_device():
        return f"camera:{shown(path)}"
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        return f"folder:{shown(path.absolute().parents[min(1, len(path.absolute().parents) - 1)])}"
    return f"{next((kind for kind, suffixes in FILES.items() if suffix in suffixes), 'video')}:{shown(path)}"


def _kind_of_folder(path: Path) -> str:
    """Return the kind of what is in a folder: by files that its kind always has, or by what its files are called."""
    if kind := next((kind for kind, places in FOLDERS.items() if any((path / place).exists() for place in places)), ""):
        return kind
    with os.scandir(path) as entries:
        names = [entry.name for entry in entries if not entry.is_dir() and not entry.name.startswith(".")]
    suffixes = {os.path.splitext(name)[1].lower() for name in names}
    return next((kind for kind in MANY_FILES if suffixes & set(FILES[kind])), "folder")


def index_files(kind: str, path: Path) -> dict[str, Path]:
    """Return the files that say which frames a recording has, by what they are called below it."""
    if not path.exists():  # a part of it
        path = path.parent
    if not path.is_dir():
        return {path.name: path}
    found = sorted({file for pattern in INDEX_FILES[kind] for file in path.glob(pattern)})
    return {str(file.relative_to(path)): file for file in found}


def is_same_recording(source: str, other: str) -> bool:
    """Whether two sources show the same file or folder."""
    kind, _, rest = source.partition(":")
    other_kind, _, other_rest = other.partition(":")
    if kind != other_kind or kind not in ("folder", *INDEX_FILES):
        return False
    path, other_path = typed_path(rest).resolve(), typed_path(other_rest).resolve()
    return path == other_path
