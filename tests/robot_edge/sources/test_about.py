from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from broker.errors import SourceError
from robot_edge.run.config import RobotConfig
from robot_edge.sources.about import command_line, look_at, sources_at, told
from robot_edge.sources.opening import open_source
from robot_edge.sources.settings import SourceOptions


def put(folder: Path, *places: str, size: tuple[int, int] = (6, 4)) -> Path:
    for place in places:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(folder / place)
    return folder


def test_a_folder_is_told_with_its_classes_sizes_and_what_is_left_out(tmp_path: Path) -> None:
    put(tmp_path, "cup/0.png", "cup/1.png", "fork/0.png")
    put(tmp_path, "fork/1.png", size=(9, 9))
    (tmp_path / "cup" / "2.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").touch()
    (source,) = sources_at(str(tmp_path))
    about = look_at(source, SourceOptions())
    assert about.labels == Counter(cup=3, fork=2)
    assert about.frames == 5
    assert told(about) == [
        f"folder:{tmp_path}",
        "  frames    5 frames",
        "  sizes     6 x 4, 9 x 9",
        "  damaged   1 of 5 pictures that were read",
        "  labels    cup: 3, fork: 2",
        "  left out  1 .txt (notes.txt)",
    ]
    assert command_line([about]) == f"robot-edge run --source folder:{tmp_path} --robot r1"


def test_parts_are_told_one_by_one_and_the_command_uses_both(tmp_path: Path) -> None:
    for part in ("train", "val"):
        put(tmp_path / "a set" / part, "cup/0.png", "fork/0.png")
    found = [look_at(source, SourceOptions()) for source in sources_at(str(tmp_path / "a set"))]
    assert [about.source.rpartition("/")[2] for about in found] == ["train", "val"]
    words = shlex.split(command_line(found))
    config = RobotConfig.from_flags(source=words[3], held_out=words[5])
    for source in (config.source.source, config.source.held_out):
        assert open_source(source, image_size=4).length == 2


def test_a_source_that_is_read_frame_by_frame_is_counted_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robot_edge.sources.about.FRAMES_READ", 50)
    about = look_at("sim:", SourceOptions())
    assert about.looked_at == sum(about.labels.values()) == 50
    assert "(of the first 50 frames)" in "\n".join(told(about))


@pytest.mark.parametrize(
    ("text", "says"),
    [("nowhere", "nowhere does not exist"), ("camera:0", "is no recording"), ("folder:nowhere", "does not exist")],
)
def test_what_is_no_recording_is_said(text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=says):
        [look_at(source, SourceOptions()) for source in sources_at(text)]
