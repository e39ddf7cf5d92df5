from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from broker.errors import SourceError
from robot_edge.sources.about import look_at, sources_at
from robot_edge.sources.frames import Frame
from robot_edge.sources.opening import open_source
from robot_edge.sources.settings import SourceOptions


def picture(path: Path) -> None:
    """Write a picture of 20 x 10 pixels: a light square at 2, 1 to 8, 7 and a dark one at 12, 3 to 18, 9, on grey."""
    pixels = np.full((10, 20, 3), 128, np.uint8)
    pixels[1:7, 2:8], pixels[3:9, 12:18] = 250, 5
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def annotation(image: int, category: int, box: list[float], **more: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0, "area": 1, **more}


LIGHT, DARK = [2.0, 1.0, 6.0, 6.0], [12.0, 3.0, 6.0, 6.0]


@pytest.fixture(name="boxes")
def _boxes() -> dict[str, Any]:
    return {
        "info": {},
        "images": [{"id": 10 + n, "file_name": f"{n}.png", "width": 20, "height": 10} for n in range(3)],
        "categories": [{"id": 1, "name": "light", "supercategory": ""}, {"id": 90, "name": "dark"}],
        "annotations": [
            *(annotation(10 + n, 1, LIGHT) for n in range(3)),
            *(annotation(10 + n, 90, DARK) for n in range(2)),
        ],
    }


def write(folder: Path, boxes: dict[str, Any], place: str = "annotations/instances_val2017.json") -> Path:
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(boxes))
    return path


def frames(file: Path, **options: Any) -> list[Frame]:
    with closing(open_source(f"coco:{file}", SourceOptions(**options))) as source:
        return list(iter(source.next, None))


@pytest.mark.parametrize(
    ("file", "pictures"),
    [
        ("annotations/instances_val2017.json", "val2017"),
        ("annotations/instances_val2017.json", "images/val2017"),
        ("result.json", "images"),
        ("train/_annotations.coco.json", "train"),
    ],
)
def test_each_box_is_a_frame_of_its_class(tmp_path: Path, boxes: dict[str, Any], file: str, pictures: str) -> None:
    for number in range(3):
        picture(tmp_path / pictures / f"{number}.png")
    shown = frames(write(tmp_path, boxes, file))
    assert Counter(frame.label for frame in shown) == {"light": 3, "dark": 2}
    for frame in shown:
        assert frame.image.shape == (6, 6, 3)
        assert set(frame.image.flat) == {250 if frame.label == "light" else 5}
    assert Counter(frame.scene for frame in shown) == {0: 2, 1: 2, 2: 1}  # of a picture, which is held out whole


def test_what_is_in_it_is_told_and_pictures_may_lie_elsewhere(tmp_path: Path, boxes: dict[str, Any]) -> None:
    file = write(tmp_path, boxes)
    with pytest.raises(SourceError, match=r"its pictures, as 0.png, are in none of the usual folders: .*--data-dir"):
        frames(file)
    for number in range(3):
        picture(tmp_path / "elsewhere" / f"{number}.png")
    (source,) = sources_at(str(file))
    about = look_at(source, SourceOptions(data_dir=str(tmp_path / "elsewhere")))
    assert about.labels == {"light": 3, "dark": 2}
    assert about.sizes == {(6, 6): 5}


def test_what_is_wrong_is_counted_and_the_rest_is_shown(tmp_path: Path, boxes: dict[str, Any]) -> None:
    for number in range(2):
        picture(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"no picture")
    boxes["images"] += [{"id": 20, "file_name": "../0.png"}, {"id": "x"}, None]
    boxes["categories"] += [{"id": 5, "name": "x" * 65}, {"id": 6}]
    boxes["annotations"] += [
        annotation(10, 1, [0, 0, 20, 10], iscrowd=1),
        annotation(99, 1, LIGHT),
        annotation(10, 7, LIGHT),
        annotation(10, 5, LIGHT),
        annotation(10, 1, [3, 3, 0, 5]),
        annotation(10, 1, [3, 3, float("nan"), 5]),
        annotation(10, 1, [30, 3, 5, 5]),
        annotation(10, 1, [1, 2, 3]),
        {"id": 1},
        None,
    ]
    with closing(open_source(f"coco:{write(tmp_path, boxes, 'a.json')}")) as source:
        assert Counter(frame.label for frame in iter(source.next, None)) == {"light": 1, "dark": 1}
        assert source.skipped == 3  # the damaged picture's two, and the box outside of its picture
        assert {one.kind: one.count for one in source.left_out} == {
            "images without a number and a name": 3,
            "categories without a number and a name": 1,
            "boxes around crowds": 1,
            "boxes of pictures that are not listed": 1,
            "labels that no class can have": 2,
            "boxes without a size": 2,
            "annotations without a box": 3,
            "pictures that are not there": 1,
        }


@pytest.mark.parametrize("text", ["", '{"images": [', "[]", "[" * 100_000, '{"images": [], "annotations": {}}'])
def test_a_file_of_something_else_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SourceError, match=r"is no JSON, or was cut off|expected a file of boxes as COCO has them"):
        frames(tmp_path / "a.json")


def test_a_folder_is_answered_with_its_file(tmp_path: Path, boxes: dict[str, Any]) -> None:
    write(tmp_path, boxes)
    with pytest.raises(SourceError, match=r"is a folder: name its file of boxes, as instances_val2017.json"):
        frames(tmp_path)
