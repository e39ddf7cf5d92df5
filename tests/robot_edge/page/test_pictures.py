from __future__ import annotations

import io

import numpy as np
from PIL import Image

from robot_edge.inference.cascade import Decision
from robot_edge.inference.seeing_thread import View
from robot_edge.page.pictures import WIDEST, Encoder, jpeg
from robot_edge.sources.frames import Frame

DECISION = Decision(name="mug", confidence=1.0, by="exit", taken_at=0.0, latency=0.0)


def view(number: int, shade: int) -> View:
    image = np.full((48, 64, 3), shade, np.uint8)
    return View(Frame(image=image, label=None, scene=0, time=0.0), DECISION, number)


def opened(encoded: bytes) -> Image.Image:
    return Image.open(io.BytesIO(encoded))


def test_large_pictures_are_scaled_down_and_small_ones_are_left() -> None:
    assert opened(jpeg(np.zeros((2160, 3840, 3), np.uint8))).size == (WIDEST, 360)
    assert opened(jpeg(np.zeros((1000, 500, 3), np.uint8))).size == (320, WIDEST)
    assert opened(jpeg(np.zeros((48, 64, 3), np.uint8))).size == (64, 48)


def test_a_frame_is_encoded_once_for_all_who_look() -> None:
    encoder = Encoder()
    first = encoder.encoded(view(1, 10))
    assert encoder.encoded(view(1, 10)) is first
    newer = encoder.encoded(view(2, 200))
    assert newer != first
    assert encoder.encoded(view(1, 10)) is newer
