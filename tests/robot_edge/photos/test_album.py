from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from broker.errors import SourceError
from broker.security.names_key import SivCipher
from broker.wire.names import KeyedNames
from robot_edge.learning.settings import NetworkSettings
from robot_edge.photos.album import SHOWN_SIDE, open_album, readable
from robot_edge.photos.config import PhotosConfig
from robot_edge.photos.lessons import Lesson
from robot_edge.photos.table import lessons_table
from tests.robot_edge.evaluation.test_evaluate import one


def folder(path: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        (path / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 6), (number, 0, 0)).save(path / name / f"{number}.png")
    return path


def config(path: Path, **flags: object) -> PhotosConfig:
    return PhotosConfig.from_flags(photos=str(path), **{"backbone": "resnet18", **flags})


def test_photos_are_kept_back_and_never_taught(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    album = open_album(config(folder(tmp_path, {"cup": 9, "fork": 5, "lone": 1}), each=4))
    assert [(one.name, len(one.taught), len(one.judged)) for one in album.classes] == [("cup", 4, 3), ("fork", 3, 2)]
    for photos in album.classes:
        assert not set(photos.taught) & set(photos.judged)
    assert "lone is left out: of 1 photos" in caplog.text
    source = album.judged()
    shown = [frame.label for _ in range(source.length or 0) if (frame := source.next())]
    assert sorted(str(name) for name in shown) == ["cup"] * 3 + ["fork"] * 2


def test_another_folder_may_be_judged_by(tmp_path: Path) -> None:
    taught, judged = folder(tmp_path / "a", {"cup": 3, "fork": 2}), folder(tmp_path / "b", {"cup": 2, "fork": 1})
    album = open_album(config(taught, held_out=str(judged)))
    assert [(len(one.taught), len(one.judged)) for one in album.classes] == [(3, 2), (2, 1)]
    assert album.judged().length == 3


def test_a_name_that_no_class_may_have_is_said_before_anything_is_taught(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"--photos .* with --names-key a name has 31 at most"):
        open_album(config(folder(tmp_path, {"cup": 2, "f" * 32: 2})), KeyedNames(SivCipher(bytes(64))).check)


def test_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has 1 class with photos to teach and to judge by"):
        open_album(config(folder(tmp_path, {"cup": 9, "lone": 1})))


def test_what_cannot_be_read_is_named_and_what_is_large_is_shown_as_a_camera_would(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.new("RGB", (3000, 1500)).save(tmp_path / "large.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    photos = readable([str(tmp_path / "large.png"), str(tmp_path / "broken.jpg")])
    assert [photo.shape for photo in photos] == [(SHOWN_SIDE // 2, SHOWN_SIDE, 3)]
    assert photos[0].dtype == np.uint8
    assert "broken.jpg" in caplog.text


def test_without_a_setting_of_the_network_it_is_that_of_a_camera(tmp_path: Path) -> None:
    assert PhotosConfig.from_flags(photos=str(tmp_path)).network.backbone.startswith("timm:")
    own = PhotosConfig.from_flags(photos=str(tmp_path), backbone="resnet18").network
    assert own == NetworkSettings(backbone="resnet18")


def test_the_table_has_each_class_and_all() -> None:
    lessons = [Lesson(name="mug", shown=4, seconds=None), Lesson(name="cup", shown=3, seconds=2.26)]
    table = lessons_table(lessons, [one(taught=True, cloud="mug"), one(taught=True)])
    cells = [list(column.cells) for column in table.columns]
    assert cells[0] == ["mug", "cup", "all"]
    assert cells[2] == ["-", "2.3", "2.3"]
    assert cells[3] == ["2 of 2", "-", "100.0 %"]
    assert cells[4] == ["1 of 1", "-", "100.0 %"], "photos that the cloud did not answer for are not counted"
