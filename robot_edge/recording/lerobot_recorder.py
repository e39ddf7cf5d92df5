"""Records into a LeRobot data set (v3.0), which is whole after each of its episodes, whatever ends the recording."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from broker.errors import ConfigError, ReflexarcError
from broker.program.machine import refused
from broker.program.plain_text import counted
from broker.wire.messages import ClassEdit
from hierarchy.runtime.checkpoint import write_bytes
from robot_edge.sources.frames import NOMINAL_RATE, Frame, relabelled
from robot_edge.sources.lerobot.parquet import load_pyarrow
from robot_edge.sources.lerobot.source import LESSON, OWN, SCENE, TIME

CAMERA = "observation.images.camera"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES, TASKS, INFO = "meta/episodes/chunk-000/file-000.parquet", "meta/tasks.parquet", "meta/info.json"
# LeRobot's own number of files in a folder.
CHUNK = 1000
# An episode is on the disk when it ends: what a kill may lose. It ends with its lesson, or here.
MAX_SECONDS, MAX_FRAMES, MAX_BYTES = 10.0, 500, 32_000_000
# PNG's level 1 takes a third of the time of Pillow's default, for files a tenth larger.
PNG_LEVEL = 1
# What LeRobot's own features are, and those that `lerobot:` replays a recording by.
COUNTS = {"frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64"}
INDEX = "__index_level_0__"


@dataclass
class _Episode:
    """An episode on the disk. shown: how many of its frames are of each label and lesson."""

    length: int
    begin: int
    shown: Counter[tuple[str, int]]


@dataclass
class _Rows:
    """The frames of the episode that is being recorded."""

    pictures: list[bytes] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    lessons: list[int] = field(default_factory=list)
    scenes: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


class LeRobotRecorder:
    """Writes frames into a new folder that LeRobot reads; use it as a context manager.

    Pictures are lossless, in the rows; labels are tasks, and a frame without one has the empty task. An episode ends
    with its lesson, or after MAX_SECONDS. A folder that is there must be empty.

    frames, labelled, shown, source: as of Recorder.
    """

    def __init__(self, path: Path, *, raw: bool = False) -> None:
        """Create the folder. Raises ConfigError where it cannot be, or has something in it."""
        load_pyarrow()
        self._path = path
        self._format: dict[str, Any] = {"format": "BMP"} if raw else {"format": "PNG", "compress_level": PNG_LEVEL}
        try:
            path.mkdir(parents=True, exist_ok=True)
            is_empty = not any(path.iterdir())
        except OSError as error:
            raise refused(f"--out lerobot:{path}", error, path=path.parent) from error
        if not is_empty:
            raise ConfigError(f"--out lerobot:{path} is there already; choose another name, or remove it")
        self.source = f"lerobot:{path}"
        self.frames = self.labelled = 0
        self.shown: str | None = None
        self._tasks: list[str] = []
        self._episodes: list[_Episode] = []
        self._rows, self._bytes, self._since = _Rows(), 0, 0.0
        self._lesson = 0
        self._fps = 0.0
        self._shape = [0, 0, 3]

    def __enter__(self) -> LeRobotRecorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.close()
        except ReflexarcError:
            if error is None:  # else it would hide why nothing was recorded
                raise

    def add(self, frame: Frame) -> None:
        """Write a frame. Raises StorageError where the disk takes no more."""
        begins = frame.label is not None and frame.session != self._lesson
        if begins:
            self._lesson = frame.session
        is_long = len(self._rows.times) >= MAX_FRAMES or self._bytes >= MAX_BYTES
        if begins or is_long or (self._rows.times and time.monotonic() - self._since > MAX_SECONDS):
            self._end_episode()
        if not self._rows.times:
            self._since = time.monotonic()
        file = io.BytesIO()
        Image.fromarray(frame.image).save(file, **self._format)
        if not self.frames:
            self._shape = list(frame.image.shape)
        rows = self._rows
        rows.pictures.append(file.getvalue())
        rows.labels.append(frame.label or "")
        rows.lessons.append(frame.session)
        rows.scenes.append(frame.scene)
        rows.times.append(frame.time)
        self._bytes += file.tell()
        self.shown = frame.label
        self.frames += 1
        self.labelled += frame.label is not None

    def edit(self, edit: ClassEdit) -> None:
        """Change the labels of all frames before, as they are on the disk. Raises StorageError as ``add`` does."""
        self._end_episode()
        is_other_text = edit.change == "rename" and edit.to not in self._tasks
        if is_other_text:  # then the rows stay as they are
            self._tasks = [edit.to if task == edit.name else task for task in self._tasks]
        self._task(edit.to or "")
        try:
            self._write_tasks()
            for number, episode in enumerate(self._episodes):
                shown = Counter[tuple[str, int]]()
                for (label, lesson), count in episode.shown.items():
                    shown[relabelled(label or None, lesson, edit) or "", lesson] += count
                if shown != episode.shown:
                    episode.shown = shown
                    if not is_other_text:
                        self._relabel(number, edit)
            self._write_meta()
        except OSError as error:
            raise self._full(error) from error

    def close(self) -> None:
        """End the last episode; remove the folder where there is no frame. Raises ConfigError and StorageError."""
        self._end_episode()
        if not self.frames:
            self._path.rmdir()
            raise ConfigError(f"--out lerobot:{self._path}: nothing was recorded, as no frame came")

    def _end_episode(self) -> None:
        rows, self._rows, self._bytes = self._rows, _Rows(), 0
        if not rows.times:
            return
        if not self._fps:
            distance = float(np.median(np.diff(rows.times))) if len(rows.times) > 1 else 0.0
            self._fps = max(1, round(1 / distance)) if distance > 1e-3 else NOMINAL_RATE
        number, length = len(self._episodes), len(rows.times)
        begin = self._episodes[-1].begin + self._episodes[-1].length if self._episodes else 0
        pa = load_pyarrow()
        picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table(
            {
                CAMERA: pa.array([{"bytes": one, "path": None} for one in rows.pictures], picture),
                SCENE: np.array(rows.scenes, np.int64),
                LESSON: np.array(rows.lessons, np.int64),
                TIME: np.array(rows.times, np.float64),
                # LeRobot wants them evenly apart; when a frame was taken is in TIME.
                "timestamp": (np.arange(length) / self._fps).astype(np.float32),
                "frame_index": np.arange(length),
                "episode_index": np.full(length, number),
                "index": np.arange(begin, begin + length),
                "task_index": np.array([self._task(label) for label in rows.labels], np.int64),
            }
        )
        try:
            self._write_table(self._data(number), table)
            self._episodes.append(_Episode(length, begin, Counter(zip(rows.labels, rows.lessons, strict=True))))
            self._write_tasks()
            self._write_meta()
        except OSError as error:
            raise self._full(error) from error

    def _relabel(self, number: int, edit: ClassEdit) -> None:
        path = self._data(number)
        table = load_pyarrow().parquet.read_table(self._path / path)
        labels = [self._tasks[place] or None for place in table["task_index"].to_pylist()]
        after = [
            self._task(relabelled(label, lesson, edit) or "")
            for label, lesson in zip(labels, table[LESSON].to_pylist(), strict=True)
        ]
        place = table.schema.get_field_index("task_index")
        self._write_table(path, table.set_column(place, "task_index", load_pyarrow().array(after)))

    def _task(self, label: str) -> int:
        if label not in self._tasks:
            self._tasks.append(label)
        return self._tasks.index(label)

    def _data(self, number: int) -> str:
        return DATA_PATH.format(chunk_index=number // CHUNK, file_index=number % CHUNK)

    def _write_tasks(self) -> None:
        """Write the tasks as pandas does, with the texts as index."""
        pa = load_pyarrow()
        columns = [
            {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"},
            {"name": None, "field_name": INDEX, "pandas_type": "unicode", "numpy_type": "object"},
        ]
        index = {"index_columns": [INDEX], "column_indexes": [], "columns": columns, "pandas_version": "2.0"}
        table = pa.table({"task_index": np.arange(len(self._tasks)), INDEX: pa.array(self._tasks, pa.string())})
        self._write_table(TASKS, table.replace_schema_metadata({"pandas": json.dumps(index)}))

    def _write_meta(self) -> None:
        """Say last what is there, so that whoever reads meanwhile finds what is said."""
        numbers = np.arange(len(self._episodes))
        lengths = np.array([one.length for one in self._episodes])
        begins = np.array([one.begin for one in self._episodes])
        tasks = [sorted({label for label, _ in one.shown}) for one in self._episodes]
        columns = {
            "episode_index": numbers,
            "tasks": load_pyarrow().array(tasks, load_pyarrow().list_(load_pyarrow().string())),
            "length": lengths,
            "data/chunk_index": numbers // CHUNK,
            "data/file_index": numbers % CHUNK,
            "dataset_from_index": begins,
            "dataset_to_index": begins + lengths,
            "meta/episodes/chunk_index": 0 * numbers,
            "meta/episodes/file_index": 0 * numbers,
        }
        self._write_table(EPISODES, load_pyarrow().table(columns))
        write_bytes(self._path / INFO, json.dumps(self._info(), indent=4).encode())

    def _info(self) -> dict[str, Any]:
        def feature(dtype: str, shape: list[int], names: list[str] | None = None) -> dict[str, Any]:
            return {"dtype": dtype, "shape": shape, "names": names}

        return {
            "codebase_version": "v3.0",
            "robot_type": None,
            "total_episodes": len(self._episodes),
            "total_frames": sum(one.length for one in self._episodes),
            "total_tasks": len(self._tasks),
            "chunks_size": CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": self._fps,
            "splits": {"train": f"0:{len(self._episodes)}"},
            "data_path": DATA_PATH,
            "video_path": None,
            "features": {
                CAMERA: feature("image", self._shape, ["height", "width", "channels"]),
                **{name: feature(one.dtype, one.shape) for name, one in OWN.items()},
                "timestamp": feature("float32", [1]),
                **{name: feature(dtype, [1]) for name, dtype in COUNTS.items()},
            },
        }

    def _write_table(self, place: str, table: Any) -> None:
        """Write a parquet file in one piece. Raises OSError."""
        path = self._path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        sink = load_pyarrow().BufferOutputStream()
        load_pyarrow().parquet.write_table(table, sink, compression="snappy")
        write_bytes(path, sink.getvalue().to_pybytes())

    def _full(self, error: OSError) -> ReflexarcError:
        return refused(f"--out lerobot:{self._path}, {counted(self.frames, 'frame')} recorded", error, path=self._path)
