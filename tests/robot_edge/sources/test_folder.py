from __future__ import annotations

import logging
import os
import shutil
import tracemalloc
from itertools import islice
from pathlib import Path
from weakref import ref

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from broker.errors import SourceError
from robot_edge.sources.folder import FolderSource
from robot_edge.sources.frames import Frame, FrameSource

CLASSES = {"cat": 6, "dog": 5}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of one grey each; grey 10 * n is the n-th in the order of names."""
    grey = 0
    for name, count in CLASSES.items():
        (tmp_path / name).mkdir()
        for number in range(count):
            suffix = ("png", "jpg", "JPEG")[number % 3]
            Image.new("RGB", (9, 7), (grey, grey, grey)).save(tmp_path / name / f"{number}.{suffix}")
            grey += 10
    return tmp_path


def shown(source: FrameSource, count: int | None = None) -> list[Frame]:
    return list(islice(iter(source.next, None), count))


def scenes(source: FrameSource, count: int | None = None) -> list[int]:
    return [frame.scene for frame in shown(source, count)]


def test_every_picture_is_shown_once_with_its_class_and_a_scene_of_its_own(folder: Path) -> None:
    source = FolderSource(folder)
    frames = shown(source)
    assert source.length == len(frames) == 11
    assert sorted(frame.scene for frame in frames) == list(range(11))
    for frame in frames:
        assert frame.label == ("cat" if frame.scene < 6 else "dog")
        assert frame.image.shape == (7, 9, 3)
        assert frame.image.dtype == np.uint8
        assert abs(frame.image.astype(int) - 10 * frame.scene).max() <= 1
    assert source.next() is None


def test_a_seed_repeats_the_order_and_another_one_mixes_anew(folder: Path) -> None:
    assert scenes(FolderSource(folder, seed=1)) == scenes(FolderSource(folder, seed=1))
    assert scenes(FolderSource(folder, seed=1)) != scenes(FolderSource(folder, seed=2))


def test_each_epoch_shows_all_in_another_order(folder: Path) -> None:
    source = FolderSource(folder, epochs=3)
    epochs = [scenes(source, 11) for _ in range(3)]
    assert source.length == 33
    assert source.next() is None
    assert [sorted(epoch) for epoch in epochs] == [list(range(11))] * 3
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_later_epoch_reads_no_file_again(folder: Path) -> None:
    source = FolderSource(folder, epochs=3)
    first = {frame.scene: frame.image for frame in shown(source, 11)}
    shutil.rmtree(folder)
    for frame in shown(source, 22):
        assert_array_equal(frame.image, first[frame.scene])
    assert source.ended
    assert source.skipped == 0


def test_a_picture_that_is_shown_again_cannot_be_changed(folder: Path) -> None:
    source = FolderSource(folder, epochs=2)
    for frame in shown(source, 11):
        with pytest.raises(ValueError, match="read-only"):
            frame.image[0] = 255


def test_no_more_pictures_are_kept_than_there_is_room_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robot_edge.sources.indexed.MAX_KEPT_BYTES", 4 * 9 * 7 * 3 - 1)
    source = FolderSource(folder, epochs=2)
    first = scenes(source, 11)
    shutil.rmtree(folder)
    assert sorted(scenes(source)) == sorted(first[:3])
    assert source.skipped == 8


@pytest.mark.parametrize("epochs", [1, 2])
def test_nothing_is_kept_behind_the_last_epoch(folder: Path, epochs: int) -> None:
    source = FolderSource(folder, epochs=epochs)
    images = [ref(frame.image) for frame in iter(source.next, None)]
    assert len(images) == 11 * epochs
    assert not any(image() is not None for image in images)


def test_a_choice_of_classes_leaves_the_numbers_of_scenes(folder: Path) -> None:
    source = FolderSource(folder, classes=["dog"])
    assert source.length == 5
    assert sorted(scenes(source)) == [6, 7, 8, 9, 10]


def test_other_files_and_hidden_folders_are_passed_over(folder: Path) -> None:
    (folder / "notes.txt").write_text("not a class")
    (folder / "cat" / "notes.txt").write_text("not a picture")
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "0.png").write_bytes((folder / "cat" / "0.png").read_bytes())
    assert FolderSource(folder).length == 11


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK", "LA"])
def test_every_kind_of_picture_becomes_rgb(tmp_path: Path, mode: str) -> None:
    (tmp_path / "cat").mkdir()
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode).save(tmp_path / "cat" / f"0.{suffix}")
    (frame,) = shown(FolderSource(tmp_path))
    assert frame.image.shape == (8, 8, 3)
    assert frame.image.min() > 250


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "header"])
@pytest.mark.parametrize("file", ["0.png", "1.jpg"])
def test_a_corrupt_picture_is_skipped_counted_and_named_once(
    folder: Path, caplog: pytest.LogCaptureFixture, file: str, damage: str
) -> None:
    path = folder / "cat" / file
    content = path.read_bytes()
    half = len(content) // 2
    damaged = {"empty": b"", "text": b"no picture", "truncated": content[:half], "header": content[:20] + bytes(half)}
    path.write_bytes(damaged[damage])
    source = FolderSource(folder, epochs=3)
    frames = shown(source)
    assert len(frames) == 30
    assert source.skipped == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(path) in caplog.text


def test_a_file_that_is_far_too_large_is_not_read(folder: Path) -> None:
    os.truncate(folder / "cat" / "0.png", 600_000_000)  # takes no room on the disk
    source = FolderSource(folder)
    tracemalloc.start()
    assert len(shown(source)) == 10
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert source.skipped == 1
    assert peak < 10_000_000


def test_nothing_readable_is_an_error_and_no_endless_loop(folder: Path) -> None:
    for path in folder.glob("*/*"):
        path.write_bytes(b"no picture")
    source = FolderSource(folder, epochs=10)
    with pytest.raises(SourceError, match="none of the 11 pictures can be read"):
        source.next()
    with pytest.raises(SourceError, match="none of the 5 pictures can be read"):
        FolderSource(folder, classes=["dog"]).next()


def test_a_missing_folder_says_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match=r"nowhere does not exist; expected .*nowhere/<class>/"):
        FolderSource(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"file is a file .*; expected .*file/<class>/"):
        FolderSource(tmp_path / "file")


def test_a_folder_without_class_folders_says_what_is_expected(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", folder / "cat"):
        with pytest.raises(SourceError, match="has no pictures in class folders") as error:
            FolderSource(path)
        assert "did you mean" not in str(error.value)


def test_one_folder_too_high_gets_a_hint(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in CLASSES:
        (folder / name).rename(tmp_path / "data" / name)
    with pytest.raises(SourceError, match=f"did you mean folder:{tmp_path / 'data'}"):
        FolderSource(tmp_path)


def test_an_unknown_class_names_those_there_are(folder: Path) -> None:
    with pytest.raises(SourceError, match="has no class 'cow'; it has cat, dog"):
        FolderSource(folder, classes=["cat", "cow"])


@pytest.mark.parametrize("name", ["x" * 65, "two\nlines", "blank ", "?"])
def test_a_class_that_no_message_could_carry_is_refused_at_once(folder: Path, name: str) -> None:
    (folder / "dog").rename(folder / name)
    with pytest.raises(SourceError, match=r"class name .*: use (1 to 64 printable characters|another one)"):
        FolderSource(folder)
