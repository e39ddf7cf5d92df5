from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hierarchy.augment import augment

Pixels = NDArray[np.uint8]


def pictures(count: int, size: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def variants(image: Pixels, reach: int) -> dict[bytes, tuple[int, int, bool]]:
    """Every shift by up to `reach` pixels, plain and mirrored -> (down, right, mirrored)."""
    size = len(image)
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    found = {}
    for down in range(2 * reach + 1):
        for right in range(2 * reach + 1):
            window = padded[down : down + size, right : right + size]
            found[window.tobytes()] = (down, right, False)
            found[window[:, ::-1].tobytes()] = (down, right, True)
    return found


def test_each_image_is_a_shift_of_itself_and_half_are_mirrored() -> None:
    image = pictures(1, 16)
    known = variants(image[0], reach=2)
    results = augment(np.repeat(image, 500, axis=0), np.random.default_rng(1))
    seen = [known[one.tobytes()] for one in results]
    assert {(down, right) for down, right, _ in seen} == {(down, right) for down in range(5) for right in range(5)}
    assert 200 < sum(mirrored for *_, mirrored in seen) < 300


def test_images_keep_their_places() -> None:
    images = pictures(20, 16)
    for image, result in zip(images, augment(images, np.random.default_rng(1)), strict=True):
        assert result.tobytes() in variants(image, reach=2)


@pytest.mark.parametrize("size", [1, 7])
def test_an_image_too_small_to_shift_is_only_mirrored(size: int) -> None:
    images = pictures(8, size)
    for image, result in zip(images, augment(images, np.random.default_rng(1)), strict=True):
        assert result.tobytes() in {image.tobytes(), image[:, ::-1].tobytes()}


def test_what_it_is_given_stays_as_it_was_and_a_seed_repeats_the_result() -> None:
    images = pictures(8, 16)
    one, other, different = (augment(images, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(images, pictures(8, 16))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, different)
