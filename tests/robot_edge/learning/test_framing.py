"""From a camera's frame to what the network sees: which region, and how it becomes a square."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from broker.errors import ConfigError
from robot_edge.learning.framing import BAR_GREY, WHOLE, Framing, Region, parse_region
from robot_edge.sources.frames import Pixels

SIZE = 8
PLAIN = Framing(size=SIZE)
RED, GREEN = (200, 10, 30), (10, 200, 30)


def filled(height: int, width: int, colour: tuple[int, int, int] = (0, 0, 0)) -> Pixels:
    return np.full((height, width, 3), colour, np.uint8)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (20, 40), (41, 20), (3, 5), (8, 9)])
def test_crop_scales_the_largest_centred_square(height: int, width: int) -> None:
    side = min(height, width)
    image = filled(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image[top : top + side, left : left + side] = GREEN
    result = PLAIN.input(image)
    assert result.shape == (SIZE, SIZE, 3)
    assert result.dtype == np.uint8
    assert (result == GREEN).all(), "what lies beside the square shows"


def test_crop_is_what_it_always_was() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8)
    square = Image.fromarray(image[:, 5:35])
    assert (PLAIN.input(image) == np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BILINEAR))).all()
    same = image[:SIZE, :SIZE].copy()
    assert np.shares_memory(PLAIN.input(same), same)
    assert (PLAIN.input(same) == same).all()


@pytest.mark.parametrize("fit", ["crop", "letterbox", "squash"])
def test_left_stays_left_and_top_stays_top(fit: Any) -> None:
    image = filled(32, 64)
    image[:16, 16:32] = 255
    quarters = replace(PLAIN, fit=fit).input(image)[:, :, 0].reshape(2, 4, 2, 4).max(axis=(1, 3))
    assert quarters[0, 0] > 200
    assert quarters[1, 1] < 200


def test_squash_sees_the_sides_and_makes_them_as_long_as_the_rest() -> None:
    image = filled(20, 40, GREEN)
    image[:, :20] = RED
    result = replace(PLAIN, fit="squash").input(image)
    assert (result[:, :3] == RED).all()
    assert (result[:, 5:] == GREEN).all()


@pytest.mark.parametrize("upright", [False, True])
def test_letterbox_sees_all_of_it_between_bars_of_grey(upright: bool) -> None:
    image = filled(40, 20, RED) if upright else filled(20, 40, RED)
    result = replace(PLAIN, fit="letterbox").input(image)
    result = result.transpose(1, 0, 2) if upright else result
    assert (result[:2] == BAR_GREY).all()
    assert (result[2:6] == RED).all()
    assert (result[6:] == BAR_GREY).all()


def test_crop_keeps_so_much_of_the_square() -> None:
    image = filled(16, 24, RED)
    image[2:14, 6:18] = GREEN
    assert (replace(PLAIN, crop=0.75).input(image) == GREEN).all()


def test_only_the_region_is_seen() -> None:
    image = filled(48, 64, RED)
    image[10:30, 40:60] = GREEN
    for text in ("40,10,20,20", "62.5%,20.83%,31.25%,41.67%"):
        assert (replace(PLAIN, region=parse_region(text)).input(image) == GREEN).all(), text


@pytest.mark.parametrize("text", ["whole", "Whole ", "0%,0%,100%,100%"])
def test_the_whole_frame_is_a_region_too(text: str) -> None:
    image = filled(3, 5)
    assert parse_region(text) == WHOLE
    assert parse_region(text).cut(image) is image
    assert str(WHOLE) == "whole"


@pytest.mark.parametrize("text", ["160,48,320,384", "25%,10%,50%,80%", "15.78%,0%,84.22%,100%"])
def test_a_region_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_region(text)) == text


def test_pixels_are_the_same_place_in_percent() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        width, height = (int(one) for one in rng.integers(50, 2000, 2))
        left, top = int(rng.integers(0, width - 40)), int(rng.integers(0, height - 40))
        wide, high = int(rng.integers(40, width - left + 1)), int(rng.integers(40, height - top + 1))
        pixels = Region(left, top, wide, high, in_percent=False)
        in_percent = pixels.of_frame(width, height)
        assert in_percent.in_percent
        assert parse_region(str(in_percent)).box(width, height) == pixels.box(width, height)
        assert in_percent.of_frame(3, 3) is in_percent


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "give left, top, width and height, as in 160,48,320,384"),
        ("1,2,3", "give left, top"),
        ("1,2,3,4,5", "give left, top"),
        ("a,b,c,d", "give left, top"),
        ("nan,0,10,10", "give left, top"),
        ("-1,0,10,10", "give left, top"),
        ("1e2,0,10,10", "give left, top"),
        ("9" * 400 + ",1,1,1", "give left, top"),
        ("10%,10,50%,50%", "some numbers are in percent and some are not"),
        ("90%,0%,20%,20%", "reaches to 110 % of the width, the frame ends at 100"),
        ("0%,50%,20%,51%", "reaches to 101 % of the height"),
        ("0%,0%,1%,50%", "a width of 1 % shows nothing, give 2 at least"),
        ("0,0,50,7", "a height of 7 pixels shows nothing, give 8 at least"),
        ("65000,0,9999,10", "reaches to 74999 pixels"),
    ],
)
def test_what_is_no_region_is_refused_with_what_to_write(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_region(text)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.1])
def test_no_region_has_a_number_that_is_none(bad: float) -> None:
    with pytest.raises(ConfigError):
        Region(bad, 0.0, 50.0, 50.0)
    with pytest.raises(ConfigError):
        Region(0.0, 0.0, 50.0, bad)


def test_pixels_that_a_frame_does_not_have_are_refused_with_its_size() -> None:
    with pytest.raises(ConfigError, match="reaches to 800 x 300 pixels, and a frame has 640 x 480"):
        parse_region("500,0,300,300").cut(filled(480, 640))


def test_the_least_region_of_the_least_frame_has_a_pixel() -> None:
    assert parse_region("98%,98%,2%,2%").cut(filled(3, 3)).shape == (1, 1, 3)
    assert parse_region("0%,0%,2%,2%").cut(filled(3, 3)).shape == (1, 1, 3)


@pytest.mark.parametrize("fit", ["crop", "letterbox", "squash"])
@pytest.mark.parametrize("look", ["whole", "25%,0%,50%,100%", "3,5,41,20"])
def test_what_is_said_to_be_seen_is_what_is_seen(fit: Any, look: str) -> None:
    framing = Framing(size=16, fit=fit, crop=0.8, region=parse_region(look))
    left, top, right, bottom = framing.seen(64, 48)
    image = filled(48, 64, RED)
    image[top:bottom, left:right] = GREEN
    seen = framing.input(image).copy()  # it may be a part of the frame itself
    assert ((seen == GREEN).all(axis=2) | (seen == BAR_GREY).all(axis=2)).all(), "more is seen"
    image[top, left] = image[bottom - 1, right - 1] = RED
    assert (framing.input(image) != seen).any(), "less is seen"
