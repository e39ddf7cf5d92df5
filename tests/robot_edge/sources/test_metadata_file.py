from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from broker.errors import SourceError
from robot_edge.sources.frames import Frame
from robot_edge.sources.opening import open_source
from robot_edge.sources.settings import SourceOptions


def put(folder: Path, *places: str) -> None:
    """Write a picture at each place; the n-th is of grey 10 * n."""
    for number, place in enumerate(places):
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 10 * number).save(path)


def say(folder: Path, rows: Sequence[dict[str, Any] | str]) -> Path:
    """Write metadata.jsonl as `datasets` wants it; text as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def frames(folder: Path, **options: Any) -> list[Frame]:
    with closing(open_source(f"folder:{folder}", SourceOptions(**options), image_size=4)) as source:
        return list(iter(source.next, None))


def left_out(folder: Path) -> dict[str, int]:
    with closing(open_source(f"folder:{folder}", image_size=4)) as source:
        return {one.kind: one.count for one in source.left_out}


def test_a_file_names_the_classes_of_pictures_in_any_folder(tmp_path: Path) -> None:
    put(tmp_path, "0.png", "a/1.png", "a/2.png")
    say(
        tmp_path,
        [
            {"file_name": "0.png", "label": "cup"},
            {"file_name": "a/1.png", "label": 7},
            {"file_name": "a/2.png", "label": "Cafe\u0301"},
        ],
    )
    found = {frame.label: int(frame.image[0, 0, 0]) for frame in frames(tmp_path)}
    assert found == {"cup": 0, "7": 10, "Caf\u00e9": 20}
    assert not left_out(tmp_path)


def test_a_csv_file_does_too_and_a_field_may_be_chosen(tmp_path: Path) -> None:
    put(tmp_path, "0.png", "1.png")
    (tmp_path / "metadata.csv").write_text("file_name,label,room\n0.png,cup,attic\n1.png,fork,cellar\n")
    assert Counter(frame.label for frame in frames(tmp_path)) == {"cup": 1, "fork": 1}
    assert Counter(frame.label for frame in frames(tmp_path, label_field="room")) == {"attic": 1, "cellar": 1}
    with pytest.raises(SourceError, match=r"no field 'floor': --label-field is one of label, room"):
        frames(tmp_path, label_field="floor")


def test_what_is_wrong_is_counted_and_the_rest_is_shown(tmp_path: Path) -> None:
    put(tmp_path, "0.png", "1.png", "2.png", "3.png", "4.png")
    rows: list[dict[str, Any] | str] = [
        {"file_name": "0.png", "label": "cup"},
        {"file_name": "1.png", "label": 0.5},
        {"file_name": "2.png", "label": "x" * 65},
        {"file_name": "3.png"},
        {"file_name": "gone.png", "label": "cup"},
        {"file_name": "../0.png", "label": "cup"},
        {"label": "cup"},
        "[1]",
        '{"file_name": "4.png", "lab',  # the writer was killed
    ]
    say(tmp_path, rows)
    assert [frame.label for frame in frames(tmp_path)] == ["cup"]
    assert left_out(tmp_path) == {
        "labels that no class can have": 2,
        "pictures without a label in metadata.jsonl": 1,
        "pictures that metadata.jsonl names and that are not there": 1,
        "lines of metadata.jsonl that name no picture": 4,
        "pictures of which metadata.jsonl says nothing": 1,
    }


def test_without_a_field_of_classes_the_folders_are_the_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "cup/0.png", "fork/1.png")
    say(tmp_path, [{"file_name": "cup/0.png", "caption": "a cup"}])
    assert {frame.label for frame in frames(tmp_path)} == {"cup", "fork"}
    (tmp_path / "metadata.jsonl").unlink()
    frames(tmp_path, label_field="caption")
    assert "--label-field caption is not read: no file names the classes" in caplog.text


def test_without_either_the_fields_are_listed(tmp_path: Path) -> None:
    put(tmp_path, "0.png")
    say(tmp_path, [{"file_name": "0.png", "room": "attic"}])
    with pytest.raises(SourceError, match=r"none of the fields .* name one with --label-field: room"):
        frames(tmp_path)
    assert [frame.label for frame in frames(tmp_path, label_field="room")] == ["attic"]


def test_a_file_that_labels_nothing_says_so(tmp_path: Path) -> None:
    put(tmp_path, "0.png")
    say(tmp_path, [{"file_name": "0.png", "label": None}])
    with pytest.raises(SourceError, match=r"no picture of which metadata.jsonl says the class; it has 1 pictures"):
        frames(tmp_path)
