from __future__ import annotations

import logging
import shutil
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image

from broker.errors import ConfigError
from robot_edge.run.config import RobotConfig
from robot_edge.run.source_files import SourceFiles, begin_behind, files_of, go_on_with, read_files
from robot_edge.sources.frames import Frame, Numbering
from robot_edge.sources.opening import open_source


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    """Twenty pictures of each of two classes, each of a grey of its own."""
    for grey in range(40):
        path = tmp_path / "set" / ("cup", "fork")[grey % 2] / f"{grey:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (grey, grey, grey)).save(path)
    return tmp_path / "set"


def config_of(source: Path, kind: str = "folder", **settings: str) -> RobotConfig:
    return RobotConfig.from_flags(source=f"{kind}:{source}", run_dir=str(source.parent / "run"), **settings)


def shown(folder: Path, numbering: Numbering | None, position: int = 0, count: int | None = None) -> list[Frame]:
    source = open_source(f"folder:{folder}", image_size=8, epochs=2, numbering=numbering)
    source.seek(position)
    return list(islice(iter(source.next, None), count))


def greys(frames: list[Frame]) -> list[int]:
    return [int(frame.image[0, 0, 0]) for frame in frames]


def is_held_out(frames: list[Frame]) -> dict[int, bool]:
    return {int(frame.image[0, 0, 0]): frame.scene % 10 == 0 for frame in frames}


def written(files: SourceFiles, run: Path) -> SourceFiles:
    """Return what the next process reads."""
    run.mkdir(exist_ok=True)
    files.write(run)
    read = read_files(run)
    assert read == files
    return read


def test_a_run_that_goes_on_keeps_its_order_and_what_is_held_out(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(folder)
    before = written(files_of(config), config.run_path)
    whole = shown(folder, None)
    Image.new("RGB", (4, 4), (200, 0, 0)).save(folder / "cup" / "00a.png")  # before all others
    Image.new("RGB", (4, 4), (201, 0, 0)).save(folder / "aaa.png")
    (folder / "ant").mkdir()
    shutil.copy(folder / "cup" / "00.png", folder / "ant")
    gone = folder / "fork" / "21.png"
    gone.unlink()
    with caplog.at_level(logging.WARNING):
        numbering = go_on_with(before, files_of(config), config)
        rest = shown(folder, numbering, position=30)
    assert greys(rest) == [grey for grey in greys(whole)[30:] if grey != 21]
    held_out = is_held_out(whole)
    assert all(held_out[grey] == now for grey, now in is_held_out(rest).items())
    assert "1 picture is gone since the run began, and passed over: fork/21.png" in caplog.text
    assert "2 pictures are new since the run began, and not shown: ant/00.png and 1 more" in caplog.text
    assert f"--weights {config.run_path}" in caplog.text
    assert f"skipping {gone}" in caplog.text


def test_an_unchanged_folder_is_gone_on_with_in_silence(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = config_of(folder)
    before = written(files_of(config), config.run_path)
    numbering = go_on_with(before, files_of(config), config)
    assert greys(shown(folder, numbering)) == greys(shown(folder, None))
    assert not caplog.text


def test_pictures_that_changed_places_are_refused(folder: Path) -> None:
    config = config_of(folder)
    before = written(files_of(config), config.run_path)
    Image.new("RGB", (99, 99)).save(folder / "cup" / "00.png")
    with pytest.raises(ConfigError, match=r"is not what it was .* .cup/00.png.: .*another --run-dir, with --weights"):
        go_on_with(before, files_of(config), config)


def test_a_run_with_the_weights_of_another_holds_out_nothing_that_one_trained_on(folder: Path) -> None:
    config = config_of(folder)
    former = written(files_of(config), config.run_path)
    trained = {grey for grey, held_out in is_held_out(shown(folder, None)).items() if not held_out}
    (folder / "cup" / "02.png").unlink()
    Image.new("RGB", (99, 99), (250, 0, 0)).save(folder / "fork" / "03.png")  # another picture: a number behind
    for grey in range(100, 140):
        Image.new("RGB", (4, 4), (grey, grey, grey)).save(folder / "cup" / f"000-{grey}.png")
    files = begin_behind(former, files_of(config))
    now = is_held_out(shown(folder, Numbering(numbers=files.numbers, is_all=False)))
    assert len(now) == 40 - 1 + 40
    assert not [grey for grey in trained if now.get(grey)]
    assert sum(now.values()) >= 7
    again = written(files, config.run_path)
    assert begin_behind(again, files_of(config)) == files


def test_without_that_another_picture_moves_what_is_held_out(folder: Path) -> None:
    trained = {grey for grey, held_out in is_held_out(shown(folder, None)).items() if not held_out}
    Image.new("RGB", (4, 4), (200, 0, 0)).save(folder / "cup" / "00a.png")
    now = is_held_out(shown(folder, None))
    assert [grey for grey in trained if now[grey]]


def test_another_folder_is_numbered_from_the_start(folder: Path, tmp_path: Path) -> None:
    former = files_of(config_of(folder))
    (tmp_path / "other" / "dog").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "other" / "dog" / "x.png")
    now = files_of(config_of(tmp_path / "other"))
    assert begin_behind(former, now) == now


@pytest.mark.parametrize("changed", ["clip.mp4", "labels.csv"])
def test_another_video_or_other_labels_are_another_run(tmp_path: Path, changed: str) -> None:
    for name in ("clip.mp4", "labels.csv"):
        (tmp_path / name).write_bytes(bytes(200_000))
    config = config_of(tmp_path / "clip.mp4", "video", labels=str(tmp_path / "labels.csv"))
    before = written(files_of(config), config.run_path)
    assert go_on_with(before, files_of(config), config) is None
    (tmp_path / changed).write_bytes(bytes(199_999) + b"1")  # as long as before
    with pytest.raises(ConfigError, match="is not what it was"):
        go_on_with(before, files_of(config), config)


def test_another_bag_is_another_run(tmp_path: Path) -> None:
    bag = tmp_path / "drive"
    bag.mkdir()
    for name in ("metadata.yaml", "drive_0.mcap"):
        (bag / name).write_bytes(b"x")
    config = config_of(bag, "bag")
    before = written(files_of(config), config.run_path)
    (bag / "notes.txt").touch()
    go_on_with(before, files_of(config), config)
    (bag / "drive_1.mcap").touch()
    with pytest.raises(ConfigError, match=r"is not what it was .*drive_1.mcap"):
        go_on_with(before, files_of(config), config)


def test_what_is_no_file_is_not_written(tmp_path: Path) -> None:
    files_of(RobotConfig.from_flags(source="sim:")).write(tmp_path)
    assert read_files(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": ["x", "y"]}'])
def test_a_damaged_list_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "source.json").write_text(text)
    with pytest.raises(ConfigError, match=r"source.json cannot be read .*: put a copy of it back, or remove it"):
        read_files(tmp_path)


def test_a_name_that_is_not_utf_8_is_known_again(folder: Path) -> None:
    (folder / "cup" / "\udcff.png").write_bytes((folder / "cup" / "00.png").read_bytes())
    config = config_of(folder)
    before = written(files_of(config), config.run_path)
    assert len(shown(folder, go_on_with(before, files_of(config), config))) == 2 * 41


@pytest.mark.parametrize("suffix", [".bmp", ".ppm", ".tiff"])
def test_pictures_that_all_have_one_size_are_told_from_each_other(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "set"
    (folder / "cup").mkdir(parents=True)
    for grey in (1, 2, 3):
        Image.new("RGB", (4, 4), (grey, grey, grey)).save(folder / "cup" / f"{grey}{suffix}")
    config = config_of(folder)
    before = files_of(config)
    assert go_on_with(before, files_of(config), config)
    shutil.move(folder / "cup" / f"1{suffix}", tmp_path / "kept")
    shutil.move(folder / "cup" / f"2{suffix}", folder / "cup" / f"1{suffix}")
    shutil.move(tmp_path / "kept", folder / "cup" / f"2{suffix}")
    with pytest.raises(ConfigError, match="is not what it was"):
        go_on_with(before, files_of(config), config)


def test_a_lerobot_set_to_which_episodes_came_is_refused(tmp_path: Path) -> None:
    for name in ("meta/info.json", "meta/episodes/chunk-000/file-000.parquet"):
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        (tmp_path / "set" / name).write_text(name)
    config = config_of(tmp_path / "set", "lerobot")
    before = written(files_of(config), config.run_path)
    assert go_on_with(before, files_of(config), config) is None
    (tmp_path / "set/meta/episodes/chunk-000/file-001.parquet").write_text("more")
    with pytest.raises(ConfigError, match=r"is not what it was .* \(meta/episodes/chunk-000/file-001.parquet\)"):
        go_on_with(before, files_of(config), config)
