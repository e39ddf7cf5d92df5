from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from robot_edge.sources.opening import open_source
from robot_edge.sources.settings import SourceSettings
from robot_edge.sources.splits import part_to_test_on, with_splits


def split_folder(path: Path, *splits: str) -> str:
    for split in splits:
        for name in ("cup", "fork"):
            (path / split / name).mkdir(parents=True)
            Image.new("L", (4, 4)).save(path / split / name / "0.png")
    return f"folder:{path}"


@pytest.mark.parametrize(
    ("splits", "train", "test"),
    [
        (("train", "val", "test"), "train", "test"),
        (("train", "valid"), "train", "valid"),
        (("Training", "Testing"), "Training", "Testing"),
    ],
)
def test_one_part_is_trained_on_and_one_tested_on(
    tmp_path: Path, splits: tuple[str, ...], train: str, test: str
) -> None:
    source = split_folder(tmp_path, *splits)
    settings = with_splits(SourceSettings(source=source))
    assert (settings.source, settings.held_out) == (f"{source}/{train}", f"{source}/{test}")
    for part in (settings.source, settings.held_out):
        assert open_source(part, image_size=4).length == 2
    assert part_to_test_on(source) == settings.held_out
    assert with_splits(settings) == settings  # as a run that goes on has them


def test_held_out_wins_over_the_test_part(tmp_path: Path) -> None:
    source = split_folder(tmp_path, "train", "test")
    settings = with_splits(SourceSettings(source=source, held_out=f"{source}/train"))
    assert settings.held_out == f"{source}/train"
    other = split_folder(tmp_path / "other", "train", "val")
    assert with_splits(SourceSettings(source=f"{source}/test", held_out=other)).held_out == f"{other}/val"


@pytest.mark.parametrize("names", [("train", "cup"), ("test", "val"), ("train",)])
def test_other_folders_are_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    settings = SourceSettings(source=split_folder(tmp_path, *names))
    assert with_splits(settings) == settings


@pytest.mark.parametrize("source", ["folder:nowhere", "sim:", "camera:0", "folder:", "folder:\0"])
def test_what_is_not_there_is_left_for_others_to_say(source: str) -> None:
    assert with_splits(SourceSettings(source=source)).source == source
