from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from robot_edge.sources.frames import Frame
from robot_edge.sources.paced import Paced
from robot_edge.sources.replay import Replay
from robot_edge.sources.settings import Rate


class Film(Replay):
    """Frames that were taken at these times; reading one takes `cost` seconds of the clock."""

    skipped = 0

    def __init__(self, times: list[float], clock: Clock | None = None, cost: float = 0.0) -> None:
        self._times = times
        self._clock, self._cost = clock, cost
        self.length = len(times)
        self.position = 0

    @property
    def ended(self) -> bool:
        return self.position >= self.length

    def next(self, timeout: float | None = None) -> Frame | None:
        if self._clock is not None:
            self._clock.now += self._cost
        if self.ended:
            return None
        self.position += 1
        return Frame(image=np.zeros((1, 1, 3), np.uint8), label=None, scene=0, time=self._times[self.position - 1])

    def seek(self, position: int) -> None:
        self.position = position

    def close(self) -> None: ...


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def times(source: Paced, clock: Clock, tick: float, until: float) -> Iterator[tuple[float, float]]:
    """Yield (seconds since the start, the frame's time), looking for a frame every tick."""
    begin = clock.now
    while clock.now < begin + until:
        if (frame := source.next(0)) is not None:
            yield clock.now - begin, frame.time
        else:
            clock.now += tick


def test_realtime_shows_frames_as_far_apart_as_they_were_taken() -> None:
    clock = Clock()
    source = Paced(Film([7, 7.5, 9, 9]), "realtime", clock=clock)
    assert list(times(source, clock, 0.25, 5)) == [(0, 7), (0.5, 7.5), (2, 9), (2, 9)]
    assert source.ended


@pytest.mark.parametrize("rate", [2.0, 2])
def test_a_number_is_so_many_frames_a_second_whatever_their_times(rate: float) -> None:
    clock = Clock()
    source = Paced(Film([7, 7, 900]), rate, clock=clock)
    assert list(times(source, clock, 0.25, 5)) == [(0, 7), (0.5, 7), (1, 900)]


def test_max_waits_for_nothing() -> None:
    clock = Clock()
    source = Paced(Film([7, 100, 900]), "max", clock=clock)
    assert [at for at, _ in times(source, clock, 0.25, 1)] == [0, 0, 0]


@pytest.mark.parametrize("rate", ["realtime", 1.0])
def test_a_frame_that_waits_for_its_time_was_not_consumed(rate: Rate) -> None:
    clock = Clock()
    source = Paced(Film([7, 8]), rate, clock=clock)
    assert source.next() is not None
    assert source.next(0) is None
    assert (source.position, source.ended) == (1, False)
    clock.now += 1
    assert source.next(0) is not None
    assert (source.position, source.ended) == (2, True)


@pytest.mark.parametrize("rate", ["realtime", 1.0])
def test_the_latest_leaves_out_what_was_overtaken(rate: Rate) -> None:
    clock = Clock()
    source = Paced(Film([float(second) for second in range(10)]), rate, clock=clock)
    first = source.latest(0)
    clock.now += 3.5
    newest = source.latest(0)
    assert first is not None
    assert newest is not None
    assert (first.time, newest.time, source.position) == (0, 3, 4)
    assert source.latest(0) is None


class Camera(Film):
    """A camera that has a picture of now, and older ones in its buffer."""

    def latest(self, timeout: float | None = None) -> Frame | None:
        assert self._clock is not None
        self.position += 1
        return Frame(image=np.zeros((1, 1, 3), np.uint8), label=None, scene=0, time=self._clock.now)


def test_the_latest_of_a_camera_with_a_rate_is_of_now_not_what_waited_longest() -> None:
    clock = Clock()
    source = Paced(Camera([clock.now] * 9, clock), 2.0, clock=clock)
    ages: list[float] = []
    while len(ages) < 3:
        if (frame := source.latest(0)) is not None:
            ages.append(clock.now - frame.time)
        clock.now += 0.25
    assert ages == [0, 0, 0]


def test_the_latest_of_a_film_that_is_read_too_slowly_comes_all_the_same() -> None:
    clock = Clock()
    source = Paced(Film([second / 10 for second in range(1000)], clock, cost=0.5), "realtime", clock=clock)
    source.latest(0)
    assert source.latest(0) is not None
    assert source.position < 10


@pytest.mark.parametrize("rate", ["realtime", 1.0])
def test_a_reader_that_lost_the_pace_gets_no_burst(rate: Rate) -> None:
    clock = Clock()
    source = Paced(Film([float(second) for second in range(100)]), rate, clock=clock)
    source.next(0)
    clock.now += 30
    assert len(list(times(source, clock, 0.25, 5))) <= 7


@pytest.mark.parametrize("rate", ["realtime", "max", 10.0])
def test_it_can_be_paused_stepped_and_resumed(rate: Rate) -> None:
    clock = Clock()
    source = Paced(Film([7, 7.1, 7.2, 7.3]), rate, clock=clock)
    source.next(0)
    source.pause()
    clock.now += 0.2
    assert source.next(0) is None
    assert source.latest(0) is None
    assert source.status == "paused"
    source.step()
    step = source.next(0)
    assert step is not None
    assert step.time == 7.1
    assert source.next(0) is None
    clock.now += 100
    source.resume()
    assert source.status == ""
    assert source.next(0) is not None, "it is to go on at once"


@pytest.mark.parametrize("rate", ["realtime", "max", 10.0])
def test_a_frame_that_is_being_read_when_it_is_paused_waits_for_the_next_step(rate: Rate) -> None:
    class Slow(Film):
        def next(self, timeout: float | None = None) -> Frame | None:
            source.pause()
            return super().next(timeout)

    source = Paced(Slow([7, 7.1]), rate, clock=Clock())
    assert source.next(0) is None
    assert source.position == 0
    source.step()
    frame = source.next(0)
    assert frame is not None
    assert frame.time == 7


def test_another_thread_lets_a_waiting_reader_go_on() -> None:
    source = Paced(Film([0, 1]), "realtime")
    source.pause()
    frames: list[Frame | None] = []
    reader = threading.Thread(target=lambda: frames.append(source.next(20)))
    reader.start()
    source.step()
    reader.join(10)
    assert len(frames) == 1
    assert frames[0] is not None
