from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from robot_edge.sources.deep_pixels import to_eight_bits

RAMP = np.tile(np.arange(256, dtype=np.uint16), (16, 1))


def spread(pixels: NDArray[Any]) -> int:
    """Return how many levels of grey lie between the darkest and the brightest pixel."""
    return int(pixels.max()) - int(pixels.min())


def test_a_photograph_in_16_bits_is_the_one_in_8_bits() -> None:
    assert_array_equal(to_eight_bits(RAMP * 257), RAMP)
    dark = RAMP[:, :160]  # as exposed: nothing in it is white
    assert_array_equal(to_eight_bits(dark * 257), dark)


@pytest.mark.parametrize(
    "deep",
    [
        RAMP * 16,
        RAMP * 4,
        RAMP + 29_900,
        RAMP.astype(np.int32) * 1000 - 50_000,
        RAMP.astype(np.float32) / 51,
        RAMP.astype(np.float64) + 300,
    ],
    ids=["12 bits", "10 bits", "temperatures", "int32", "metres", "kelvin"],
)
def test_what_fills_its_type_in_part_keeps_its_contrast(deep: NDArray[Any]) -> None:
    shown = to_eight_bits(deep)
    assert shown.dtype == np.uint8
    assert shown.shape == deep.shape
    assert spread(shown) > 250
    assert (np.diff(shown[0].astype(int)) >= 0).all()
    assert np.abs(shown.astype(int) - RAMP).max() <= 1


def test_a_dead_pixel_does_not_take_the_contrast() -> None:
    deep = np.tile(RAMP * 16, (8, 1))
    deep[3, 3], deep[5, 5] = 65_535, 0
    assert spread(to_eight_bits(deep)[:, 10:]) > 240


def test_a_large_picture_is_measured_in_all_its_channels_and_columns() -> None:
    deep = np.zeros((900, 900, 3), np.uint16)
    deep[:, 450:, 2] = 4000
    shown = to_eight_bits(deep)
    assert (shown[:, 450:, 2] == 255).all()
    assert not shown[:, :, :2].any()


def test_what_is_not_finite_is_black() -> None:
    depth = RAMP.astype(np.float32)
    depth[0, :4] = (np.nan, np.inf, -np.inf, 3e38)
    shown = to_eight_bits(depth)
    assert shown[0, :3].tolist() == [0, 0, 0]
    assert spread(shown[1:]) > 250
    assert not to_eight_bits(np.full((2, 2), np.nan)).any()


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_a_plain_picture_stays_plain(kind: type) -> None:
    assert spread(to_eight_bits(np.full((4, 4), 300, kind))) == 0
    assert to_eight_bits(np.full((4, 4), 128 * 257, np.uint16)).tolist() == [[128] * 4] * 4


def test_8_bits_stay_as_they_are() -> None:
    assert_array_equal(to_eight_bits(RAMP.astype(np.uint8)), RAMP)
