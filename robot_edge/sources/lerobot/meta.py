"""What a LeRobot data set says of itself: its features, cameras, episodes, and what its tasks are called.

The layouts are those of versions 2.0, 2.1 and 3.0. Version 3 packs many episodes into a file, version 2 has files for
each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from broker.errors import SourceError
from broker.program.paths import shown
from robot_edge.sources.frames import LeftOut
from robot_edge.sources.labels import camera_of
from robot_edge.sources.lerobot.parquet import UnreadableParquet, open_parquet, read_columns

INFO = "meta/info.json"
VERSIONS = ("v2.0", "v2.1", "v3.0")
# A set with a thousand features has some 200 kB; episodes of version 2 some 100 bytes each.
MAX_JSON_BYTES = 100_000_000
MAX_EPISODES = 5_000_000
# A place in a path of info.json, as {episode_index:06d}. str.format would look up attributes, and pad to any width.
FIELD = re.compile(r"\{(\w+)(?::0(\d)d)?\}")
IMAGE, VIDEO = "image", "video"
# How the name of a camera's feature begins, most often.
CAMERA = "observation.images."


class Feature(msgspec.Struct):
    """A column of a set, or its films."""

    dtype: str
    shape: list[int] = []


class Info(msgspec.Struct):
    """What is read of meta/info.json."""

    codebase_version: str
    fps: float
    features: dict[str, Feature]
    data_path: str
    video_path: str | None = None
    chunks_size: int = 1000
    total_episodes: int = 0

    @property
    def cameras(self) -> list[str]:
        return [name for name, feature in self.features.items() if feature.dtype in (IMAGE, VIDEO)]

    @property
    def is_packed(self) -> bool:
        """Whether a file has many episodes, as in version 3."""
        return self.codebase_version == "v3.0"


class Episode(NamedTuple):
    """Where an episode's rows and its film are. film: empty where there is none. begin: in the film, in seconds."""

    number: int
    length: int
    rows: str
    film: str
    begin: float


@dataclass(frozen=True, kw_only=True)
class SetMeta:
    """A set, not read yet. camera: the feature that is shown. left_out: episodes that are not to be found."""

    path: Path
    info: Info
    camera: str
    episodes: list[Episode]
    left_out: tuple[LeftOut, ...]

    @property
    def is_filmed(self) -> bool:
        """Whether the camera's pictures are in films, and not in the rows."""
        return self.info.features[self.camera].dtype == VIDEO


def read_meta(path: Path, camera: str = "") -> SetMeta:
    """Read a set's own description, and nothing else. camera: one of several, with or without CAMERA before its name.

    Raises SourceError.
    """
    info = read_info(path)
    chosen = _camera(info, camera, path)
    if info.features[chosen].dtype == VIDEO and not info.video_path:
        raise SourceError(f"{_where(path)}: {INFO} has a video, {chosen}, and no video_path")
    missing = list[str]()
    try:
        read = _packed_episodes(path, info, chosen, missing) if info.is_packed else _episodes(path, info, chosen)
        episodes = sorted(read)
    except (UnreadableParquet, ValueError, KeyError, TypeError, OSError) as error:
        raise SourceError(f"{_where(path)}: its episodes cannot be read: {_said(error)}") from error
    if not episodes:
        why = missing[0] if missing else "LeRobot lists them when a recording is ended (finalize)"
        raise SourceError(f"{_where(path)} has no episode: {why}")
    return SetMeta(path=path, info=info, camera=chosen, episodes=episodes, left_out=_left_out(info, episodes, missing))


def read_info(path: Path) -> Info:
    """Read meta/info.json. Raises SourceError."""
    if not (path / INFO).is_file():
        raise SourceError(f"{_where(path)} has no {INFO}; expected the folder of a LeRobot data set")
    try:
        info = msgspec.json.decode(_bytes(path / INFO), type=Info)
    except (OSError, ValueError, msgspec.DecodeError) as error:
        raise SourceError(f"{_where(path)}: {INFO} cannot be read: {_said(error)}") from error
    if info.codebase_version not in VERSIONS:
        raise SourceError(
            f"{_where(path)} is of version {info.codebase_version[:20]}; read are {', '.join(VERSIONS)}: convert it "
            "with LeRobot's own scripts"
        )
    if not (0 < info.fps <= 10_000 and info.chunks_size > 0):
        raise SourceError(f"{_where(path)}: {INFO} says {info.fps:g} fps, and {info.chunks_size} files in a folder")
    return info


def read_names(path: Path, what: str) -> dict[int, str]:
    """Return what tasks or subtasks (`what`) are called, by their index. Raises SourceError."""
    index = f"{what}_index"
    lines, table = path / "meta" / f"{what}s.jsonl", path / "meta" / f"{what}s.parquet"
    try:
        if lines.exists():
            return {int(line[index]): str(line[what]) for line in _lines(lines)}
        # The text is the index of a pandas table, which is a column with a name of its own.
        names = _text_column(table, index)
        columns = read_columns(table, [index, names], text=[names])
        return dict(zip(columns[index].to_pylist(), columns[names].to_pylist(), strict=True))
    except (UnreadableParquet, ValueError, KeyError, TypeError, OSError, msgspec.DecodeError) as error:
        raise SourceError(f"{_where(path)}: its {what}s cannot be read: {_said(error)}") from error


def path_below(template: str, **values: int | str) -> str:
    """Return a path of info.json with its fields filled in. Raises ValueError for one that leaves the set's folder."""
    text = FIELD.sub(lambda found: str(values[found[1]]).zfill(int(found[2] or 0)), template)
    if "{" in text or text.startswith("/") or ".." in text.split("/"):
        raise ValueError(f"{template[:80]!r} is no path of a set")
    return text


def _camera(info: Info, asked: str, path: Path) -> str:
    names = {name.removeprefix(CAMERA): name for name in info.cameras}
    return names[camera_of(names, asked.removeprefix(CAMERA), _where(path))]


def _packed_episodes(path: Path, info: Info, camera: str, missing: list[str]) -> Iterator[Episode]:
    """Yield the episodes of version 3. missing: is told of files that have no end, as a killed recording leaves one."""
    columns = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    film = f"videos/{camera}/"
    if info.features[camera].dtype == VIDEO:
        columns += [film + "chunk_index", film + "file_index", film + "from_timestamp"]
    files = sorted((path / "meta" / "episodes").glob("*/*.parquet"))
    count = 0
    for file in files:
        try:
            table = read_columns(file, columns)
        except UnreadableParquet as error:
            missing.append(str(error))
            continue
        count += table.num_rows
        if count > MAX_EPISODES:
            raise ValueError(f"more than {MAX_EPISODES:,}")
        for number, length, chunk, place, *shown_in in zip(*(table[one].to_pylist() for one in columns), strict=True):
            rows = path_below(info.data_path, chunk_index=chunk, file_index=place)
            yield Episode(number, length, rows, *_film(info, camera, shown_in))


def _film(info: Info, camera: str, values: Sequence[Any]) -> tuple[str, float]:
    """Return an episode's film and where it begins; none where it was not encoded when the recording was killed."""
    if not values or any(one is None or one != one for one in values):
        return "", 0.0
    chunk, place, begin = values
    return path_below(info.video_path or "", video_key=camera, chunk_index=int(chunk), file_index=int(place)), begin


def _episodes(path: Path, info: Info, camera: str) -> Iterator[Episode]:
    """Yield the episodes of version 2."""
    for line in _lines(path / "meta" / "episodes.jsonl"):
        number, length = int(line["episode_index"]), int(line["length"])
        values: dict[str, int | str] = {
            "episode_chunk": number // info.chunks_size,
            "episode_index": number,
            "video_key": camera,
        }
        film = path_below(info.video_path or "", **values) if info.features[camera].dtype == VIDEO else ""
        yield Episode(number, length, path_below(info.data_path, **values), film, 0.0)


def _left_out(info: Info, episodes: Sequence[Episode], missing: Sequence[str]) -> tuple[LeftOut, ...]:
    lacking = info.total_episodes - len(episodes)
    if lacking <= 0 and not missing:
        return ()
    return (
        LeftOut(
            kind="episodes that meta/ does not list to the end",
            count=max(lacking, len(missing)),
            example=missing[0] if missing else f"episode {episodes[-1].number + 1}",
        ),
    )


def _text_column(path: Path, index: str) -> str:
    with open_parquet(path) as file:
        columns: list[str] = file.schema_arrow.names
    names = [name for name in columns if name != index]
    if len(names) != 1:
        raise ValueError(f"{path} has the columns {', '.join(columns)[:200]}")
    return names[0]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects in a file of JSON lines; a last line that a kill has cut off is left out."""
    lines = _bytes(path).splitlines(keepends=True)
    for number, line in enumerate(lines):
        try:
            value = msgspec.json.decode(line)
        except msgspec.DecodeError:
            if number == len(lines) - 1 and not line.endswith(b"\n"):
                return
            raise
        if not isinstance(value, dict):
            raise ValueError(f"{path}, line {number + 1} is no object")
        yield value


def _bytes(path: Path) -> bytes:
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise ValueError(f"{path}: {size:,} bytes, limit {MAX_JSON_BYTES:,}")
    return path.read_bytes()


def _where(path: Path) -> str:
    return f"lerobot {shown(path)}"


def _said(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{shown(error.filename)} is missing"
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)
