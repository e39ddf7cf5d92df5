from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hierarchy.encoding import Encoding
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


def texture(size: int) -> NDArray[np.uint8]:
    """Something with details, larger than a frame."""
    rough = np.random.default_rng(0).integers(0, 256, (size // 8, size // 8, 3), np.uint8)
    return np.asarray(Image.fromarray(rough).resize((size, size), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("right", "down"), [(1, 0), (0, -2), (3, 2), (-4, 4)])
def test_a_trembling_hand_shows_nothing_new(right: int, down: int) -> None:
    scene, rng = texture(256), np.random.default_rng(1)
    thinning = NearDuplicateFilter()
    assert thinning.keep(scene[16:240, 16:240])
    shifted = scene[16 + down : 240 + down, 16 + right : 240 + right]
    assert not thinning.keep((shifted + rng.normal(0, 5, shifted.shape)).clip(0, 255).astype(np.uint8))


def test_what_moved_further_or_turned_is_new() -> None:
    scene = texture(256)
    thinning = NearDuplicateFilter()
    assert thinning.keep(scene[16:240, 16:240])
    assert thinning.keep(scene[16:240, 28:252])
    assert thinning.keep(np.asarray(Image.fromarray(scene).rotate(5))[16:240, 16:240])


def test_in_a_small_frame_a_pixel_is_much() -> None:
    scene = texture(64)
    thinning = NearDuplicateFilter()
    assert thinning.keep(scene[:32, :32])
    assert thinning.keep(scene[:32, 1:33])


def test_what_the_network_takes_for_the_same_is_not_kept_again() -> None:
    def encoding(angle: float) -> Encoding:
        return Encoding(features=np.array([[20 * np.cos(angle), 20 * np.sin(angle)]], np.float16), crossing=None)

    scene = texture(256)
    thinning = NearDuplicateFilter()
    assert thinning.keep(scene[16:240, 16:240], encoding(0.0))
    assert not thinning.keep(scene[16:240, 28:252], encoding(0.1)), "a cosine distance of 0.005"
    assert thinning.keep(scene[16:240, 28:252], encoding(0.2)), "a cosine distance of 0.02"
