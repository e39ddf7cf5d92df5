from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from broker.errors import ConfigError
from robot_edge.learning.batcher import Batcher
from robot_edge.learning.frame_memory import FrameMemory
from robot_edge.recording.record import RecordConfig, Recorder, record
from robot_edge.sources.frames import Frame
from robot_edge.sources.opening import open_source
from robot_edge.sources.settings import SourceOptions


def frames_of(text: str, images: int = 0) -> list[Frame]:
    with closing(open_source(text, image_size=24, images=images)) as source:
        return list(iter(source.next, None))


def assert_equal(replayed: Sequence[Frame], recorded: Sequence[Frame]) -> None:
    assert len(replayed) == len(recorded)
    for one, other in zip(replayed, recorded, strict=True):
        assert np.array_equal(one.image, other.image)
        assert (one.label, one.scene) == (other.label, other.scene)
        assert abs(one.time - other.time) <= 1e-6  # a bag has nanoseconds, and a float of this year a quarter of a µs


@pytest.fixture
def folder(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    for name in ("ant", "two words", "ÄΩ"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(4):
            picture = rng.integers(0, 256, (10 + number, 16, 3), np.uint8)
            Image.fromarray(picture).save(tmp_path / "pictures" / name / f"{number}.png")
    return f"folder:{tmp_path / 'pictures'}"


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("kind", ["sim", "folder"])
def test_what_is_recorded_is_replayed_sample_for_sample(folder: str, tmp_path: Path, kind: str, raw: bool) -> None:
    text = {"sim": "sim:", "folder": folder}[kind]
    out = tmp_path / "session.mcap"
    record(RecordConfig(source=text, out=str(out), images=40, image_size=24, raw=raw))
    assert_equal(frames_of(f"bag:{out}"), frames_of(text, images=40))
    assert not (tmp_path / "session.mcap.part").exists()


def test_a_recording_gives_the_same_training_and_holds_out_the_same(tmp_path: Path) -> None:
    out = tmp_path / "session.mcap"
    record(RecordConfig(source="sim:", out=str(out), images=60, image_size=24))
    read = []
    for text in ("sim:", f"bag:{out}"):
        memory = FrameMemory(100, 24, 0)
        with closing(open_source(text, image_size=24, images=60)) as source:
            batcher = Batcher(source=source, size=8, image_size=24, held_out_every=3, held_out=memory)
            batches = list(iter(batcher.next, None))
            read.append([(batch.names, batch.images.tobytes(), batch.positions) for batch in batches])
        read[-1].append(([one.name for one in memory.all()], b"".join(one.image.tobytes() for one in memory.all()), []))
    assert read[0] == read[1]


def frame(number: int, label: str | None, at: float) -> Frame:
    return Frame(image=np.full((4, 6, 3), number, np.uint8), label=label, scene=int(at), time=at)


def test_labels_come_and_go_and_a_camera_s_times_are_kept(tmp_path: Path) -> None:
    names = ["cup", "cup", None, None, "pen", "cup"]
    start = 1_764_000_000.123456
    frames = [frame(number, name, start + number / 3) for number, name in enumerate(names)]
    with Recorder(tmp_path / "a.mcap") as recorder:
        for one in frames:
            recorder.add(one)
    assert_equal(frames_of(f"bag:{tmp_path / 'a.mcap'}"), frames)


def test_frames_without_a_pace_keep_their_order(tmp_path: Path) -> None:
    frames = [frame(number, str(number), at) for number, at in enumerate([5.0, 5.0, 1.0, 1.0, 9.0])]
    with Recorder(tmp_path / "a.mcap") as recorder:
        for one in frames:
            recorder.add(one)
    assert_equal(frames_of(f"bag:{tmp_path / 'a.mcap'}"), frames)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "a.mcap"
    out.write_text("precious")
    with pytest.raises(ConfigError, match="is there already"):
        Recorder(out)
    assert out.read_text() == "precious"
    (tmp_path / "b.mcap.part").mkdir()
    with pytest.raises(ConfigError, match=r"b\.mcap\.part is there already"):
        Recorder(tmp_path / "b.mcap")
    with pytest.raises(ConfigError, match=r"ends in \.mcap"):
        Recorder(tmp_path / "c.bag")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--out"):
        Recorder(tmp_path / "file" / "d.mcap")


def test_a_recording_of_nothing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no frame came"), Recorder(tmp_path / "a.mcap"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_why_nothing_was_recorded_is_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Recorder(tmp_path / "a.mcap"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_it_ends_after_so_many_seconds(tmp_path: Path) -> None:
    out = tmp_path / "a.mcap"
    record(RecordConfig(source="sim:", out=str(out), seconds=1, image_size=24, options=SourceOptions(rate="10")))
    assert 2 <= len(frames_of(f"bag:{out}")) <= 12


def test_ctrl_c_leaves_a_bag_that_can_be_read(tmp_path: Path) -> None:
    out = tmp_path / "a.mcap"
    command = [sys.executable, "-m", "robot_edge", "record", "--source", "sim:", "--rate", "50", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True)
    assert process.stdout is not None
    assert any("frames recorded" in line for line in process.stdout), "it recorded nothing"
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    frames = frames_of(f"bag:{out}")
    with closing(open_source("sim:", image_size=32)) as source:
        assert_equal(frames, [shown for _ in frames if (shown := source.next())])
