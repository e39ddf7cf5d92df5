from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from broker.errors import ConfigError, SourceError
from robot_edge.run.config import RobotConfig
from robot_edge.run.source_files import files_of, go_on_with
from robot_edge.sources.about import command_line, look_at, sources_at
from robot_edge.sources.frames import Frame
from robot_edge.sources.opening import open_source
from robot_edge.sources.settings import SourceOptions
from tests.robot_edge.sources.test_coco import picture

# Of test_coco's picture, 20 x 10: class, centre and size.
LIGHT, DARK = "0 0.25 0.4 0.3 0.6", "1 0.75 0.6 0.3 0.6"
OUTLINE = "1 0.6 0.3 0.9 0.3 0.9 0.9 0.6 0.9"
BOTH = f"{LIGHT}\n{DARK}\n"


def put(folder: Path, images: str, labels: str, *texts: str | None) -> None:
    """Write a picture for each text of boxes; None for one without."""
    for number, text in enumerate(texts):
        picture(folder / images / f"{number}.png")
        if text is not None:
            (folder / labels).mkdir(parents=True, exist_ok=True)
            (folder / labels / f"{number}.txt").write_text(text)


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    """A data set as Ultralytics has them: images/train, labels/train and the same of val, and data.yaml."""
    put(tmp_path, "images/train", "labels/train", BOTH, LIGHT, OUTLINE, None)
    put(tmp_path, "images/val", "labels/val", BOTH)
    data = {"path": "/of/another/machine", "train": "images/train", "val": "images/val", "names": ["light", "dark"]}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))
    return tmp_path


def frames(source: str) -> list[Frame]:
    with closing(open_source(source)) as opened:
        return list(iter(opened.next, None))


def counts(source: str) -> Counter[str | None]:
    return Counter(frame.label for frame in frames(source))


def left_out(source: str) -> dict[str, int]:
    with closing(open_source(source)) as opened:
        return {one.kind: one.count for one in opened.left_out}


def test_each_box_is_a_frame_of_its_class(folder: Path) -> None:
    shown = frames(f"yolo:{folder}")
    assert Counter(frame.label for frame in shown) == {"light": 2, "dark": 2}
    for frame in shown:
        assert frame.image.shape == (6, 6, 3)
        assert set(frame.image.flat) == {250 if frame.label == "light" else 5}
    assert Counter(frame.scene for frame in shown) == {0: 2, 1: 1, 2: 1}
    assert left_out(f"yolo:{folder}") == {"pictures without a box": 1}


def test_its_parts_are_trained_and_tested_on(folder: Path) -> None:
    assert counts(f"yolo:{folder}/val") == counts(f"yolo:{folder}/data.yaml/val") == {"light": 1, "dark": 1}
    for text in (str(folder), str(folder / "data.yaml")):
        parts = sources_at(text)
        assert parts == [f"yolo:{text}/train", f"yolo:{text}/val"]
        found = [look_at(part, SourceOptions()) for part in parts]
        assert [about.frames for about in found] == [4, 2]
        assert command_line(found) == f"robot-edge run --source {parts[0]} --held-out {parts[1]} --robot r1"
    with pytest.raises(SourceError, match="it has no part 'test', but train, val"):
        counts(f"yolo:{folder}/test")


def test_roboflows_layout_and_lists_of_pictures_are_read(tmp_path: Path) -> None:
    put(tmp_path, "train/images", "train/labels", BOTH, DARK)
    put(tmp_path, "valid/images", "valid/labels", LIGHT)
    (tmp_path / "list.txt").write_text("train/images/1.png\n")
    data = {"train": "../train/images", "val": "../valid/images", "test": "list.txt", "names": {0: "light", 1: "dark"}}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))
    assert counts(f"yolo:{tmp_path}") == {"light": 1, "dark": 2}
    assert counts(f"yolo:{tmp_path}/val") == {"light": 1}
    assert counts(f"yolo:{tmp_path}/test") == {"dark": 1}


def test_a_folder_with_a_list_of_classes_is_read(tmp_path: Path) -> None:
    put(tmp_path, "images", "labels", BOTH)
    (tmp_path / "classes.txt").write_text("light\ndark\n")
    assert counts(f"yolo:{tmp_path}") == {"light": 1, "dark": 1}
    put(tmp_path / "flat", "", "", DARK)  # as labelImg leaves them
    (tmp_path / "flat" / "classes.txt").write_text("light\r\ndark")
    assert counts(f"yolo:{tmp_path}/flat") == {"dark": 1}


def test_what_is_wrong_is_counted_and_the_rest_is_shown(folder: Path) -> None:
    labels = folder / "labels" / "train"
    (labels / "0.txt").write_text(
        f"{LIGHT}\n7 0.5 0.5 0.1 0.1\n0 0.5\nno box\n0 0.5 0.5 0 0.1\n0 nan 0 1 1\n0 5 5 .1 .1\n"
    )
    (folder / "images" / "train" / "1.png").write_bytes(b"no picture")
    (labels / "2.txt").write_text("1 0.75 0.6 0.3")  # the writer was killed
    with closing(open_source(f"yolo:{folder}")) as source:
        assert [frame.label for frame in iter(source.next, None)] == ["light"]
        assert source.skipped == 2  # the damaged picture, and the box outside
        assert {one.kind: one.count for one in source.left_out} == {
            "labels that no class can have": 1,
            "lines that are no boxes": 3,
            "boxes without a size": 2,
            "pictures without a box": 2,
        }


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("names: [a", r"is no YAML"),
        ("names: 5", r"has no list `names`"),
        ("[]", r"has no list `names`"),
        ("names: [a]\ntrain: nowhere", r"no box in any of 0 pictures; 1 folders of pictures that are not there"),
        ("!!python/object/apply:os.getcwd []", r"is no YAML"),
    ],
)
def test_what_is_no_data_set_is_said(folder: Path, data: str, says: str) -> None:
    (folder / "data.yaml").write_text(data)
    with pytest.raises(SourceError, match=says):
        frames(f"yolo:{folder}")


def test_nothing_that_names_the_classes_is_said(tmp_path: Path) -> None:
    put(tmp_path, "images", "labels", BOTH)
    with pytest.raises(SourceError, match=r"neither data.yaml nor classes.txt, which name its classes"):
        frames(f"yolo:{tmp_path}")


def test_a_run_does_not_go_on_with_other_boxes(folder: Path) -> None:
    config = RobotConfig.from_flags(source=f"yolo:{folder}/train", run_dir=str(folder.parent / "run"))
    before = files_of(config)
    assert go_on_with(before, files_of(config), config) is None
    (folder / "labels" / "train" / "1.txt").write_text(DARK)
    with pytest.raises(ConfigError, match="is not what it was"):
        go_on_with(before, files_of(config), config)
