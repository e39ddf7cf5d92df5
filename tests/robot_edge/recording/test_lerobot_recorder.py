from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from broker.errors import ConfigError
from broker.wire.messages import Change, ClassEdit
from robot_edge.learning.batcher import Batcher
from robot_edge.learning.frame_memory import FrameMemory
from robot_edge.recording.lerobot_recorder import MAX_FRAMES, LeRobotRecorder
from robot_edge.recording.record import RecordConfig, Recorder, record
from robot_edge.recording.recorded_lessons import NO_BOOT
from robot_edge.sources.frames import Frame
from robot_edge.sources.opening import open_source
from robot_edge.sources.settings import SourceOptions
from tests.robot_edge import lerobot_peer
from tests.robot_edge.recording.test_record import assert_equal, frame, frames_of

# A Python that has the lerobot package: tests/golden/README.md.
PEER = os.environ.get("LEROBOT_PYTHON", "")
needs_peer = pytest.mark.skipif(not PEER, reason="LEROBOT_PYTHON names no Python with lerobot")


def batches_of(text: str) -> list[object]:
    memory = FrameMemory(100, 24, 0)
    with closing(open_source(text, image_size=24, images=60)) as source:
        batcher = Batcher(source=source, size=8, image_size=24, held_out_every=3, held_out=memory)
        read = [(one.names, one.images.tobytes(), one.positions) for one in iter(batcher.next, None)]
    return [*read, *((one.name, one.image.tobytes()) for one in memory.all())]


def peer(*arguments: object) -> None:
    command = [PEER, lerobot_peer.__file__, *map(str, arguments)]
    subprocess.run(
        command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}, capture_output=True
    )


@pytest.mark.parametrize("raw", [False, True])
def test_a_recording_gives_the_same_training_and_holds_out_the_same(tmp_path: Path, raw: bool) -> None:
    out = f"lerobot:{tmp_path / 'set'}"
    record(RecordConfig(source="sim:", out=out, images=60, image_size=24, raw=raw))
    assert_equal(frames_of(out), frames_of("sim:", images=60))
    assert batches_of(out) == batches_of("sim:")


@pytest.mark.slow
@needs_peer
def test_what_lerobot_reads_and_writes_again_gives_the_same_training(tmp_path: Path) -> None:
    out, copy = tmp_path / "set", tmp_path / "copy"
    record(RecordConfig(source="sim:", out=f"lerobot:{out}", images=60, image_size=24))
    peer("read", out, tmp_path / "read.npz")
    peer("copy", out, copy)
    frames = frames_of("sim:", images=60)
    with np.load(tmp_path / "read.npz") as read:
        assert list(read["tasks"]) == [frame.label for frame in frames]
        assert all(np.array_equal(read[f"image{number}"], frame.image) for number, frame in enumerate(frames))
    assert_equal(frames_of(f"lerobot:{copy}"), frames)
    assert batches_of(f"lerobot:{copy}") == batches_of("sim:")


@pytest.mark.slow
@needs_peer
@pytest.mark.parametrize("codec", ["libsvtav1", "h264", "image"])
def test_what_lerobot_writes_now_is_what_the_golden_sets_are(tmp_path: Path, codec: str) -> None:
    peer("write", tmp_path / "set", codec)
    with closing(open_source(f"lerobot:{tmp_path / 'set'}", SourceOptions(camera="front"))) as source:
        labels = [frame.label for frame in iter(source.next, None)]
    assert len(labels) == sum(lerobot_peer.LENGTHS)
    assert set(labels) == set(lerobot_peer.TASKS)


@pytest.mark.slow
def test_what_a_killed_recording_has_is_there_to_the_last_episode(tmp_path: Path) -> None:
    out = tmp_path / "set"
    command = [sys.executable, "-m", "robot_edge", "record", "--source", "sim:", "--out", f"lerobot:{out}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": os.getcwd()})
    deadline = time.monotonic() + 90
    while not (out / "data/chunk-000/file-001.parquet").exists():
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    frames = frames_of(f"lerobot:{out}")
    assert len(frames) >= MAX_FRAMES
    assert len(frames) % MAX_FRAMES == 0
    with closing(open_source("sim:", image_size=32)) as source:
        assert_equal(frames, [shown for _ in frames if (shown := source.next())])
    with pytest.raises(ConfigError, match="is there already"):
        LeRobotRecorder(out)


EDITS: list[tuple[Change, str, str, int]] = [
    ("rename", "pen", "pencil", 0),  # to a name that is none yet
    ("rename", "cup", "mug", 0),  # and to one that is there
    ("undo", "mug", "", 3),
    ("forget", "fork", "", 0),
]


@pytest.mark.parametrize("edits", [*([one] for one in EDITS), EDITS])
def test_edits_hold_from_the_beginning_as_in_a_bag(tmp_path: Path, edits: list[tuple[Change, str, str, int]]) -> None:
    names = ["cup", None, "pen", "fork", "mug", "mug", "cup"]
    frames = [frame(number, name, number / 4) for number, name in enumerate(names)]
    taught = [
        Frame(image=one.image, label=one.label, scene=one.scene, time=one.time, session=lesson if one.label else 0)
        for one, lesson in zip(frames, [1, 1, 1, 2, 2, 3, 3], strict=True)
    ]
    for recorder in (Recorder(tmp_path / "a.mcap"), LeRobotRecorder(tmp_path / "set")):
        with recorder:
            for one in taught:
                recorder.add(one)
            for number, (change, name, to, session) in enumerate(edits, 1):
                edit = ClassEdit(
                    boot=NO_BOOT, sequence=number, number=number, change=change, name=name, to=to, session=session
                )
                recorder.edit(edit)
            recorder.add(frame(9, "late", 9.0))
    replayed, expected = frames_of(f"lerobot:{tmp_path / 'set'}"), frames_of(f"bag:{tmp_path / 'a.mcap'}")
    assert_equal(replayed, expected)
    assert [one.session for one in replayed] == [one.session for one in expected]


def test_an_episode_ends_with_its_lesson(tmp_path: Path) -> None:
    with LeRobotRecorder(tmp_path / "set") as recorder:
        for number, lesson in enumerate([1, 1, 0, 1, 2, 2]):
            label = "cup" if lesson else None
            one = frame(number, label, number / 10)
            recorder.add(Frame(image=one.image, label=label, scene=0, time=one.time, session=lesson))
    episodes = pq.read_table(tmp_path / "set/meta/episodes/chunk-000/file-000.parquet")
    assert episodes["length"].to_pylist() == [4, 2]
    assert episodes["tasks"].to_pylist() == [["", "cup"], ["cup"]]


def test_pictures_of_many_sizes_and_no_label_are_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = [
        Frame(image=rng.integers(0, 256, (4 + number, 6, 3), np.uint8), label=None, scene=number, time=1e9 + number)
        for number in range(4)
    ]
    with LeRobotRecorder(tmp_path / "set") as recorder:
        for one in frames:
            recorder.add(one)
    assert_equal(frames_of(f"lerobot:{tmp_path / 'set'}"), frames)


def test_nothing_is_overwritten_and_nothing_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(ConfigError, match="no frame came"), LeRobotRecorder(tmp_path / "set"):
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "other").mkdir()
    (tmp_path / "other/precious").touch()
    with pytest.raises(ConfigError, match="is there already"):
        LeRobotRecorder(tmp_path / "other")
    with pytest.raises(ConfigError, match="--out lerobot:"):
        LeRobotRecorder(tmp_path / "other/precious")
