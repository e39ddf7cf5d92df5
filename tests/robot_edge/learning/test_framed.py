"""A camera's region to look at may change while frames come."""

from __future__ import annotations

import numpy as np
import pytest

from broker.errors import ConfigError
from robot_edge.learning.framed import Viewfinder, framing_for
from robot_edge.learning.framing import WHOLE, Framing, Region, parse_region
from robot_edge.learning.settings import NetworkSettings
from robot_edge.sources.frames import Pixels


def frame(height: int = 40, width: int = 80) -> Pixels:
    """A frame whose left half is black and whose right half is white."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, width // 2 :] = 255
    return image


def viewfinder(look: str = "whole") -> tuple[Viewfinder, list[Region]]:
    kept: list[Region] = []
    return Viewfinder(Framing(size=8, region=parse_region(look)), kept.append), kept


def test_what_is_chosen_is_seen_from_the_next_frame_on_and_kept() -> None:
    finder, kept = viewfinder()
    assert finder.input(frame()).min() == 0
    assert finder.look(parse_region("50%,0%,50%,100%")) == Region(50, 0, 50, 100)
    assert set(finder.input(frame()).ravel()) == {255}
    finder.look(WHOLE)
    assert kept == [Region(50, 0, 50, 100), WHOLE]


def test_pixels_are_those_of_the_frames_that_come() -> None:
    finder, kept = viewfinder()
    with pytest.raises(ConfigError, match="no frame has come"):
        finder.look(parse_region("40,0,40,40"))
    finder.input(frame())
    with pytest.raises(ConfigError, match="a frame has 80 x 40"):
        finder.look(parse_region("40,0,41,40"))
    assert kept == []
    assert finder.look(parse_region("40,0,40,40")) == Region(50, 0, 50, 100)


def test_pixels_of_the_first_frame_are_the_same_place_when_the_camera_comes_back_with_more() -> None:
    finder, _ = viewfinder("40,0,40,40")
    assert set(finder.input(frame()).ravel()) == {255}
    assert set(finder.input(frame(20, 40)).ravel()) == {255}
    assert set(finder.input(frame(400, 800)).ravel()) == {255}


def test_small_pictures_are_scaled_as_ever_and_others_as_their_network_was_tested() -> None:
    small = framing_for(NetworkSettings(backbone="resnet18", image_size=32))
    assert small == Framing(size=32)
    large = framing_for(NetworkSettings(backbone="efficientnet_b0", image_size=224, fit="squash", look="1,2,30,40"))
    assert large == Framing(
        size=224, fit="squash", interpolation="bicubic", crop=0.875, region=Region(1, 2, 30, 40, False)
    )
