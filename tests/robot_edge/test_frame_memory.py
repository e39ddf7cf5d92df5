from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterable

import numpy as np
import pytest

from hierarchy.rehearsal import BalancedMemory
from robot_edge.frame_codec import FrameCodec
from robot_edge.frame_memory import COLUMNS, LOGITS, FrameMemory, KeptFrame, frames_in, together
from robot_edge.frames import Pixels

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
    assert all(len(np.unique(one.image)) == 1 for one in seen)
    return [(one.name, int(one.image[0, 0, 0])) for one in seen]


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
    tensors, about = memory.state()
    for (kept,) in (list(memory.all()), list(frames_in(tensors, json.loads(json.dumps(about))))):
        assert np.array_equal(kept.image, noise)


def test_a_frame_that_is_changed_later_stays_as_it_was() -> None:
    memory, image = FrameMemory(LIMIT, SIZE, seed=0), frame(1)
    memory.add("cat", image)
    image[:] = 2
    assert numbers(memory.all()) == [("cat", 1)]


@pytest.mark.parametrize("count", [0, 7, LIMIT, 3 * LIMIT])
def test_a_restored_memory_goes_on_as_the_first(count: int) -> None:
    one, other = filled(count), FrameMemory(LIMIT, SIZE, seed=8)
    tensors, about = one.state()
    other.restore(tensors, json.loads(json.dumps(about)))
    assert numbers(other.all()) == numbers(one.all())
    for number in range(2 * LIMIT):
        for memory in (one, other):
            memory.add("late", frame(number))
        assert numbers(one.draw(5)) == numbers(other.draw(5))
    assert numbers(other.all()) == numbers(one.all())


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="64 pixels wide, not 32"):
        FrameMemory(LIMIT, SIZE // 2, seed=0).restore(*filled(5).state())


def test_nothing_of_a_forgotten_class_is_left_in_a_checkpoint() -> None:
    memory, noise = FrameMemory(4, SIZE, seed=0), np.random.default_rng(0)
    for _ in range(30):  # most of them give their places to others, and those in the end to small ones
        memory.add("mug", noise.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8))
    memory.add("plain", frame(3))
    memory.forget_class("mug")
    tensors, _ = memory.state()
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


def logits_of(memory: FrameMemory) -> dict[str, list[float]]:
    return {one.name: one.logits[np.isfinite(one.logits)].tolist() for one in memory.all()}


def test_frames_keep_their_logits_also_through_a_checkpoint() -> None:
    one, other = FrameMemory(LIMIT, SIZE, seed=0), FrameMemory(LIMIT, SIZE, seed=0)
    many = list(range(LOGITS + 5))
    one.add("cat", frame(1), logits=[0.5, -2.0])
    one.add("dog", frame(2), logits=many)
    one.add("bee", frame(3))
    other.restore(*one.state())
    for memory in (one, other):
        assert logits_of(memory) == {"cat": [0.5, -2.0], "dog": many[:LOGITS], "bee": []}
    images, names, logits = together(list(one.all()))
    assert (images.shape, names, logits.shape) == ((3, SIZE, SIZE, 3), ["cat", "dog", "bee"], (3, LOGITS))


def test_a_place_that_is_taken_again_has_no_logits_of_before() -> None:
    memory = FrameMemory(1, SIZE, seed=0)
    for logits in ([1.0, 2.0], [3.0], []) * 4:
        memory.add("cat", frame(1), logits=logits)
        kept = next(iter(memory.all())).logits
        assert kept[np.isfinite(kept)].tolist() in ([1.0, 2.0], [3.0], [])
    memory.forget_class("cat")
    memory.add("dog", frame(1))
    assert logits_of(memory) == {"dog": []}


def test_the_logit_of_a_class_that_goes_leaves_no_gap() -> None:
    memory = FrameMemory(LIMIT, SIZE, seed=0)
    memory.add("cat", frame(1), logits=[1, 2, 3])
    memory.add("dog", frame(2), logits=[4, 5])
    memory.add("bee", frame(3), logits=range(LOGITS))
    memory.forget_logit("dog", 1)
    assert logits_of(memory) == {"cat": [1, 3], "dog": [], "bee": [0, *range(2, LOGITS)]}
    memory.forget_logit("of none", LOGITS + 3)
    assert logits_of(memory)["bee"] == [0, *range(2, LOGITS)]
