"""What is new beside remembered features: other kinds of things, other classes, and one class alone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hierarchy.calibration import auroc
from hierarchy.novelty import MAX_REFERENCES, fit_novelty

FEATURES = 64
KINDS = np.random.default_rng(7).normal(size=(9, FEATURES))
NAMES = "apple", "pear", "plum", "lime"


def frames(kind: int, count: int, seed: int = 0, spread: float = 0.5) -> NDArray[np.float16]:
    rng = np.random.default_rng(100 * kind + seed)
    return np.asarray(KINDS[kind] + spread * rng.normal(size=(count, FEATURES)), np.float16)


def remembered(kinds: range, count: int) -> tuple[NDArray[np.float16], list[str]]:
    features = np.concatenate([frames(kind, count) for kind in kinds])
    return features, [NAMES[kind] for kind in kinds for _ in range(count)]


@pytest.mark.parametrize("kinds", [1, 2, 4])
@pytest.mark.parametrize("count", [5, 10, 40])
def test_what_was_never_taught_is_new(kinds: int, count: int) -> None:
    novelty = fit_novelty(*remembered(range(kinds), count))
    assert novelty is not None
    assert novelty.classes == NAMES[:kinds]
    known = np.concatenate([novelty.score(frames(kind, 50, seed=1)) for kind in range(kinds)])
    strange = np.concatenate([novelty.score(frames(kind, 50, seed=1)) for kind in (5, 6, 7)])
    assert auroc(known, strange) > 0.99
    assert (known > novelty.limit).mean() < 0.1
    assert (strange > novelty.limit).mean() > 0.9


def test_a_class_with_several_looks_is_known_by_the_frames_themselves() -> None:
    looks = np.concatenate([frames(kind, 12) for kind in (0, 5, 6)])
    order = np.random.default_rng(0).permutation(len(looks))  # each fifth of a class has all of its looks
    features = np.concatenate([looks[order], frames(1, 36)])
    novelty = fit_novelty(features, ["mug"] * 36 + ["car"] * 36)
    assert novelty is not None
    assert (novelty.score(frames(6, 50, seed=1)) <= novelty.limit).mean() > 0.9
    between = (KINDS[0] + KINDS[5] + KINDS[6]) / 3
    assert novelty.score(between[None] - KINDS[8])[0] > novelty.limit


@pytest.mark.parametrize("kinds", [1, 3])
def test_a_look_that_comes_again_and_again_does_not_make_the_next_one_strange(kinds: int) -> None:
    # A lesson shows each of twelve looks six times, one after the other and then again.
    rng = np.random.default_rng(0)
    looks = np.concatenate([np.tile(frames(kind, 12), (6, 1)) for kind in range(kinds)])
    lesson = looks + 0.05 * rng.normal(size=looks.shape)
    novelty = fit_novelty(lesson, [NAMES[kind] for kind in range(kinds) for _ in range(72)])
    assert novelty is not None
    known = np.concatenate([novelty.score(frames(kind, 50, seed=1)) for kind in range(kinds)])
    strange = np.concatenate([novelty.score(frames(kind, 50, seed=1)) for kind in (5, 6, 7)])
    assert (known > novelty.limit).mean() < 0.15
    assert (strange > novelty.limit).mean() > 0.9


def test_one_class_has_a_familiarity() -> None:
    novelty = fit_novelty(frames(0, 10), ["mug"] * 10)
    assert novelty is not None
    mug, other = (float(np.median(novelty.score(frames(kind, 20, seed=1)))) for kind in (0, 5))
    assert novelty.familiarity(mug) > 0.8
    assert novelty.familiarity(novelty.limit) == pytest.approx(0.5)
    assert novelty.familiarity(other) < 0.05
    assert novelty.familiarity(1e9) >= 0


def test_too_little_to_tell() -> None:
    assert fit_novelty(np.zeros((0, FEATURES), np.float16), []) is None
    assert fit_novelty(frames(0, 1), ["mug"]) is None
    assert fit_novelty(np.concatenate([frames(0, 1), frames(1, 1)]), ["mug", "car"]) is None
    assert fit_novelty(np.concatenate([frames(0, 2), frames(1, 1)]), ["mug", "mug", "car"]) is not None


def test_frames_that_do_not_move() -> None:
    """A lesson in front of a camera on a table: the next frame is not new for a hair's breadth."""
    same = np.repeat(frames(0, 1), 20, axis=0)
    for features, names in (
        (same, ["mug"] * 20),
        (np.concatenate([same, np.repeat(frames(1, 1), 20, axis=0)]), ["mug"] * 20 + ["car"] * 20),
    ):
        novelty = fit_novelty(features, names)
        assert novelty is not None
        assert novelty.score(same[:1] + frames(2, 1, spread=0.1) * np.float16(0.01))[0] <= novelty.limit
        assert novelty.score(frames(5, 1))[0] > novelty.limit
        assert np.isfinite(novelty.score(np.zeros((1, FEATURES)))).all()


def test_length_does_not_count_and_the_same_frames_give_the_same_scores() -> None:
    features, names = remembered(range(3), 20)
    one, other = fit_novelty(features, names), fit_novelty(features.copy(), list(names))
    assert one is not None
    assert other is not None
    assert one.limit == other.limit
    seen = frames(1, 5, seed=1).astype(np.float32)
    np.testing.assert_array_equal(one.score(seen), other.score(seen))
    np.testing.assert_allclose(one.score(seen), one.score(seen * 3), atol=1e-3)


def test_a_frame_is_compared_with_a_bounded_number() -> None:
    novelty = fit_novelty(*remembered(range(2), MAX_REFERENCES))
    assert novelty is not None
    assert len(novelty.measures.references) <= MAX_REFERENCES
    assert (novelty.score(frames(1, 50, seed=1)) <= novelty.limit).mean() > 0.9
