from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from robot_edge.learning import label_doubts
from robot_edge.learning.label_doubts import LabelDoubt, doubted_by_exit, doubted_by_neighbours

CLASSES = ("mug", "star", "car")


def lessons(each: int, seed: int = 0) -> tuple[NDArray[np.float16], list[str], list[int]]:
    """Features (N, 32) of frames of each class around a direction of its own, in lessons one after the other."""
    rng = np.random.default_rng(seed)
    directions = 3 * np.eye(32)[: len(CLASSES)]
    features = np.concatenate([one + rng.normal(0, 0.3, (each, 32)) for one in directions])
    return features.astype(np.float16), [name for name in CLASSES for _ in range(each)], [*range(1, 3 * each + 1)]


def doubts(features: NDArray[np.float16], names: list[str], numbers: list[int]) -> list[LabelDoubt]:
    return [one for part in doubted_by_neighbours(features, names, numbers) for one in part]


def test_right_labels_are_not_doubted_and_a_wrong_one_is_with_what_it_looks_like() -> None:
    features, names, numbers = lessons(12)
    assert doubts(features, names, numbers) == []
    names[5] = "star"
    (found,) = doubts(features, names, numbers)
    assert (found.number, found.name, found.instead) == (numbers[5], "star", "mug")
    assert found.why == "5 of the 5 frames most like it are 'mug'"


def test_a_run_of_wrong_frames_does_not_vouch_for_itself_in_whatever_order_it_is_kept() -> None:
    features, names, numbers = lessons(24)
    again = np.repeat(features[30:31], 4, axis=0) + np.random.default_rng(1).normal(0, 0.02, (4, 32))
    features[20:24] = again.astype(np.float16)  # the lesson of the mug ends on the star, which hardly moves
    order = np.random.default_rng(2).permutation(len(names))
    found = doubts(features[order], [names[row] for row in order], [numbers[row] for row in order])
    assert sorted(one.number for one in found) == [21, 22, 23, 24]
    assert {one.instead for one in found} == {"star"}


def test_a_class_of_a_few_frames_is_not_doubted_for_being_small() -> None:
    features, names, numbers = lessons(24)
    few = [*range(24), *range(24, 28), *range(48, 72)]
    assert doubts(features[few], [names[row] for row in few], [numbers[row] for row in few]) == []


@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_little_to_compare_with_says_nothing(count: int) -> None:
    features, names, numbers = lessons(12)
    assert doubts(features[:count], names[:count], numbers[:count]) == []
    assert doubts(features[:12], names[:12], numbers[:12]) == [], "one class"


def test_a_large_memory_is_compared_with_a_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_doubts, "MAX_REFERENCES", 40)
    features, names, numbers = lessons(60)
    names[7] = "car"
    assert [one.number for one in doubts(features, names, numbers)] == [numbers[7]]


def test_an_exit_that_learned_a_frame_and_takes_it_for_another_is_a_reason() -> None:
    probabilities = np.array([[0.05, 0.9, 0.05], [0.3, 0.6, 0.1], [0.95, 0.03, 0.02]])
    (found,) = doubted_by_exit(probabilities, CLASSES, ["mug", "mug", "mug"], [1, 2, 3])
    assert (found.number, found.instead) == (1, "star")
    assert found.why == "the exit takes it for 'star' (90 %), though it learned it"
    assert doubted_by_exit(probabilities[:1], CLASSES, ["gone"], [1]) == []
