"""Frames from COCO's file of boxes (cocodataset.org/#format-data): each box is a frame, cut out of its picture."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from broker.errors import SourceError
from broker.program.paths import shown, what_is_wrong
from robot_edge.sources.boxes import Box, crops_of, read_crop
from robot_edge.sources.indexed import Recording
from robot_edge.sources.labels import NO_CLASS, class_named_by, listed
from robot_edge.sources.tally import Tally

# COCO's own file of 860,000 boxes with outlines has 470 MB; to read it takes ten times that of memory.
MAX_FILE_BYTES = 1_000_000_000
PARTS = ("images", "annotations", "categories")
# Pictures by whose names the folder is found that has them.
PICTURES_TRIED = 20


def check_is_coco(path: Path) -> None:
    """Raise SourceError unless there is a file."""
    if wrong := what_is_wrong(path):
        raise SourceError(f"coco {shown(path)} {wrong}")
    if not path.is_file():
        found = sorted(one.name for one in path.rglob("*.json"))[:3]
        raise SourceError(
            f"coco {shown(path)} is a folder: name its file of boxes{f', as {listed(found)}' * bool(found)}"
        )


def read_coco(path: Path, pictures: Path | None = None) -> Recording:
    """Return a frame for each box, mixed. The boxes of one picture share a scene.

    pictures: the folder of the pictures; None looks where they usually are. Raises SourceError.
    """
    where, tally = f"coco {shown(path)}", Tally()
    check_is_coco(path)
    content = _content(path, where)
    images = _by_id(content, "images", "file_name", tally)
    classes = _classes(_by_id(content, "categories", "name", tally))
    boxes = _boxes(content["annotations"], images, classes, tally)
    folder = pictures or _folder_of(path, list(images.values()), where)
    records = crops_of(((os.path.join(folder, place), place, boxes[number]) for number, place in images.items()), tally)
    if not records:
        raise SourceError(
            f"{where} has no box in a picture in {shown(folder)}: {listed(map(str, tally.counts.items()))}"
        )
    return Recording(where=where, records=records, read=read_crop, left_out=tally.all())


def _content(path: Path, where: str) -> dict[str, Any]:
    try:
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise SourceError(f"{where}: {size:,} bytes, limit {MAX_FILE_BYTES:,}: divide it")
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where} is no JSON, or was cut off: {error}") from error
    except OSError as error:
        raise SourceError(f"{where} cannot be read: {error.strerror}") from error
    lists = [isinstance(content, dict) and isinstance(content.get(name), list) for name in PARTS]
    if not all(lists):
        raise SourceError(f"{where} has no {', '.join(PARTS)}: expected a file of boxes as COCO has them")
    return dict(content)


def _by_id(content: dict[str, Any], part: str, name: str, tally: Tally) -> dict[int, str]:
    """Return what the entries of a part are called, by their numbers."""
    found: dict[int, str] = {}
    for place, one in enumerate(content[part]):
        number, text = (one.get("id"), one.get(name)) if isinstance(one, dict) else (None, None)
        if not isinstance(number, int) or not isinstance(text, str) or (part == "images" and not _is_below(text)):
            tally.add(f"{part} without a number and a name", f"the {place + 1}.")
        else:
            found[number] = text
    return found


def _is_below(place: str) -> bool:
    path = PurePosixPath(place)
    return bool(place) and not path.is_absolute() and ".." not in path.parts


def _boxes(
    annotations: list[Any], images: dict[int, str], classes: dict[int, str], tally: Tally
) -> dict[int, list[tuple[str, Box]]]:
    """Return classes and boxes by the numbers of their pictures."""
    boxes: dict[int, list[tuple[str, Box]]] = {number: [] for number in images}
    for place, one in enumerate(annotations):
        where = f"the {place + 1}. annotation"
        try:
            box, image, category = _box(one), one["image_id"], one["category_id"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            tally.add("annotations without a box", f"{where}: {type(error).__name__} {error}")
            continue
        if one.get("iscrowd"):
            tally.add("boxes around crowds", where)
        elif image not in boxes:
            tally.add("boxes of pictures that are not listed", f"{where}: {image}")
        elif category not in classes:
            tally.add(NO_CLASS, f"{where}: category {category}")
        else:
            boxes[image].append((classes[category], box))
    return boxes


def _box(annotation: Any) -> Box:
    left, top, width, height = (float(edge) for edge in annotation["bbox"])
    return Box(left, top, left + width, top + height, is_share=False)


def _classes(categories: dict[int, str]) -> dict[int, str]:
    """Return the categories whose names a class may have; boxes of others are counted."""
    classes = {}
    for number, category in categories.items():
        with contextlib.suppress(ValueError):
            if (name := class_named_by(category)) is not None:
                classes[number] = name
    return classes


def _folder_of(path: Path, places: list[str], where: str) -> Path:
    """Return where a file's pictures are: the first of the usual folders that has one of them. Raises SourceError."""
    tried = places[:PICTURES_TRIED]
    for folder in _usual(path):
        if any((folder / place).is_file() for place in tried):
            return folder
    first = f", as {tried[0]}," if tried else ""
    raise SourceError(f"{where}: its pictures{first} are in none of the usual folders: name theirs with --data-dir")


def _usual(path: Path) -> Iterator[Path]:
    """Yield the folders in which the pictures of DIR/annotations/instances_train2017.json may be."""
    split = path.stem.rpartition("_")[2]
    for above in (path.parent, path.parent.parent):
        for name in ("", "images", split, f"images/{split}", "data", path.stem):
            yield above / name
