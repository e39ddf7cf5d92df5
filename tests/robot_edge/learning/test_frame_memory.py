from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from broker.errors import ConfigError
from hierarchy.encoding import Encoding, EncodingLayout
from hierarchy.rehearsal import BalancedMemory
from robot_edge.learning.frame_codec import FrameCodec
from robot_edge.learning.frame_memory import COLUMNS, FrameMemory, KeptFrame, frames_in
from robot_edge.sources.frames import Pixels
from tests.saved_state import read_again

SIZE, LIMIT = 64, 100
FRAME_BYTES = 3 * SIZE**2
PILLOWS_BUFFER = 65_536  # while it writes a JPEG


def frame(number: int) -> Pixels:
    return np.full((SIZE, SIZE, 3), number % 251, np.uint8)  # grey, which JPEG leaves as it is


def filled(count: int, limit: int = LIMIT) -> FrameMemory:
    memory = FrameMemory(limit, SIZE, seed=3)
    for number in range(count):
        memory.add("abc"[number % 3], frame(number))
    return memory


def numbers(kept: Iterable[KeptFrame]) -> list[tuple[str, int]]:
    """What is seen in frames; each shows one number, or several frames were mixed up."""
    seen = list(kept)
    assert all(len(np.unique(image)) == 1 for _, image, _ in seen)
    return [(name, int(image[0, 0, 0])) for name, image, _ in seen]


@pytest.mark.parametrize("limit", [-1, 0, 1, 7, LIMIT])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 250])
def test_it_keeps_and_draws_what_a_balanced_memory_does(limit: int, count: int) -> None:
    plain: BalancedMemory[int] = BalancedMemory(limit, seed=3)
    for number in range(count):
        plain.add("abc"[number % 3], number)
    memory = filled(count, limit)
    assert len(memory) == len(plain)
    assert numbers(memory.all()) == plain.all()
    assert numbers(memory.draw(5)) == plain.draw(5)


def test_what_is_tested_on_stays_exact() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    memory = FrameMemory(LIMIT, SIZE, seed=0, exact=True)
    memory.add("cat", noise)
    for (kept,) in (list(memory.all()), list(frames_in(read_again(memory.state())))):
        assert np.array_equal(kept.image, noise)


def test_a_frame_that_is_changed_later_stays_as_it_was() -> None:
    memory, image = FrameMemory(LIMIT, SIZE, seed=0), frame(1)
    memory.add("cat", image)
    image[:] = 2
    assert numbers(memory.all()) == [("cat", 1)]


@pytest.mark.parametrize("count", [0, 7, LIMIT, 3 * LIMIT])
def test_a_restored_memory_goes_on_as_the_first(count: int) -> None:
    one, other = filled(count), FrameMemory(LIMIT, SIZE, seed=8)
    other.restore(read_again(one.state()))
    assert numbers(other.all()) == numbers(one.all())
    for number in range(2 * LIMIT):
        for memory in (one, other):
            memory.add("late", frame(number))
        assert numbers(one.draw(5)) == numbers(other.draw(5))
    assert numbers(other.all()) == numbers(one.all())


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="64 pixels wide, not 32"):
        FrameMemory(LIMIT, SIZE // 2, seed=0).restore(filled(5).state())
    state = filled(5).state()
    with pytest.raises(ValueError, match="kept otherwise"):
        FrameMemory(LIMIT, SIZE, seed=0).restore(replace(state, room=state.room + 1))


def test_nothing_of_a_forgotten_class_is_left_in_a_checkpoint() -> None:
    memory, noise = FrameMemory(4, SIZE, seed=0), np.random.default_rng(0)
    for _ in range(30):  # most of them give their places to others, and those in the end to small ones
        memory.add("mug", noise.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8))
    memory.add("plain", frame(3))
    memory.forget_class("mug")
    tensors = memory.state().tensors
    plain = int(tensors["columns"][0, COLUMNS.index("length")])
    assert np.count_nonzero(tensors["frames"].numpy()) <= plain < 200


def test_neither_frames_nor_checkpoints_of_a_full_memory_take_more() -> None:
    """Frames that came and went each on its own, and were stacked for a checkpoint, took glibc's heap to pieces."""
    memory, image = filled(2 * LIMIT), frame(0)
    memory.state()
    tracemalloc.start()
    for number in range(2 * LIMIT):
        memory.add("abc"[number % 3], image)
    memory.state()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < PILLOWS_BUFFER + 2 * FRAME_BYTES < LIMIT * FrameCodec(SIZE).room


def test_more_memory_than_there_is_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--rehearsal-mb 1e\+12: this machine has"):
        FrameMemory.limit_of(1e12, 32)


def test_single_frames_are_found_and_forgotten_by_their_numbers_and_leave_nothing_behind() -> None:
    memory = FrameMemory(LIMIT, SIZE, seed=0, encoding=EncodingLayout(features=2))
    for number in range(1, 7):
        features = np.full((1, 2), number, np.float16)
        memory.add("ab"[number % 2], frame(number), sample=number, encoding=Encoding(features=features, crossing=None))
    _, encoding = memory.encodings()
    assert memory.numbers() == encoding.features[:, 0].tolist()
    assert [one.name for one in memory.numbered({2, 3, 99})] == ["b", "a"]
    before = np.count_nonzero(memory.state().tensors["encodings"].numpy())
    memory.forget_numbers({2, 3, 99})
    assert sorted(memory.numbers()) == [1, 4, 5, 6]
    assert memory.counts() == {"a": 2, "b": 2}
    assert np.count_nonzero(memory.state().tensors["encodings"].numpy()) == before - 2 * 2
