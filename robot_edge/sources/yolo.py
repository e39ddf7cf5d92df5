"""Frames from a data set for YOLO: a text file of boxes beside each picture. Each box is a frame, cut out of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.errors import SourceError
from broker.program.paths import shown, what_is_wrong
from robot_edge.sources.boxes import Box, crops_of, read_crop
from robot_edge.sources.indexed import Recording
from robot_edge.sources.labels import NO_CLASS, class_named_by, listed
from robot_edge.sources.recordings import PICTURES
from robot_edge.sources.tally import Tally

# The file that names classes and parts, and files that only name classes, a line each.
DATA_FILES = ("data.yaml", "dataset.yaml", "data.yml")
NAMES_FILES = ("classes.txt", "obj.names", "labels.txt")
PARTS = ("train", "val", "test")
IMAGES, LABELS = "images", "labels"
# A picture of COCO has 7 boxes, 93 at most; a line has five numbers, or the outline of a thing.
MAX_TEXT_BYTES = 10_000_000


@dataclass(frozen=True, kw_only=True)
class YoloSet:
    """A data set. names: of the classes, by number. parts: folders, or lists of pictures, of each part."""

    root: Path
    names: dict[int, str]
    parts: dict[str, tuple[Path, ...]]


def set_and_part(path: Path) -> tuple[Path, str]:
    """Return the folder and the part that FOLDER/PART names; the part is empty where none is named."""
    above = path.parent
    if path.name in PARTS and not _has_data_file(path) and (above.is_file() or _has_data_file(above)):
        return above, path.name
    return path, ""


def check_is_yolo(path: Path) -> None:
    """Raise SourceError unless there is a folder or its file."""
    path, _ = set_and_part(path)
    if wrong := what_is_wrong(path):
        raise SourceError(f"yolo {shown(path)} {wrong}")


def read_yolo(path: Path) -> Recording:
    """Return a frame for each box of a data set, or of its part that FOLDER/PART names, mixed.

    Without a part it is the one to train on, or all that there is. The boxes of one picture share a scene. Raises
    SourceError.
    """
    folder, part = set_and_part(path)
    where, tally = f"yolo {shown(path)}", Tally()
    found = read_set(folder)
    if part and part not in found.parts:
        raise SourceError(f"{where}: it has no part {part!r}, but {listed(found.parts)}")
    places = found.parts[part] if part else found.parts.get("train", (found.root,))
    pictures = [one for place in places for one in _pictures_of(place, tally)]
    records = crops_of(
        ((str(one), one.name, list(_boxes(_labels_of(one), found.names, tally))) for one in pictures), tally
    )
    if not records:
        there = listed(f"{count:,} {kind} ({tally.first[kind]})" for kind, count in tally.counts.items())
        raise SourceError(f"{where} has no box in any of {len(pictures):,} pictures; {there}")
    return Recording(where=where, records=records, read=read_crop, left_out=tally.all())


def read_set(path: Path) -> YoloSet:
    """Return classes and parts of a data set, by its folder or by its file. Raises SourceError."""
    file = path if path.is_file() else next((path / name for name in DATA_FILES if (path / name).is_file()), None)
    if file is not None:
        return _from_data_file(file)
    for folder in (path, path / LABELS, path.parent):
        for name in NAMES_FILES:
            if (folder / name).is_file():
                lines = _text(folder / name).splitlines()
                return YoloSet(root=path, names={number: line.strip() for number, line in enumerate(lines)}, parts={})
    raise SourceError(
        f"yolo {shown(path)} has neither {' nor '.join(DATA_FILES[:1])} nor {NAMES_FILES[0]}, which name its classes"
    )


def _has_data_file(path: Path) -> bool:
    return any((path / name).is_file() for name in DATA_FILES)


def _text(file: Path) -> str:
    try:
        if (size := file.stat().st_size) > MAX_TEXT_BYTES:
            raise ValueError(f"{size:,} bytes, limit {MAX_TEXT_BYTES:,}")
        return file.read_text(encoding="utf-8-sig", errors="replace")
    except (OSError, ValueError) as error:
        raise SourceError(f"{shown(file)} cannot be read: {error}") from error


def _from_data_file(file: Path) -> YoloSet:
    try:
        import yaml
    except ImportError:
        raise SourceError("yolo: needs PyYAML: pip install 'reflexarc[yolo]'") from None
    try:
        data = yaml.safe_load(_text(file))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SourceError(f"{shown(file)} is no YAML: {' '.join(str(error).split())[:200]}") from error
    names = data.get("names") if isinstance(data, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(isinstance(number, int) for number in names):
        raise SourceError(f"{shown(file)} has no list `names` of its classes")
    root = _root(file, data.get("path"))
    parts = {part: tuple(_places(data[part], root, file.parent)) for part in PARTS if data.get(part)}
    return YoloSet(root=root, names={number: str(name) for number, name in names.items()}, parts=parts)


def _root(file: Path, path: Any) -> Path:
    """Return the folder that parts are named below: ``path`` where that is there, which is often another machine's."""
    if not isinstance(path, str):
        return file.parent
    likely = [Path(path), file.parent / path, file.parent.parent / path]
    return next((one for one in likely if one.is_dir()), file.parent)


def _places(value: Any, root: Path, beside: Path) -> Iterator[Path]:
    for one in value if isinstance(value, list) else [value]:
        text = str(one)
        likely = [root / text, beside / text, beside / text.removeprefix("../")]  # as Roboflow writes them
        yield next((place for place in likely if place.exists()), root / text)


def _pictures_of(place: Path, tally: Tally) -> list[Path]:
    """Return the pictures in a folder, however deep, or in a list of them; sorted."""
    if place.suffix == ".txt" and place.is_file():
        lines = [line.strip() for line in _text(place).splitlines() if line.strip()]
        return [place.parent / line for line in lines]
    if not place.is_dir():
        tally.add("folders of pictures that are not there", str(place))
        return []
    found = (Path(folder) / name for folder, _, names in os.walk(place) for name in names)
    return sorted(one for one in found if one.suffix.lower() in PICTURES and not one.name.startswith("."))


def _labels_of(picture: Path) -> Path:
    """Return the file of a picture's boxes: as its path, with the last `images` as `labels`; or else beside it."""
    parts = list(picture.parts)
    if IMAGES in parts:
        last = len(parts) - 1 - parts[::-1].index(IMAGES)
        parts[last] = LABELS
    labels = Path(*parts).with_suffix(".txt")
    return labels if labels.exists() else picture.with_suffix(".txt")


def _boxes(file: Path, names: dict[int, str], tally: Tally) -> Iterator[tuple[str, Box]]:
    """Yield class and box of each line: class, centre and size; or a class and the corners of an outline."""
    if not file.is_file():
        return
    for number, line in enumerate(_text(file).splitlines(), start=1):
        where = f"{file.name}, line {number}"
        try:
            kind, *numbers = (float(cell) for cell in line.split())
        except ValueError:
            if line.strip():
                tally.add("lines that are no boxes", f"{where}: {line[:80]!r}")
            continue
        box = _box(numbers)
        if box is None:
            tally.add("lines that are no boxes", f"{where}: {len(numbers) + 1} numbers")
            continue
        try:
            if kind not in names:
                raise ValueError(f"no class {kind:g}; there are {len(names)}")
            if (name := class_named_by(names[int(kind)])) is not None:
                yield name, box
        except ValueError as error:
            tally.add(NO_CLASS, f"{where}: {error}")


def _box(numbers: list[float]) -> Box | None:
    if len(numbers) in (4, 5):  # the fifth is a confidence, of predictions
        x, y, width, height = numbers[:4]
        return Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2, is_share=True)
    if len(numbers) >= 6 and len(numbers) % 2 == 0:
        across, down = numbers[::2], numbers[1::2]
        return Box(min(across), min(down), max(across), max(down), is_share=True)
    return None
