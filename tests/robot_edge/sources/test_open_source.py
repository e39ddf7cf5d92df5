from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from broker.errors import MalformedMessage, SourceError
from robot_edge.sources.frames import Frame, FrameSource
from robot_edge.sources.kinds import SIM_FRAMES
from robot_edge.sources.live import LiveSource
from robot_edge.sources.opening import open_source
from robot_edge.sources.settings import SourceOptions
from robot_edge.sources.sim import FRAMES_PER_SCENE
from tests.robot_edge.sources.test_live import script


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Return a source of four pictures of each of three classes."""
    for name in ("ant", "cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{number}.png")
    return f"folder:{tmp_path}"


def shown(
    text: str, *, phases: Sequence[Sequence[str]] = (), epochs: int = 1, images: int = 0, seed: int = 0
) -> list[Frame]:
    """Return all frames of a source, which must be as many as it says."""
    source = open_source(text, image_size=16, phases=phases, epochs=epochs, images=images, seed=seed)
    frames = list(iter(source.next, None))
    assert source.length == len(frames)
    assert source.next() is None
    source.close()
    return frames


def labels(frames: Sequence[Frame]) -> set[str | None]:
    return {frame.label for frame in frames}


def test_a_folder_is_shown_in_phases_each_for_its_epochs(folder: str) -> None:
    frames = shown(folder, phases=[["cat", "dog"], ["ant", "cat"]], epochs=2)
    assert len(frames) == 32
    assert labels(frames[:16]) == {"cat", "dog"}
    assert labels(frames[16:]) == {"ant", "cat"}


def test_names_that_no_class_may_have_are_said_before_a_frame_is_read(folder: str) -> None:
    def check(name: str) -> None:
        if name == "cat":
            raise MalformedMessage("no cats here")

    with pytest.raises(SourceError, match=r"folder:.*: no cats here"):
        open_source(folder, phases=[["dog"], ["ant", "cat"]], check_name=check)
    open_source(folder, phases=[["dog"], ["ant"]], check_name=check).close()
    open_source(folder, live=True, check_name=check).close()  # whose labels are not read


def test_a_picture_is_the_same_scene_in_every_phase_and_epoch(folder: str) -> None:
    frames = shown(folder, phases=[["cat"], ["ant", "cat", "dog"], ["dog"]], epochs=2)
    of_class = {name: {frame.scene for frame in frames if frame.label == name} for name in ("ant", "cat", "dog")}
    assert of_class == {"ant": {0, 1, 2, 3}, "cat": {4, 5, 6, 7}, "dog": {8, 9, 10, 11}}


def test_the_same_class_comes_in_another_order_in_each_phase(folder: str) -> None:
    frames = [frame.scene for frame in shown(folder, phases=[["ant", "cat", "dog"]] * 2, seed=3)]
    assert sorted(frames[:12]) == sorted(frames[12:])
    assert frames[:12] != frames[12:]


def test_a_bound_on_images_ends_any_source(folder: str) -> None:
    assert len(shown(folder, epochs=3, images=7)) == 7
    assert len(shown(folder, images=100)) == 12
    assert len(shown("sim:", images=5)) == 5


def test_unreadable_pictures_of_all_phases_are_counted(folder: str) -> None:
    root = Path(folder.removeprefix("folder:"))
    for name in ("ant", "dog"):
        (root / name / "0.png").write_bytes(b"")
    source = open_source(folder, image_size=16, phases=[["ant"], ["dog"]])
    assert len(list(iter(source.next, None))) == 6
    assert source.skipped == 2


def test_the_simulated_camera_shows_each_phase_its_share_of_new_scenes() -> None:
    frames = shown("sim:", phases=[["mug", "car"], ["star"]], images=8 * FRAMES_PER_SCENE)
    half = 4 * FRAMES_PER_SCENE
    assert labels(frames[:half]) <= {"mug", "car"}
    assert labels(frames[half:]) == {"star"}
    assert not {frame.scene for frame in frames[:half]} & {frame.scene for frame in frames[half:]}


@pytest.mark.parametrize("text", ["sim:", "sim"])
def test_the_simulated_camera_ends_by_itself(text: str) -> None:
    assert open_source(text, image_size=16).length == SIM_FRAMES


@pytest.mark.parametrize("text", ["", "folder", "folder:", "tape:x", "/data/cifar10"])
def test_a_source_of_no_known_kind_is_refused(text: str) -> None:
    with pytest.raises(SourceError, match=f"source {text!r}: expected camera:0, .*folder:PATH, .*sim:"):
        open_source(text, image_size=16)


def test_toys_by_name_are_for_those_who_look() -> None:
    with pytest.raises(SourceError, match=r"sim:mug,star: toys are chosen by name where they are looked at .--live"):
        open_source("sim:mug,star", image_size=16)
    assert open_source("sim:mug,star", image_size=16, live=True).length is None


def test_errors_of_a_source_name_what_is_wrong(folder: str) -> None:
    with pytest.raises(SourceError, match="has no class 'cow'"):
        open_source(folder, image_size=16, phases=[["cat"], ["cow"]])
    with pytest.raises(SourceError, match="unicorn"):
        open_source("sim:", image_size=16, phases=[["unicorn"]])
    with pytest.raises(SourceError, match="size is 8"):
        open_source("sim:", image_size=8)


def check_seek(make: Callable[[], FrameSource]) -> None:
    """After seek the same frames come as without it, from every place."""
    source = make()
    positions, frames = [source.position], []
    while (frame := source.next()) is not None:
        positions.append(source.position)
        frames.append(frame)
    assert positions == sorted(set(positions))
    for done, position in enumerate(positions):
        source = make()
        source.seek(position)
        assert source.position == position
        rest = list(iter(source.next, None))
        assert [frame.scene for frame in rest] == [frame.scene for frame in frames[done:]]
        for frame, expected in zip(rest, frames[done:], strict=True):
            assert frame.label == expected.label
            assert np.array_equal(frame.image, expected.image)
    source = make()
    source.seek(10**6)
    assert source.next() is None


@pytest.mark.parametrize("images", [0, 17])
def test_a_folder_goes_on_from_any_place(folder: str, images: int) -> None:
    phases = [["cat", "dog"], ["ant", "cat"]]
    check_seek(lambda: open_source(folder, image_size=16, phases=phases, epochs=2, images=images, seed=4))


def test_a_folder_with_unreadable_pictures_goes_on_from_any_place(folder: str) -> None:
    for name in ("ant/1.png", "dog/0.png", "dog/3.png"):
        (Path(folder.removeprefix("folder:")) / name).write_bytes(b"")
    check_seek(lambda: open_source(folder, image_size=16, epochs=3))


def test_the_simulated_camera_goes_on_from_any_place() -> None:
    images = 5 * FRAMES_PER_SCENE
    check_seek(lambda: open_source("sim:", image_size=16, phases=[["mug", "car"], ["star"]], images=images, seed=3))


def test_a_folder_is_not_read_to_go_on_in_it(folder: str) -> None:
    source = open_source(folder, image_size=16, epochs=2)
    for file in Path(folder.removeprefix("folder:")).glob("*/*"):
        file.write_bytes(b"")
    source.seek(24)
    assert source.next() is None
    assert source.skipped == 0


@pytest.mark.parametrize("rate", ["max", "realtime"])
def test_a_camera_is_not_held_to_its_pace_once_more(monkeypatch: pytest.MonkeyPatch, rate: str) -> None:
    times, hold = iter([100.0, 200.0]), threading.Event()
    camera = LiveSource("toy", script(1, 2, hold), clock=lambda: next(times))
    monkeypatch.setattr("robot_edge.sources.kinds.open_stream", lambda url: camera)
    with closing(open_source("http://camera/", SourceOptions(rate=rate), image_size=32, live=True)) as source:
        assert source.next(10) is not None
        # Its pictures are of now when they come. One that came late would else hold up all that come after it.
        assert source.next(10) is not None
        hold.set()


@pytest.mark.parametrize("option", ["labels", "image_topic", "label_topic"])
def test_a_setting_that_a_source_does_not_read_is_said(
    folder: str, option: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {option: "x"}
    options = SourceOptions(**settings)
    with closing(open_source(folder, options, image_size=8)):
        assert f"--{option.replace('_', '-')} x is not read: it is for" in caplog.text


@pytest.mark.parametrize("text", ["camera:0", "rtsp://me:s3cret@cam/a", "gst:videotestsrc"])
def test_a_camera_is_nothing_to_test_on(text: str) -> None:
    with pytest.raises(SourceError, match="says nothing of what it shows") as error:
        open_source(text, image_size=8, needs_labels=True)
    assert "s3cret" not in str(error.value)
