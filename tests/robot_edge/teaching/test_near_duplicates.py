from __future__ import annotations

import numpy as np

from robot_edge.sources.sim import SimulatedCamera
from robot_edge.teaching.near_duplicates import NearDuplicateFilter


def test_a_still_scene_is_one_sample_whatever_its_noise() -> None:
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (8, 8, 3)).repeat(12, 0).repeat(12, 1)
    thinning = NearDuplicateFilter()
    kept = [thinning.keep((scene + rng.normal(0, 5, scene.shape)).clip(0, 255).astype(np.uint8)) for _ in range(100)]
    assert kept == [True] + [False] * 99


def test_what_swings_back_is_not_kept_again() -> None:
    views = [np.full((32, 32, 3), 10 * number, np.uint8) for number in range(10)]
    thinning = NearDuplicateFilter()
    assert [thinning.keep(view) for view in views] == [True] * 10
    assert not any(thinning.keep(view) for view in views)


def test_a_turned_toy_is_another_sample() -> None:
    camera = SimulatedCamera(frames=40, size=32)
    thinning = NearDuplicateFilter()
    kept = [thinning.keep(frame.image) for frame in iter(camera.next, None)]
    assert sum(kept) >= 35, "its scenes differ, and its toys move"
