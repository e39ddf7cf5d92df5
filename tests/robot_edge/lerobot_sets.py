"""The sets that the lerobot package wrote (tests/golden/README.md), and what is in them."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robot_edge.sources.frames import Frame
from robot_edge.sources.opening import open_source
from robot_edge.sources.settings import SourceOptions
from tests.robot_edge.lerobot_peer import CAMERAS, LENGTHS, labels

GOLDEN = Path(__file__).parents[1] / "golden" / "lerobot.tar.xz"
SETS = ("v3.0-films", "v3.0-pictures", "v2.1-films", "v2.1-pictures")
EPISODES = [episode for episode, length in enumerate(LENGTHS) for _ in range(length)]
WRITTEN = [labels(episode, number - sum(LENGTHS[:episode]), number) for number, episode in enumerate(EPISODES)]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all sets, for reading only."""
    folder = tmp_path_factory.mktemp("lerobot")
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def sets(written: Path, tmp_path: Path) -> Path:
    """A copy of them, to be damaged."""
    return Path(shutil.copytree(written, tmp_path / "sets"))


def frames_of(path: Path, **options: Any) -> list[Frame]:
    with closing(open_source(f"lerobot:{path}", SourceOptions(**{"camera": "front", **options}))) as source:
        return list(read(source))


def read(source: Any) -> Iterator[Frame]:
    return iter(source.next, None)


def numbers(frames: Sequence[Frame], camera: str = "front") -> list[int]:
    """Return which frame of the set each is, by its brightness in the camera's colour."""
    colour = CAMERAS.index(camera)
    return [round((float(frame.image[..., colour].mean()) - 40) / 12) for frame in frames]


def rewrite(path: Path, **columns: Any) -> None:
    """Replace columns of a parquet file, or add them."""
    table = pq.read_table(path)
    for name, values in columns.items():
        values = values if isinstance(values, pa.Array) else pa.array(values)
        place = table.schema.get_field_index(name)
        table = table.append_column(name, values) if place < 0 else table.set_column(place, name, values)
    pq.write_table(table, path)


def change_info(path: Path, **values: Any) -> None:
    info = json.loads((path / "meta/info.json").read_text())
    (path / "meta/info.json").write_text(json.dumps({**info, **values}))


def cut(path: Path, share: float = 0.6) -> None:
    """Leave the first part of a file, as a kill does."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def is_colour(frame: Frame, camera: str) -> bool:
    return int(np.argmax(frame.image.mean(axis=(0, 1)))) == CAMERAS.index(camera)
