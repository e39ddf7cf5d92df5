from __future__ import annotations

import logging
import os
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from broker.errors import SourceError
from robot_edge.sources.folder import FolderSource
from robot_edge.sources.frames import LeftOut
from robot_edge.sources.listing import list_pictures
from robot_edge.sources.opening import open_source
from robot_edge.sources.tally import describe


def put(folder: Path, *places: str | bytes) -> Path:
    """Write a picture at each place below the folder."""
    for place in places:
        path = folder / os.fsdecode(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path, "PNG")
    return folder


def classes(folder: Path) -> dict[str, int]:
    return dict(Counter(name for _, name in list_pictures(folder).pictures))


def left_out(folder: Path) -> dict[str, tuple[int, str]]:
    return {one.kind: (one.count, one.example) for one in list_pictures(folder).left_out}


def test_pictures_are_found_in_every_format_however_deep_they_lie(tmp_path: Path) -> None:
    suffixes = ("jpg", "JPEG", "jfif", "png", "PNG", "webp", "bmp", "tif", "TIFF", "gif", "avif", "pgm", "mpo")
    put(tmp_path, *(f"cup/{number}.{suffix}" for number, suffix in enumerate(suffixes)))
    put(tmp_path, "fork/2026-01/a.png", "fork/2026-02/day/b.png", "fork/c.png")
    assert classes(tmp_path) == {"cup": len(suffixes), "fork": 3}
    assert not left_out(tmp_path)
    frames = list(iter(FolderSource(tmp_path).next, None))
    assert Counter(frame.label for frame in frames) == classes(tmp_path)


def test_the_order_is_that_of_the_parts_of_a_path(tmp_path: Path) -> None:
    put(tmp_path, "b/1.png", "a/2.png", "a/x/1.png", "a!/1.png", "a/10.png")
    assert [place for place, _ in list_pictures(tmp_path).pictures] == [
        "a/10.png",
        "a/2.png",
        "a/x/1.png",
        "a!/1.png",
        "b/1.png",
    ]


def test_what_is_left_out_is_counted_by_kind_with_the_first_of_each(tmp_path: Path) -> None:
    put(tmp_path, "cup/0.png", "cup/.1.png", "cup/._0.png", "cup/.thumbnails/0.png", "cup/@eaDir/0.png", "1.png")
    put(tmp_path, "__MACOSX/cup/0.png", ".cache/0.png", "cup/IMG_1.HEIC", "cup/IMG_2.heic", "cup/x/notes")
    for place in ("cup/Thumbs.db", "cup/.DS_Store", "notes.txt", "cup/clip.mp4", "cup/a.verylongsuffix"):
        (tmp_path / place).touch()
    for place in ("triangle", "empty"):
        (tmp_path / place).mkdir()
    (tmp_path / "triangle" / "0.heic").touch()
    (tmp_path / "cup" / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "cup" / "pipe.png")  # to open it would take for ever
    assert classes(tmp_path) == {"cup": 1}
    assert left_out(tmp_path) == {
        "hidden files": (8, ".cache"),
        "pictures that lie in no class's folder": (1, "1.png"),
        ".heic": (3, "cup/IMG_1.HEIC"),
        ".mp4": (1, "cup/clip.mp4"),
        "other files": (1, "cup/a.verylongsuffix"),
        "broken links": (1, "cup/gone.png"),
        "no regular files": (1, "cup/pipe.png"),
        "files without a suffix": (1, "cup/x/notes"),
        "class folders without a picture": (2, "empty"),
        ".txt": (1, "notes.txt"),
    }


def test_what_is_left_out_is_said_once_with_what_to_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, "cup/0.png", "cup/1.png", "fork/2.png", "fork/1.png", "cup/IMG.heic")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            source = open_source(f"folder:{tmp_path}", image_size=8, phases=[["cup"], ["fork"]])
    assert caplog.messages == [
        f"folder {tmp_path}: left out: 1 .heic (cup/IMG.heic: convert them to JPEG or PNG)",
    ]
    assert source.left_out == (LeftOut(kind=".heic", count=1, example="cup/IMG.heic"),)


def test_no_folder_has_more_kinds_than_a_person_reads(tmp_path: Path) -> None:
    put(tmp_path, "cup/0.png")
    for number in range(50):
        (tmp_path / "cup" / f"a.{number}").touch()
    found = left_out(tmp_path)
    assert len(found) == 21
    assert found["other files"][0] == 30


def test_links_are_followed_and_a_circle_ends(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "a/1.png", "2.png")
    put(tmp_path / "set", "cup/0.png", "plate/3.png")
    (tmp_path / "set" / "fork").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "cup" / "round").symlink_to(tmp_path / "set" / "cup")
    (tmp_path / "set" / "cup" / "loop").symlink_to("loop")
    (tmp_path / "set" / "cup" / "up").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "cup" / "aside").symlink_to(tmp_path / "set" / "plate")
    (tmp_path / "set" / "dish").symlink_to("plate")  # another name for a class is one
    assert classes(tmp_path / "set") == {"cup": 1, "dish": 1, "fork": 2, "plate": 1}
    found = left_out(tmp_path / "set")
    assert found["folders that were met before"][0] == 3
    assert found["broken links"] == (1, "cup/loop")


def test_a_folder_that_cannot_be_read_is_counted_and_the_others_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "cup/0.png", "cup/locked/1.png", "fork/0.png", "fork/1.png")
    scandir = os.scandir

    def refusing(path: Any) -> Any:  # root may read everything
        if Path(path).name in ("locked", "fork"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert classes(tmp_path) == {"cup": 1}
    assert left_out(tmp_path)["folders that cannot be read"] == (2, "cup/locked, Permission denied")


def test_both_ways_of_writing_an_accent_are_one_class(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    put(tmp_path, f"{composed}/0.png", f"{apart}/1.png", "tea/0.png", "tea/1.png")
    listing = list_pictures(tmp_path)
    assert classes(tmp_path) == {composed: 2, "tea": 2}
    assert listing.hints == ("two folders are called café, in two ways of writing an accent: they are one class",)
    assert FolderSource(tmp_path, classes=[apart]).length == 2


def test_slips_in_names_and_classes_of_one_picture_are_said(tmp_path: Path) -> None:
    put(tmp_path, "Cup/0.png", "Cup/1.png", "cup/0.png", "cup/1.png", "fork/0.png")
    assert list_pictures(tmp_path).hints == (
        "the classes Cup and cup differ in case alone: they are two classes",
        "fork: of a single picture, which is learned and, without --held-out, not tested",
    )


def test_names_that_are_not_utf_8(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, b"cup/caf\xe9.png", "cup/1.png", b"cup/\xff.heic", b"cup/1.\xfa")
    (tmp_path / "cup" / "1.png").write_bytes(b"no picture")
    os.rename(tmp_path / "cup" / "1.png", os.fsencode(tmp_path / "cup") + b"/\xfe.png")
    with caplog.at_level(logging.WARNING):
        assert len(list(iter(FolderSource(tmp_path).next, None))) == 1
    for name in (r"cup/\xff.heic", r"cup/\xfe.png", r"1 .\xfa"):
        assert name in caplog.text
    assert caplog.text.encode()  # as a terminal is to show it
    put(tmp_path, b"th\xe9/1.png")
    with pytest.raises(SourceError, match=r"class name .*th.*: rename that folder") as error:
        list_pictures(tmp_path)
    assert str(error.value).encode()


def test_a_blank_at_a_name_s_end_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"'cup ': .*, without blanks at its ends: rename that folder"):
        list_pictures(put(tmp_path, "cup /0.png"))


@pytest.mark.parametrize(
    ("names", "use"),
    [
        (("train", "test"), "--source folder:.*/train --held-out folder:.*/test"),
        (("val", "Train", "test"), "--source folder:.*/Train --held-out folder:.*/test"),
        (("training", "validation"), "--source folder:.*/training --held-out folder:.*/validation"),
    ],
)
def test_the_parts_of_a_data_set_are_no_classes(tmp_path: Path, names: tuple[str, ...], use: str) -> None:
    for name in names:
        put(tmp_path, f"{name}/cup/0.png", f"{name}/fork/0.png")
    with pytest.raises(SourceError, match=f"has parts of a data set, .* and no classes: use {use}"):
        list_pictures(tmp_path)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert classes(put(tmp_path, "train/0.png", "bus/0.png")) == {"train": 1, "bus": 1}


def test_a_folder_without_a_picture_that_can_be_read_says_what_it_has(tmp_path: Path) -> None:
    put(tmp_path, "cup/0.heic", "cup/1.heic", "fork/clip.mp4")
    with pytest.raises(SourceError, match=r"it has 2 .heic .first cup/0.heic: convert.*1 .mp4 .*--source video:FILE"):
        list_pictures(tmp_path)


def test_a_kind_is_described_in_words() -> None:
    assert describe(LeftOut(kind=".txt", count=1234, example="a/b.txt")) == "1,234 .txt (first a/b.txt)"
