from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from broker.errors import ConfigError
from robot_edge.learning.hidden_frames import LEAST_OF_VALUE, read_hidden
from robot_edge.run.config import RobotConfig
from robot_edge.run.start import prepare
from robot_edge.sources.frames import Pixels


def see(image: Pixels) -> Pixels:
    return np.ascontiguousarray(image[:4, :4])


def pictures(folder: Path, shade: int, count: int = LEAST_OF_VALUE) -> list[Path]:
    folder.mkdir(parents=True)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(path)
    return paths


def test_a_folder_and_a_file_say_the_same(tmp_path: Path) -> None:
    named = [(path, "ann") for path in pictures(tmp_path / "who" / "ann", 10)]
    named += [(path, "bob") for path in pictures(tmp_path / "who" / "bob", 200)]
    lines = [f"{path.relative_to(tmp_path)},{value}" for path, value in named]
    (tmp_path / "who.csv").write_text("\n".join(["file,value", *lines]))
    for text in ("who", "who.csv"):
        images, values = read_hidden(text, tmp_path / text, see, 0).draw(np.random.default_rng(0))
        assert images.shape[1:] == (4, 4, 3)
        assert {(int(image[0, 0, 0]), value) for image, value in zip(images, values.tolist(), strict=True)} == {
            (10, 0),
            (200, 1),
        }


def test_what_cannot_be_hidden_is_named_with_what_to_do(tmp_path: Path) -> None:
    pictures(tmp_path / "who" / "ann", 10)
    pictures(tmp_path / "who" / "bob", 200, count=LEAST_OF_VALUE - 1)
    (tmp_path / "other.csv").write_text("path,label\na,b\n")
    for text, says in (
        ("who", f"two values at least need {LEAST_OF_VALUE} frames each; there are ann: 8, bob: 7"),
        ("other.csv", "its first line is path, label; expected a folder"),
        ("nowhere", "does not exist"),
    ):
        with pytest.raises(ConfigError, match=f"--hide {text}.*{says}"):
            read_hidden(text, tmp_path / text, see, 0)


def test_a_front_that_stands_still_can_hide_nothing(tmp_path: Path) -> None:
    flags = {"cut": "layer1", "image_size": 16, "freeze": "all", "hide": str(tmp_path), "seed": 0}
    with pytest.raises(ConfigError, match="--hide needs a front that learns"):
        prepare(RobotConfig.from_flags(source="sim:", run_dir=str(tmp_path / "run"), **flags))


def test_to_hide_takes_one_bit() -> None:
    network = RobotConfig.from_flags(source="sim:", hide="who").network
    assert network.bits == 1
    assert RobotConfig.from_flags(source="sim:", hide="who", bits=4).network.bits == 4
