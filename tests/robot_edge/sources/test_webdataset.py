from __future__ import annotations

import io
import tarfile
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from webdataset.writer import ShardWriter, TarWriter

from broker.errors import ConfigError, SourceError
from robot_edge.run.config import RobotConfig
from robot_edge.run.source_files import files_of, go_on_with
from robot_edge.sources.about import command_line, look_at, sources_at
from robot_edge.sources.frames import Frame
from robot_edge.sources.opening import open_source
from robot_edge.sources.settings import SourceOptions

NAMES = ("cup", "fork")


def picture(number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A picture of 8 x 6 pixels, of a grey of its own."""
    return np.full((6, 8, 3), number, np.uint8)


def sample(number: int, **more: Any) -> dict[str, Any]:
    return {"__key__": f"{number:05}", "png": picture(number), "cls": number % 2, **more}


@pytest.fixture(name="shards")
def _shards(tmp_path: Path) -> Path:
    """Ten samples in three shards, as webdataset's own writer makes them."""
    folder = tmp_path / "set"
    folder.mkdir()
    with ShardWriter(f"{folder}/toys-%03d.tar", maxcount=4, verbose=0) as writer:
        for number in range(10):
            writer.write(sample(number, json={"label": NAMES[number % 2], "room": "attic", "big": [1, 2]}))
    return folder


def write(path: Path, *samples: dict[str, Any]) -> Path:
    with TarWriter(str(path)) as writer:
        for one in samples:
            writer.write(one)
    return path


def frames(source: str, **options: Any) -> list[Frame]:
    with closing(open_source(source, SourceOptions(**options))) as opened:
        return list(iter(opened.next, None))


def greys(shown: list[Frame]) -> list[int]:
    return sorted(int(frame.image[0, 0, 0]) for frame in shown)


def left_out(source: str) -> dict[str, int]:
    with closing(open_source(source)) as opened:
        return {one.kind: one.count for one in opened.left_out}


@pytest.mark.parametrize("text", ["{}", "{}/toys-*.tar", "{}/toys-{{000..002}}.tar"])
def test_samples_of_all_shards_are_shown_with_their_classes(shards: Path, text: str) -> None:
    shown = frames("webdataset:" + text.format(shards))
    assert greys(shown) == list(range(10))
    for frame in shown:
        number = int(frame.image[0, 0, 0])
        assert (frame.label, frame.scene, frame.image.shape) == (str(number % 2), number, (6, 8, 3))


def test_the_class_may_be_a_field_of_the_object(shards: Path) -> None:
    assert Counter(frame.label for frame in frames(f"webdataset:{shards}", label_field="label")) == {
        "cup": 5,
        "fork": 5,
    }
    assert greys(frames(f"webdataset:{shards}/toys-002.tar")) == [8, 9]
    with pytest.raises(SourceError, match=r"no field 'floor': --label-field is one of cls, label, room, big"):
        frames(f"webdataset:{shards}", label_field="floor")


def test_a_picture_is_chosen_by_its_name(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tar", sample(3, **{"left.jpg": picture(100), "left.txt": "x"}), sample(4))
    with pytest.raises(SourceError, match=r"2 cameras: choose one with --camera: left, picture|picture, left"):
        frames(f"webdataset:{file}")
    assert greys(frames(f"webdataset:{file}", camera="picture")) == [3, 4]
    assert greys(frames(f"webdataset:{file}", camera="left")) == [100]


def test_parts_are_told_by_the_names_of_shards(tmp_path: Path) -> None:
    for number, name in enumerate(("toys-train-000", "toys-train-001", "toys-val-000")):
        write(tmp_path / f"{name}.tar", sample(2 * number), sample(2 * number + 1))
    parts = sources_at(str(tmp_path))
    assert parts == [f"webdataset:{tmp_path}/*train*.tar", f"webdataset:{tmp_path}/*val*.tar"]
    found = [look_at(part, SourceOptions()) for part in parts]
    assert [about.frames for about in found] == [4, 2]
    assert "--held-out" in command_line(found)


def test_a_shard_that_was_cut_off_loses_what_is_missing_alone(shards: Path) -> None:
    first = shards / "toys-000.tar"
    with tarfile.open(first) as tar:
        places = {one.name: one.offset_data for one in tar}
    whole = first.read_bytes()
    first.write_bytes(whole[: places["00002.png"] + 20])
    assert greys(frames(f"webdataset:{shards}")) == [0, 1, *range(4, 10)]
    counts = left_out(f"webdataset:{shards}")
    assert counts["shards that were cut off"] == 1
    first.write_bytes(whole[:-10_000])  # its end alone, as a writer that was killed leaves it
    first.write_bytes(whole[: places["00003.png"] - 300])
    assert greys(frames(f"webdataset:{shards}")) == [0, 1, 2, *range(4, 10)]


def test_what_is_wrong_is_counted_and_the_rest_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    write(file, sample(0), sample(1), {"__key__": "2", "cls": 1}, sample(3, cls="x" * 65), sample(4), sample(5))
    with tarfile.open(file) as tar:
        place = next(one.offset_data for one in tar if one.name == "00004.png")
    content = bytearray(file.read_bytes())
    content[place : place + 8] = bytes(8)
    file.write_bytes(content)
    with tarfile.open(file, "a") as tar:
        for name, data in (
            ("README", b"x"),
            ("6.cls", b"1"),
            ("6.png", b""),
            ("__meta__.json", b"{}"),
            ("7.cls", b"\xff"),
        ):
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
        link = tarfile.TarInfo("8.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    with closing(open_source(f"webdataset:{file}")) as source:
        shown = list(iter(source.next, None))
        assert source.skipped == 2  # the damaged and the empty picture
        assert {one.kind: one.count for one in source.left_out} == {
            "samples without a picture": 2,
            "labels that no class can have": 1,
            "files that belong to no sample": 1,
        }
    assert greys(shown) == [0, 1, 3, 5]
    assert Counter(frame.label for frame in shown) == {"0": 1, "1": 2, None: 1}


def test_what_are_no_shards_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(SourceError, match=r"has no sample that can be read: a.tar: "):
        frames(f"webdataset:{tmp_path}/a.tar")
    for text, says in (
        ("b-{0..3}.tar", "does not exist"),
        ("b-*.tar", "does not exist"),
        ("b-{3..0}.tar", "stands for no shard"),
        ("b-{0..999999999}.tar", "more than 100,000"),
    ):
        with pytest.raises(SourceError, match=says):
            frames(f"webdataset:{tmp_path}/{text}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"has no .tar file"):
        frames(f"webdataset:{tmp_path}/empty")


def test_a_run_does_not_go_on_with_other_shards(shards: Path) -> None:
    config = RobotConfig.from_flags(source=f"webdataset:{shards}/toys-*.tar", run_dir=str(shards.parent / "run"))
    before = files_of(config)
    assert len(before.marks) == 3
    assert go_on_with(before, files_of(config), config) is None
    write(shards / "toys-003.tar", sample(11))
    with pytest.raises(ConfigError, match="is not what it was"):
        go_on_with(before, files_of(config), config)
