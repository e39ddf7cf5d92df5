"""What is recorded while it is taught, beside what a live robot learns from that is taught the same."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker.errors import SourceError
from broker.wire.messages import Command
from hierarchy.runtime.command_line import StopRequest
from robot_edge.learning.batcher import Batcher
from robot_edge.learning.frame_memory import FrameMemory
from robot_edge.recording.record import Recorder, record_source
from robot_edge.recording.recorded_lessons import RecordedLessons
from robot_edge.sources.bag import EDIT_TOPIC
from robot_edge.sources.frames import Frame
from robot_edge.sources.opening import open_source
from robot_edge.sources.paced import Paced
from robot_edge.sources.replay import Replay
from robot_edge.sources.sim import SimulatedCamera
from robot_edge.teaching.commands import new_command
from robot_edge.teaching.lessons import TaughtFrames, Teaching
from robot_edge.teaching.terminal import parse_line

SIDE = 24
RATE = 8.0
# What people type, and before which frame.
Script = dict[int, str]
TWO_LESSONS = {5: "teach mug 3", 50: "teach star 4"}


class Stage(Replay):
    """A camera at RATE, with a clock of its own, and people who type: nothing here waits for real time."""

    def __init__(self, script: Script, frames: int = 120, labels: dict[int, str] | None = None) -> None:
        self._camera = SimulatedCamera(classes=["mug", "star"], frames=frames, size=SIDE, seed=5, stay=10, things=True)
        self._script, self._labels = script, labels or {}
        self.type: Callable[[Command], object] = lambda command: None
        self.now = 100.0
        self.length, self.skipped = None, 0
        self.seen: list[Frame] = []

    @property
    def position(self) -> int:
        return self._camera.position

    @property
    def ended(self) -> bool:
        return self._camera.ended

    def clock(self) -> float:
        return self.now

    def next(self, timeout: float | None = None) -> Frame | None:
        self.now += 1 / RATE
        if line := self._script.get(self.position):
            command = parse_line(line)
            assert isinstance(command, Command)
            self.type(command)
        frame = self._camera.next()
        if frame is None:
            return None
        # Every other picture is one that was there before: who holds a thing still.
        image = self.seen[-1].image if self.seen and self.position % 2 else frame.image
        self.seen.append(replace(frame, image=image, label=self._labels.get(self.position - 1)))
        return self.seen[-1]

    def seek(self, position: int) -> None:
        raise NotImplementedError

    def close(self) -> None: ...


def record(stage: Stage, path: Path, *, trusts_source: bool = True) -> RecordedLessons:
    with Recorder(path) as recorder:
        lessons = RecordedLessons(
            Paced(stage), recorder.edit, trusts_source=trusts_source, clock=stage.clock
        )  # as `record` does, but for the clock
        stage.type = lessons.commands.put
        record_source(stage, recorder, StopRequest(), lessons=lessons)
    return lessons


Batches = list[tuple[list[str], bytes, int]]


def learned(read: Callable[[Batcher], Iterator[Any]], source: Any) -> tuple[Batches, list[tuple[str, bytes]]]:
    """Return the batches that are trained on, and the frames that are held out."""
    memory = FrameMemory(100, SIDE, 0)
    batcher = Batcher(source=source, size=4, image_size=SIDE, held_out_every=4, held_out=memory)
    batches = [(batch.names, batch.images.tobytes(), batch.session) for batch in read(batcher)]
    return batches, [(one.name, one.image.tobytes()) for one in memory.all()]


def learned_live(stage: Stage) -> tuple[Batches, list[tuple[str, bytes]]]:
    """Show the camera to what a live robot learns through, and let it learn at once, as `live` does."""
    teaching = Teaching(stage.clock, trusts_source=True)

    def obey(command: Command) -> None:
        assert command.action == "teach"
        teaching.begin(command.name, command.seconds, known=False)

    stage.type = obey

    def read(batcher: Batcher) -> Iterator[Any]:
        while (frame := stage.next()) is not None:
            teaching.see(frame)
            teaching.ended()
            batch = batcher.next(0.0)
            if batch is None and not teaching.open and not teaching.waiting:
                batch = batcher.finish()
            if batch:
                yield batch

    return learned(read, TaughtFrames(teaching))


def samples_of(batches: Batches) -> tuple[list[tuple[str, int]], bytes]:
    names = [(name, session) for names, _, session in batches for name in names]
    return names, b"".join(images for _, images, _ in batches)


def replayed(path: Path) -> tuple[Batches, list[tuple[str, bytes]]]:
    with closing(open_source(f"bag:{path}", image_size=SIDE)) as source:
        return learned(lambda batcher: iter(batcher.next, None), source)


def frames_of(path: Path) -> list[Frame]:
    with closing(open_source(f"bag:{path}", image_size=SIDE)) as source:
        return list(iter(source.next, None))


def taught(frames: Sequence[Frame]) -> list[tuple[str, int]]:
    return [(frame.label, frame.session) for frame in frames if frame.label is not None]


def test_a_taught_recording_is_replayed_to_the_samples_that_a_live_robot_learned_from(tmp_path: Path) -> None:
    stage = Stage(TWO_LESSONS)
    record(stage, tmp_path / "a.mcap")
    batches, held_out = replayed(tmp_path / "a.mcap")
    assert (batches, held_out) == learned_live(Stage(TWO_LESSONS))
    assert {(*set(names), session) for names, _, session in batches} == {("mug", 1), ("star", 2)}
    assert sum(len(names) for names, _, _ in batches) > 15
    assert len(held_out) > 3


def test_all_other_frames_are_recorded_too_without_a_label(tmp_path: Path) -> None:
    stage = Stage(TWO_LESSONS)
    record(stage, tmp_path / "a.mcap")
    frames = frames_of(tmp_path / "a.mcap")
    assert len(frames) == len(stage.seen)
    assert all(np.array_equal(one.image, other.image) for one, other in zip(frames, stage.seen, strict=True))
    samples = [number for number, frame in enumerate(frames) if frame.label]
    assert all(5 <= number < 29 or 50 <= number < 82 for number in samples)
    assert 20 < len(samples) <= 30, "still pictures are thinned"


def test_labels_of_a_camera_teach_where_it_is_trusted(tmp_path: Path) -> None:
    labels = dict.fromkeys(range(20, 30), "cup")
    stage = Stage({25: "teach mug 3"}, labels=labels)
    record(stage, tmp_path / "a.mcap")
    (batches, held_out), (live, held_out_live) = (
        replayed(tmp_path / "a.mcap"),
        learned_live(Stage({25: "teach mug 3"}, labels=labels)),
    )
    # Without a lesson a live robot learns as soon as it has time to, so its batches are cut elsewhere.
    assert samples_of(batches) == samples_of(live)
    assert held_out == held_out_live
    names = list(dict.fromkeys(taught(frames_of(tmp_path / "a.mcap"))))
    assert names == [("cup", 0), ("mug", 1)]
    record(Stage({25: "teach mug 3"}, labels=labels), tmp_path / "b.mcap", trusts_source=False)
    assert list(dict.fromkeys(taught(frames_of(tmp_path / "b.mcap")))) == [("mug", 1)]


@pytest.mark.parametrize(
    ("script", "names"),
    [
        ({95: "undo"}, [("mug", 1)]),
        ({70: "undo"}, [("mug", 1)]),
        ({95: "undo", 96: "undo"}, []),
        ({95: "undo", 100: "teach star 1"}, [("mug", 1), ("star", 3)]),
        ({40: "rename mug = cup"}, [("cup", 1), ("star", 2)]),
        ({60: "rename mug = cup", 95: "merge star = cup"}, [("cup", 1), ("cup", 2)]),
        ({95: "forget mug"}, [("star", 2)]),
        ({95: "forget mug", 100: "teach mug 1"}, [("star", 2), ("mug", 3)]),
        ({60: "rename star = sun"}, [("mug", 1), ("sun", 2)]),
        ({95: "forget nobody"}, [("mug", 1), ("star", 2)]),
        ({20: "stop"}, [("mug", 1), ("star", 2)]),
    ],
)
def test_what_is_taken_back_or_renamed_is_so_from_the_beginning(
    tmp_path: Path, script: Script, names: list[tuple[str, int]]
) -> None:
    record(Stage({**TWO_LESSONS, **script}), tmp_path / "a.mcap")
    frames = frames_of(tmp_path / "a.mcap")
    assert list(dict.fromkeys(taught(frames))) == names
    assert len(frames) == 120


def test_what_waited_in_the_camera_s_buffer_is_not_called_by_a_later_name(tmp_path: Path) -> None:
    source = Paced(SimulatedCamera(frames=0))
    lessons = RecordedLessons(source, lambda edit: None, trusts_source=False)
    lessons.commands.put(new_command("teach", id_="", name="mug", seconds=30))
    before = time.time() - 0.5
    assert [result.text for result in lessons.obey()] == ["teaching 'mug' for 30 s"]
    rng = np.random.default_rng(0)
    times = [before, before + 0.4, time.time() + 0.001, time.time() + 0.002]
    frames = [
        Frame(image=np.full((8, 8, 3), rng.integers(256), np.uint8), label=None, scene=0, time=one) for one in times
    ]
    assert [lessons.see(frame).label for frame in frames] == [None, None, "mug", "mug"]


def test_edits_that_are_none_are_said(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a.mcap") as recorder:
        recorder.add(Frame(image=np.zeros((8, 8, 3), np.uint8), label="mug", scene=0, time=0.0))
        layout = recorder._types.types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
        recorder._write(EDIT_TOPIC, layout=layout, data=np.zeros(3, np.uint8))
    with pytest.raises(SourceError, match="topic /class_edit"):
        open_source(f"bag:{tmp_path / 'a.mcap'}", image_size=SIDE)


def test_a_recording_is_taught_from_its_terminal(tmp_path: Path) -> None:
    out = tmp_path / "a.mcap"
    command = [sys.executable, "-m", "robot_edge", "record", "--source", "sim:mug,star", "--live", "--out", str(out)]
    person, terminal = pty.openpty()
    process = subprocess.Popen(
        [*command, "--rate", "20"],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONUNBUFFERED": "1"},
        text=True,
    )
    os.close(terminal)
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    assert process.stdout is not None
    lines: list[str] = []

    def wait_for(pattern: str) -> re.Match[str]:
        for line in process.stdout or ():
            lines.append(line)
            if found := re.search(pattern, line):
                return found
        raise AssertionError(lines)

    wait_for("type a name and Enter")
    os.write(person, b"teach mug 1\n")
    mugs = wait_for("saw (\\d+) frames of 'mug' that differ")
    os.write(person, b"teach star 1\n")
    wait_for("saw (\\d+) frames of 'star' that differ")
    os.write(person, b"undo\n")
    wait_for("took back")
    process.send_signal(signal.SIGINT)
    process.communicate()
    watchdog.cancel()
    os.close(person)
    assert process.returncode == 0
    frames = frames_of(out)
    assert taught(frames) == [("mug", 1)] * int(mugs[1])
    assert len(frames) > int(mugs[1]) > 0
