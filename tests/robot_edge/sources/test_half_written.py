"""Recordings of each kind, cut off and damaged anywhere: a SourceError, or fewer frames, and never a wrong label."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from webdataset.writer import TarWriter

from broker.errors import SourceError
from robot_edge.sources.opening import open_source
from robot_edge.sources.settings import SourceOptions

GOLDEN = Path(__file__).parents[2] / "golden"
COUNT = 8
NAMES = ("cup", "fork")
CUTS, FLIPS = 12, 24


def grey(number: int) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """A picture of 8 x 6 pixels, of a grey of its own; its class is NAMES[number % 2]."""
    return np.full((6, 8, 3), 20 * number, np.uint8)


def pictures(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in range(COUNT):
        Image.fromarray(grey(number)).save(folder / f"{number}.png")


def metadata(folder: Path) -> str:
    pictures(folder)
    lines = [json.dumps({"file_name": f"{number}.png", "label": NAMES[number % 2]}) for number in range(COUNT)]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return f"folder:{folder}"


def tub(folder: Path) -> str:
    shutil.copytree(GOLDEN / "tub", folder)
    return f"tub:{folder}"


def hdf5(folder: Path) -> str:
    folder.mkdir()
    for name in NAMES:
        with h5py.File(folder / f"{name}.hdf5", "w") as file:
            for number in range(NAMES.index(name), COUNT, 2):
                file[f"data/demo_{number}/obs/image"] = grey(number)[None]
                file[f"data/demo_{number}"].attrs["task"] = name
    return f"hdf5:{folder}"


def coco(folder: Path) -> str:
    pictures(folder)
    boxes = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in range(COUNT)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(NAMES)],
        "annotations": [{"image_id": n, "category_id": n % 2, "bbox": [0, 0, 8, 6]} for n in range(COUNT)],
    }
    (folder / "boxes.json").write_text(json.dumps(boxes))
    return f"coco:{folder / 'boxes.json'}"


def yolo(folder: Path) -> str:
    pictures(folder / "images")
    (folder / "labels").mkdir()
    for number in range(COUNT):
        (folder / "labels" / f"{number}.txt").write_text(f"{number % 2} 0.5 0.5 1 1\n")
    (folder / "data.yaml").write_text(f"train: images\nnames: [{', '.join(NAMES)}]\n")
    return f"yolo:{folder}"


def webdataset(folder: Path) -> str:
    folder.mkdir()
    for start in (0, 4):
        with TarWriter(f"{folder}/{start}.tar") as writer:
            for number in range(start, start + 4):
                writer.write({"__key__": f"{number}", "png": grey(number), "txt": NAMES[number % 2]})
    return f"webdataset:{folder}"


KINDS: list[Callable[[Path], str]] = [metadata, tub, hdf5, coco, yolo, webdataset]


def labels(source: str) -> dict[int, str | None] | None:
    """Return the label of each picture that is shown, by its grey; None where the recording is refused."""
    try:
        with closing(open_source(source, SourceOptions())) as opened:
            return {round(float(one.image.mean()) / 20): one.label for one in iter(opened.next, None)}
    except SourceError as error:
        assert "\n" not in str(error), error  # noqa: PT017
        return None


def index_of(folder: Path) -> Iterator[Path]:
    """Yield the files that are no pictures: those have tests of their own (test_encoded.py)."""
    yield from (one for one in sorted(folder.rglob("*")) if one.is_file() and one.suffix not in (".png", ".jpg"))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_file_that_ends_anywhere_loses_what_is_missing_alone(tmp_path: Path, kind: Callable[[Path], str]) -> None:
    source = kind(tmp_path / "set")
    whole = labels(source)
    assert whole is not None
    assert len(whole) >= COUNT - 1
    for file in index_of(tmp_path / "set"):
        content = file.read_bytes()
        for cut in np.linspace(0, len(content) - 1, CUTS).astype(int):
            file.write_bytes(content[:cut])
            found = labels(source)
            assert found is None or all(name in (whole.get(n, name), None) for n, name in found.items()), (file, cut)
        file.unlink()
        labels(source)
        file.write_bytes(content)
    assert labels(source) == whole


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_damage_anywhere_ends_in_an_error_of_ours_or_in_other_frames(
    tmp_path: Path, kind: Callable[[Path], str]
) -> None:
    source, rng = kind(tmp_path / "set"), random.Random(1)
    for file in index_of(tmp_path / "set"):
        content = file.read_bytes()
        for _ in range(FLIPS):
            damaged = bytearray(content)
            for _ in range(3):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            file.write_bytes(damaged)
            labels(source)
        file.write_bytes(content)
