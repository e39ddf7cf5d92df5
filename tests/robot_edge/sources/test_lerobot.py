from __future__ import annotations

import json
import random
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from broker.errors import SourceError
from robot_edge.sources.lerobot.episode_labels import read_episode_labels
from robot_edge.sources.lerobot.source import LeRobotSource
from robot_edge.sources.opening import open_source
from robot_edge.sources.recordings import source_for
from robot_edge.sources.settings import SourceOptions
from tests.robot_edge.lerobot_sets import (
    EPISODES,
    SETS,
    WRITTEN,
    change_info,
    cut,
    frames_of,
    is_colour,
    numbers,
    read,
    rewrite,
    sets,
    written,
)

__all__ = ["sets", "written"]  # fixtures
TASKS = [one["task"] for one in WRITTEN]
DATA = "data/chunk-000/file-000.parquet"


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("camera", ["front", "observation.images.wrist"])
def test_a_set_of_the_lerobot_package_is_read_to_the_frame_and_label(written: Path, name: str, camera: str) -> None:
    short = camera.rpartition(".")[2]
    frames = frames_of(written / name, camera=camera)
    assert numbers(frames, short) == list(range(15))
    assert all(is_colour(frame, short) for frame in frames)
    assert [frame.label for frame in frames] == TASKS
    assert [frame.scene for frame in frames] == EPISODES
    assert [frame.time for frame in frames] == pytest.approx([number / 10 for number in range(15)], abs=1e-6)


@pytest.mark.parametrize("field", ["grasp", "success", "reward", "phase"])
@pytest.mark.parametrize("name", ["v3.0-films", "v2.1-pictures"])
def test_labels_are_made_of_any_feature_with_one_value(written: Path, name: str, field: str) -> None:
    def expected(value: Any) -> str:
        return str(value).lower() if isinstance(value, bool) else value if isinstance(value, str) else str(int(value))

    labels = [frame.label for frame in frames_of(written / name, label_field=field)]
    assert labels == [expected(one[field]) for one in WRITTEN]


def test_labels_are_made_of_subtasks(written: Path) -> None:
    labels = [frame.label for frame in frames_of(written / "v3.0-films", label_field="subtask")]
    assert labels == [("reach", "close")[one["subtask_index"]] for one in WRITTEN]


def test_labels_are_made_of_subtasks_that_are_said_with_their_times(sets: Path) -> None:
    path = sets / "v3.0-films"

    def said(*begun: tuple[float, str]) -> list[dict[str, Any]]:
        rows = [{"role": "assistant", "content": text, "style": "subtask", "timestamp": at} for at, text in begun]
        return [*reversed(rows), {"role": "assistant", "content": "all of it", "style": "plan", "timestamp": 0.0}]

    whole = [said((0.0, "reach"), (0.3, "grasp")), said((0.2, "lift " * 30)), said((0.0, "drop"), (0.1, ""))]
    rewrite(path / DATA, language_persistent=[whole[episode] for episode in EPISODES])
    info = json.loads((path / "meta/info.json").read_text())
    del info["features"]["subtask_index"]
    change_info(path, features={**info["features"], "language_persistent": {"dtype": "language", "shape": [1]}})
    labels = [frame.label for frame in frames_of(path, label_field="subtask")]
    assert labels[:7] == ["reach"] * 3 + ["grasp"] * 2 + [None] * 2
    assert labels[7] == labels[8]
    assert str(labels[7]).startswith("lift lift")
    assert labels[9:] == ["drop"] + [None] * 5


@pytest.mark.parametrize("text", ["0,cup\n1-2,two words\n", "class;note;episode\ncup;x;0\ntwo words;y;1 to 2\n"])
def test_labels_are_those_of_a_file_of_episodes(written: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(text)
    frames = frames_of(written / "v2.1-films", labels=str(file))
    assert [frame.label for frame in frames] == ["cup" if episode == 0 else "two words" for episode in EPISODES]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "has no labels"),
        ("zero,cup\n1,pen\n", "columns 'zero, cup'"),
        ("0,cup\n9-1,pen\n", "line 2: '9-1,pen': '9-1' is no range"),
        ("0,cup\n0-3,pen\n", "line 2: episode 0 is 'cup' on another line"),
        ("0,cup\n1\n", "line 2"),
        (f"0,{'x' * 65}\n", "line 1.*class name"),
        ("0-999999999,cup\n", "no range of at most 100,000"),
        ("7,cup\n", "has 3 episodes, 0 to 2, and none of those with a label: 7 to 7"),
    ],
)
def test_a_file_of_episodes_that_is_none_is_refused(written: Path, tmp_path: Path, text: str, fault: str) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(text)
    with pytest.raises(SourceError, match=fault):
        LeRobotSource(written / "v2.1-films", camera="front", labels=file)


def test_episodes_that_nobody_labelled_have_no_label(written: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("episode,label\n2,cup\n")
    assert read_episode_labels(file) == {2: "cup"}
    assert {frame.label for frame in frames_of(written / "v2.1-films", labels=str(file))[:9]} == {None}


@pytest.mark.parametrize("name", SETS)
def test_it_goes_on_at_any_frame(written: Path, name: str) -> None:
    for position in (0, 1, 4, 5, 8, 12, 14, 15, 20):
        with closing(LeRobotSource(written / name, camera="front")) as source:
            source.seek(position)
            assert numbers(list(read(source))) == list(range(position, 15))
            assert source.skipped == 0
            assert source.ended


def test_a_set_is_watched_live_without_its_labels(written: Path) -> None:
    options = SourceOptions(camera="front", rate="1000")
    with closing(open_source(f"lerobot:{written / SETS[0]}", options, live=True)) as source:
        assert {frame.label for frame in read(source)} == {None}


def test_a_folder_with_a_set_is_known_as_one(written: Path) -> None:
    assert source_for(written / SETS[0]) == f"lerobot:{written / SETS[0]}"


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"camera": ""}, "has 2 cameras: choose one with --camera: front, wrist"),
        ({"camera": "back"}, "has no camera 'back': choose one with --camera: front, wrist"),
        ({"label_field": "colour"}, "no feature 'colour': --label-field is one of task, subtask, grasp, success, rew"),
        ({"label_field": "action"}, "action is float32 of 2, which is no label"),
    ],
)
def test_what_is_to_be_chosen_is_listed(written: Path, options: dict[str, str], fault: str) -> None:
    with pytest.raises(SourceError, match=fault):
        frames_of(written / "v3.0-films", **options)


def test_a_long_task_is_shortened_and_stays_apart_from_one_that_begins_alike(sets: Path) -> None:
    tasks = [
        f"put the red cube from the table behind the robot into the box on the {side}" for side in ("left", "right")
    ]
    path = sets / "v3.0-films"
    pq.write_table(pa.table({"task_index": [0, 1], "__index_level_0__": tasks}), path / "meta/tasks.parquet")
    labels = [frame.label or "" for frame in frames_of(path)]
    assert len(set(labels)) == 2
    assert all(label.startswith("put the red cube") and len(label) <= 64 for label in labels)


def test_a_set_of_one_task_says_what_else_there_is(sets: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = sets / "v2.1-films"
    (path / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "pick"}\n')
    labels = [frame.label for frame in frames_of(path)]
    assert "all frames are of the task 'pick'. --label-field is one of task, subtask, grasp" in caplog.text
    # And rows that have the number of another task are shown without a label.
    assert labels == ["pick" if task == "pick" else None for task in TASKS]
    assert "4 rows have a task_index that names no class" in caplog.text


def test_tasks_without_a_text_are_no_labels(sets: Path) -> None:
    path = sets / "v2.1-films"
    (path / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": ""}\n{"task_index": 1, "task": " "}\n')
    options = SourceOptions(camera="front")
    with pytest.raises(SourceError, match=r"its tasks have no text. --label-field is one of task"):
        open_source(f"lerobot:{path}", options, needs_labels=True)


@pytest.mark.parametrize("name", ["v2.1-films", "v2.1-pictures"])
def test_an_episode_whose_rows_have_no_end_is_skipped(sets: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    path = sets / name
    cut(path / "data/chunk-000/episode_000001.parquet")
    with closing(LeRobotSource(path, camera="front")) as source:
        assert numbers(list(read(source))) == [0, 1, 2, 3, 4, *range(9, 15)]
        assert source.skipped == 4
    assert "episode_000001.parquet: it has no end: its recording was not ended" in caplog.text


def test_a_film_that_is_missing_is_skipped(sets: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = sets / "v2.1-films"
    (path / "videos/chunk-000/observation.images.front/episode_000000.mp4").unlink()
    with closing(LeRobotSource(path, camera="front")) as source:
        assert numbers(list(read(source))) == list(range(5, 15))
        assert source.skipped == 5
    assert "episode_000000.mp4 is missing" in caplog.text
    assert numbers(frames_of(path, camera="wrist"), "wrist") == list(range(15))


def test_a_set_whose_only_film_is_missing_is_an_error(sets: Path) -> None:
    path = sets / "v3.0-films"
    (path / "videos/observation.images.front/chunk-000/file-000.mp4").unlink()
    with pytest.raises(SourceError, match=r"none of its 15 frames can be read: .*file-000.mp4 is missing"):
        frames_of(path)


def test_a_film_that_no_decoder_is_there_for_is_said(sets: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = sets / "v2.1-films"
    film = path / "videos/chunk-000/observation.images.front/episode_000002.mp4"
    content = film.read_bytes()
    assert b"av01" in content
    film.write_bytes(content.replace(b"av01", b"av99").replace(b"av1C", b"av9C"))
    with closing(LeRobotSource(path, camera="front")) as source:
        assert numbers(list(read(source))) == list(range(9))
        assert source.skipped == 6
    assert "this build of PyAV has no decoder for its pictures" in caplog.text


def test_a_picture_that_is_damaged_is_skipped(sets: Path) -> None:
    path = sets / "v2.1-pictures"
    rows = path / "data/chunk-000/episode_000001.parquet"
    pictures = pq.read_table(rows)["observation.images.front"].to_pylist()
    pictures[1] = {"bytes": b"no picture", "path": "x"}
    pictures[2] = {"bytes": None, "path": "../../etc/passwd"}
    rewrite(rows, **{"observation.images.front": pictures})
    with closing(LeRobotSource(path, camera="front")) as source:
        assert numbers(list(read(source))) == [0, 1, 2, 3, 4, 5, *range(8, 15)]
        assert source.skipped == 2


def test_a_set_that_is_of_another_rate_than_it_says_is_shown_by_its_times(
    sets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = sets / "v3.0-films"
    change_info(path, fps=30)
    assert numbers(frames_of(path)) == list(range(15))
    assert "has its pictures 10 times a second, and meta/info.json says 30" in caplog.text


def test_rows_between_the_pictures_of_a_slow_film_are_skipped(sets: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = sets / "v2.1-films"
    film = path / "videos/chunk-000/observation.images.front/episode_000000.mp4"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = Fraction(1, 5)
        for number in (0, 2, 4):
            image = np.zeros((48, 64, 3), np.uint8)
            image[..., 0] = 40 + 12 * number
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    with closing(LeRobotSource(path, camera="front")) as source:
        assert numbers(list(read(source))) == [0, 2, 4, *range(5, 15)]
        assert source.skipped == 2
    assert "has its pictures 5 times a second, and meta/info.json says 10" in caplog.text


def test_episodes_that_meta_does_not_list_to_the_end_are_said(sets: Path) -> None:
    path = sets / "v3.0-films"
    folder = path / "meta/episodes/chunk-000"
    (folder / "file-001.parquet").write_bytes((folder / "file-000.parquet").read_bytes()[:9000])
    change_info(path, total_episodes=5)
    with closing(LeRobotSource(path, camera="front")) as source:
        assert numbers(list(read(source))) == list(range(15))
        (left_out,) = source.left_out
    assert left_out.count == 2
    assert "file-001.parquet: it has no end" in left_out.example


def test_a_set_whose_recording_was_killed_before_its_end_is_an_error_that_says_so(sets: Path) -> None:
    path = sets / "v3.0-films"
    cut(path / "meta/episodes/chunk-000/file-000.parquet")
    with pytest.raises(SourceError, match=r"has no episode: .*it has no end: its recording was not ended"):
        frames_of(path)
    (path / "meta/episodes/chunk-000/file-000.parquet").unlink()
    with pytest.raises(SourceError, match="has no episode: LeRobot lists them when a recording is ended"):
        frames_of(path)


def test_fewer_rows_than_an_episode_is_said_to_have_are_shown(sets: Path) -> None:
    path = sets / "v2.1-pictures"
    lines = (path / "meta/episodes.jsonl").read_text().replace('"length": 4', '"length": 6')
    (path / "meta/episodes.jsonl").write_text(lines + '{"episode_ind')  # and a last line that a kill has cut off
    with closing(LeRobotSource(path, camera="front")) as source:
        assert numbers(list(read(source))) == list(range(15))
        assert (source.length, source.skipped) == (17, 2)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"codebase_version": "v1.6"}, "of version v1.6; read are v2.0, v2.1, v3.0"),
        ({"fps": 0}, "says 0 fps"),
        ({"fps": "ten"}, "cannot be read: Expected `float`"),
        ({"features": {}}, "has no camera 'front'"),
        ({"data_path": "../{episode_index:06d}.parquet"}, "is no path of a set"),
        ({"data_path": "/etc/{episode_index}"}, "is no path of a set"),
        ({"data_path": "{episode_index.__class__}"}, "is no path of a set"),
        ({"data_path": "{episode_index:99999999d}"}, "is no path of a set"),
        ({"data_path": "{nothing}"}, "it lacks 'nothing'"),
        ({"video_path": None}, "has a video, observation.images.front, and no video_path"),
    ],
)
def test_what_a_set_says_of_itself_is_checked(sets: Path, values: dict[str, Any], fault: str) -> None:
    change_info(sets / "v2.1-films", **values)
    with pytest.raises(SourceError, match=fault):
        frames_of(sets / "v2.1-films")


def test_what_is_no_set_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(SourceError, match=r"has no meta/info.json; expected the folder of a LeRobot data set"):
            open_source(f"lerobot:{path}")


@pytest.mark.parametrize("name", ["v3.0-pictures", "v2.1-films"])
def test_damaged_bytes_are_an_error_or_skipped(sets: Path, name: str) -> None:
    rng = random.Random(7)
    files = [one for one in sorted((sets / name).rglob("*")) if one.is_file() and "wrist" not in str(one)]
    for _ in range(60):
        file = rng.choice(files)
        content = file.read_bytes()
        damaged = bytearray(content)
        for place in rng.sample(range(len(content)), min(len(content), rng.choice([1, 3, 30]))):
            damaged[place] = rng.randrange(256)
        file.write_bytes(damaged)
        try:
            with closing(LeRobotSource(sets / name, camera="front")) as source:
                shown = len(list(read(source)))
                assert shown + source.skipped == source.length
        except SourceError:
            pass
        file.write_bytes(content)
    assert numbers(frames_of(sets / name)) == list(range(15))
