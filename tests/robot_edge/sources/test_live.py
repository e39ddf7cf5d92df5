from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np
import pytest

from broker.errors import SourceError
from robot_edge.sources import live
from robot_edge.sources.live import CameraLost, LiveSource, Picture
from tests.robot_edge.sources.streams import frame_of, wait_for

Step = int | Exception | threading.Event


class Scripted:
    """A camera that shows pictures of these brightnesses, fails, or waits for an event."""

    def __init__(self, script: Iterator[Step], side: int = 4) -> None:
        self._script = script
        self._side = side
        self.closed = False

    def read(self) -> Picture:
        match next(self._script, CameraLost("unplugged")):
            case Exception() as error:
                raise error
            case threading.Event() as event:
                event.wait(10)
                return self.read()
            case brightness:
                return Picture(np.full((self._side, self._side, 3), brightness, np.uint8))

    def close(self) -> None:
        self.closed = True


def script(*steps: Step) -> Callable[[], Scripted]:
    """Return what opens a camera that goes on in its script whenever it is opened again."""
    rest = iter(steps)
    return lambda: Scripted(rest)


def test_every_frame_comes_in_order() -> None:
    with closing(LiveSource("toy", script(1, 2, 3, 4))) as source:
        assert [int(frame_.image[0, 0, 0]) for _ in range(4) if (frame_ := source.next(10))] == [1, 2, 3, 4]
        assert source.position == 4
        assert source.missed == 0
        assert source.length is None


def test_the_latest_leaves_out_older_ones() -> None:
    hold = threading.Event()
    with closing(LiveSource("toy", script(1, 2, 3, hold, 4))) as source:
        wait_for(lambda: len(source._frames) == 3)
        frame = source.latest(10)
        assert frame is not None
        assert frame.image[0, 0, 0] == 3
        assert source.latest(0) is None, "it was shown before"
        assert source.missed == 2
        hold.set()
        frame = source.latest(10)
        assert frame is not None
        assert frame.image[0, 0, 0] == 4


def test_what_nobody_takes_is_given_up_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "BUFFER_BYTES", 3 * 48)
    hold = threading.Event()
    with closing(LiveSource("toy", script(*range(10), hold))) as source:
        wait_for(lambda: source.missed == 7)
        assert [int(frame.image[0, 0, 0]) for _ in range(3) if (frame := source.next(10))] == [7, 8, 9]
        hold.set()


def test_frames_of_a_second_share_a_scene() -> None:
    times = iter([100.1, 100.9, 101.0])
    with closing(LiveSource("toy", script(1, 2, 3), clock=lambda: next(times))) as source:
        frames = [source.next(10) for _ in range(3)]
        assert [frame and (frame.scene, frame.time) for frame in frames] == [(100, 100.1), (100, 100.9), (101, 101.0)]


def test_a_lost_camera_is_opened_again_and_counted() -> None:
    hold, last = threading.Event(), threading.Event()
    lost = CameraLost("unplugged")
    with closing(LiveSource("toy", script(1, lost, lost, hold, 2, lost, 3, last))) as source:
        assert frame_of(source).image[0, 0, 0] == 1
        wait_for(lambda: source.status == "reconnecting to toy: unplugged")
        assert source.next(0.01) is None
        assert not source.ended
        hold.set()
        wait_for(lambda: source.reconnects == 2 and not source.status)
        assert frame_of(source).image[0, 0, 0] == 3
        last.set()


def test_a_camera_that_was_never_there_is_waited_for() -> None:
    def refuse() -> Scripted:
        raise CameraLost("connection refused")

    with closing(LiveSource("toy", refuse)) as source:
        wait_for(lambda: source.status == "waiting for toy: connection refused")
        assert source.reconnects == 0


def test_what_trying_again_does_not_mend_ends_it() -> None:
    def fail() -> Scripted:
        raise SourceError("no such thing")

    with closing(LiveSource("toy", fail)) as source, pytest.raises(SourceError, match="no such thing"):
        source.next(10)


def test_a_bug_in_a_camera_is_not_waited_for() -> None:
    with closing(LiveSource("toy", script(ZeroDivisionError()))) as source, pytest.raises(ZeroDivisionError):
        source.next(10)


def test_a_camera_that_cannot_even_be_closed_is_heard_of() -> None:
    class Stuck(Scripted):
        def close(self) -> None:
            raise ValueError("stuck")

    with closing(LiveSource("toy", lambda: Stuck(iter(())))) as source, pytest.raises(ValueError, match="stuck"):
        source.next(10)


def test_a_picture_that_is_too_large_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robot_edge.sources.frames.MAX_PIXELS", 15)
    with closing(LiveSource("toy", script(1, 2, 3))) as source:
        wait_for(lambda: "limit 15" in source.status)


def test_closing_it_wakes_a_reader_and_closes_the_camera() -> None:
    hold = threading.Event()
    camera = Scripted(iter([1, hold, 2]))
    source = LiveSource("toy", lambda: camera)
    frame_of(source)
    hold.set()
    source.close()
    assert source.ended
    assert camera.closed


def test_going_on_with_a_run_goes_on_counting() -> None:
    with closing(LiveSource("toy", script(1))) as source:
        source.seek(500)
        frame_of(source)
        assert source.position == 501
