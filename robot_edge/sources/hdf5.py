"""Frames from demonstrations in HDF5: robomimic's data/demo_0/obs/..., and ALOHA's file for each episode."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from broker.errors import SourceError
from broker.program.paths import shown, what_is_wrong
from robot_edge.sources.deep_pixels import to_eight_bits
from robot_edge.sources.encoded import MAX_BYTES, decode
from robot_edge.sources.frames import NOMINAL_RATE, Pixels, check_size
from robot_edge.sources.indexed import Record, Recording
from robot_edge.sources.labels import LABEL_FIELDS, NO_CLASS, camera_of, class_named_by, label_field, listed
from robot_edge.sources.tally import Tally

SUFFIXES = (".hdf5", ".h5")
# Groups of pictures that are JPEG or PNG each, and one in which robomimic has each observation once more, a step later.
ENCODED_IN, TWICE = ("images", "rgb_images"), "next_obs"
LIKELY = (*LABEL_FIELDS, "subtask", "language_instruction", "language_raw", "env_name")
ENV_ARGS, ENV_NAME = "env_args", "env_name"
# h5py unpacks a chunk whole to read one row of it.
MAX_CHUNK_BYTES = 1_000_000_000
# Of an episode: an hour has 108,000 at 30 a second. A damaged file may say any number.
MAX_FRAMES = 1_000_000
# Objects of an episode that are looked at.
MAX_OBJECTS = 10_000
# Of so many episodes the cameras are listed.
EPISODES_LOOKED_AT = 10
# Frames without a clock that share a scene.
FRAMES_OF_SCENE = round(NOMINAL_RATE)


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One demonstration: an HDF5 group.

    cameras: datasets of pictures by their short names. values: what may name a class, by name: a value for the whole
    episode, or a dataset of one for each frame.
    """

    where: str
    cameras: dict[str, Any]
    values: dict[str, Any] = field(default_factory=dict)


def file_and_mask(path: Path) -> tuple[Path, str]:
    """Return the file, or the folder of files, and the mask of robomimic that FILE/MASK names; empty for none."""
    if not path.exists() and path.parent.is_file():
        return path.parent, path.name
    return path, ""


def check_is_hdf5(path: Path) -> None:
    """Raise SourceError unless there is a file or a folder."""
    path, _ = file_and_mask(path)
    if wrong := what_is_wrong(path):
        raise SourceError(f"hdf5 {shown(path)} {wrong}")


def cameras_in(path: Path) -> list[str]:
    """Return the cameras of the first episodes. Raises SourceError."""
    with ExitStack() as files:
        first = islice(_episodes(path, Tally(), files), EPISODES_LOOKED_AT)
        return list(dict.fromkeys(name for one in first for name in one.cameras))


def masks_in(path: Path) -> list[str]:
    """Return the masks of robomimic that a file has: names of parts of its episodes."""
    if not path.is_file():
        return []
    with _h5py().File(path, "r") as file:
        return sorted(file["mask"]) if "mask" in file else []


def read_hdf5(path: Path, camera: str = "", label: str = "") -> Recording:
    """Return the frames of a file, or of all files of a folder, episode after episode.

    path: FILE/MASK for the episodes of a mask. camera: empty for the only one. label: the field with the class; empty
    for a likely one. Raises SourceError.
    """
    where, tally = f"hdf5 {shown(path)}", Tally()
    with ExitStack() as half_open:
        episodes = list(_episodes(path, tally, half_open))
        if not episodes:
            raise SourceError(f"{where} has no episode that can be read: {listed(tally.first.values())}")
        camera = camera_of(dict.fromkeys(name for one in episodes for name in one.cameras), camera, where)
        fields = list(dict.fromkeys(name for one in episodes for name in one.values))
        label = label_field(fields, label, where, LIKELY)
        records = list(_records(episodes, camera, label, tally))
        if not records:
            raise SourceError(f"{where} has no picture of {camera}: {listed(tally.first.values())}")
        files = half_open.pop_all()
    of = {one.where: one.cameras[camera] for one in episodes if camera in one.cameras}
    return Recording(
        where=where,
        records=records,
        read=lambda item: _picture(of[item[0]], item[1]),
        in_order=True,
        fields=tuple(fields),
        left_out=tally.all(),
        unlabelled=f"nothing says what {where} shows: name a field with --label-field: {listed(fields)}",
        close=files.close,
    )


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise SourceError("hdf5: needs h5py: pip install 'reflexarc[hdf5]'") from None
    return h5py


def _episodes(path: Path, tally: Tally, files: ExitStack) -> Iterator[Episode]:
    """Yield the episodes of all files, which stay open until ``files`` is closed. Raises SourceError."""
    path, mask = file_and_mask(path)
    for one in _files(path):
        yield from _in_file(one, mask, tally, files)


def _in_file(path: Path, mask: str, tally: Tally, files: ExitStack) -> Iterator[Episode]:
    h5py = _h5py()
    try:
        file = files.enter_context(h5py.File(path, "r"))
        for group in _groups(file, mask):
            yield _episode(h5py, f"{path.name}{group.name.rstrip('/')}", group, file, tally)
    except SourceError:
        raise
    except Exception as error:  # of h5py, which promises no type for damaged files
        reason = " ".join(str(error).split())
        advice = "; it was not closed by its writer, or cut off" if "truncated" in reason else ""
        tally.add("files that cannot be read", f"{path.name}: {reason}{advice}")


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = [one for one in path.iterdir() if one.suffix.lower() in SUFFIXES]
    if not files:
        raise SourceError(f"folder {shown(path)} has no .hdf5 file")
    return sorted(files, key=lambda one: _natural(one.name))


def _natural(name: str) -> list[Any]:
    """Return a key by which demo_10 comes behind demo_9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _groups(file: Any, mask: str) -> list[Any]:
    """Return the groups of episodes: those of robomimic's ``data``, or the whole file. Raises SourceError."""
    if mask:
        masks = list(file["mask"]) if "mask" in file else []
        if mask not in masks:
            raise SourceError(f"hdf5 {shown(file.filename)} has no mask {mask!r}; it has {listed(masks)}")
        names = [name.decode() if isinstance(name, bytes) else str(name) for name in file["mask"][mask][()]]
    else:
        names = list(file["data"]) if "data" in file and hasattr(file["data"], "keys") else []
    if not names:
        return [file]
    return [file["data"][name] for name in sorted(names, key=_natural)]


def _episode(h5py: Any, where: str, group: Any, file: Any, tally: Tally) -> Episode:
    cameras, values = dict[str, Any](), dict[str, Any]()
    for count, (name, one) in enumerate(_datasets(h5py, group)):
        if count >= MAX_OBJECTS:
            tally.add("datasets beyond the first", f"{where}: {MAX_OBJECTS:,}")
            break
        if name.startswith(TWICE):
            continue
        if _is_camera(name, one):
            short = name.rpartition("/")[2]
            cameras[name if short in cameras else short] = one
        elif one.ndim <= 1 and (one.dtype.kind in "iub" or h5py.check_string_dtype(one.dtype)):
            values[name] = one
    for source in (file, group.parent, group):
        values |= {name: value for name, value in source.attrs.items() if np.ndim(value) == 0}
    if (env := _env_name(values.pop(ENV_ARGS, None))) is not None:
        values[ENV_NAME] = env
    return Episode(where=where, cameras=cameras, values=values)


def _datasets(h5py: Any, group: Any) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    group.visititems(lambda name, one: found.append((name, one)) if isinstance(one, h5py.Dataset) else None)
    return found


def _env_name(text: Any) -> Any:
    try:
        return json.loads(text)[ENV_NAME]
    except (TypeError, ValueError, KeyError):
        return None


def _is_camera(name: str, one: Any) -> bool:
    """Whether a dataset has a picture in each row: its pixels, or in a group of that name a file of it."""
    if one.ndim == 4:
        return one.shape[3] in (1, 3, 4) and one.dtype.kind in "uif"
    is_encoded = name.split("/")[-2:-1] and name.split("/")[-2] in ENCODED_IN
    return bool(is_encoded) and ((one.ndim == 2 and one.dtype == np.uint8) or (one.ndim == 1 and one.dtype.kind == "O"))


def _records(episodes: Sequence[Episode], camera: str, label: str, tally: Tally) -> Iterator[Record]:
    scene = -1
    for episode in episodes:
        pictures = episode.cameras.get(camera)
        if pictures is None:
            tally.add(f"episodes without the camera {camera}", episode.where)
            continue
        if len(pictures) > MAX_FRAMES:
            tally.add(
                "episodes that are too long", f"{episode.where}: {len(pictures):,} pictures, limit {MAX_FRAMES:,}"
            )
            continue
        if (size := _row_bytes(pictures)) > MAX_CHUNK_BYTES:
            tally.add("episodes that take too much memory", f"{episode.where}: {size:,} bytes for a picture")
            continue
        labels = _labels(episode, label, len(pictures), tally)
        for row in range(len(pictures)):
            scene += row % FRAMES_OF_SCENE == 0
            yield Record(scene, (episode.where, row), labels[row])


def _row_bytes(pictures: Any) -> int:
    shape = pictures.chunks or pictures.shape[1:]
    return int(np.prod(shape, dtype=np.int64)) * int(pictures.dtype.itemsize)


def _labels(episode: Episode, label: str, length: int, tally: Tally) -> list[str | None]:
    """Return the class of each frame of an episode."""
    value = episode.values.get(label) if label else None
    if value is None:
        return [None] * length
    if not hasattr(value, "chunks"):  # an attribute
        return [_label(value, episode.where, tally)] * length
    try:
        values = list(value[:length]) if value.ndim else [value[()]] * length
    except Exception as error:  # as above
        tally.add(f"episodes whose {label} cannot be read", f"{episode.where}: {error}")
        return [None] * length
    named = {one: _label(one, episode.where, tally) for one in dict.fromkeys(values)}
    if len(values) < length:
        tally.add(f"frames behind the last {label}", f"{episode.where}, {length - len(values):,} of them")
    return [*(named[one] for one in values), *[None] * (length - len(values))]


def _label(value: Any, where: str, tally: Tally) -> str | None:
    try:
        return class_named_by(value)
    except ValueError as error:
        tally.add(NO_CLASS, f"{where}: {error}")
        return None


def _picture(pictures: Any, row: int) -> Pixels:
    """Return a picture, (height, width, 3). Raises one of UNREADABLE."""
    if pictures.ndim == 4:
        _, height, width, channels = pictures.shape
        check_size(width, height)
        pixels = to_eight_bits(np.asarray(_row(pictures, row)))
        return np.ascontiguousarray(np.repeat(pixels, 3, axis=2) if channels == 1 else pixels[:, :, :3])
    encoded = np.asarray(_row(pictures, row))
    if encoded.nbytes > MAX_BYTES:
        raise ValueError(f"{encoded.nbytes:,} bytes, limit {MAX_BYTES:,}")
    return decode(encoded.tobytes())


def _row(pictures: Any, row: int) -> Any:
    try:
        return pictures[row]
    except Exception as error:  # as above
        raise ValueError(f"row {row} cannot be read: {error}") from error
