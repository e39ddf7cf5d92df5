from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from robot_edge.frame_codec import QUALITIES, FrameCodec
from robot_edge.frames import Pixels


def scene(size: int) -> Pixels:
    """Return something smooth with an edge in it."""
    down, right = np.indices((size, size)) / size
    channels = [255 * down, 255 * right, np.where(down + right > 1, 200, 50)]
    return np.stack(channels, axis=2).astype(np.uint8)


def error(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(float) - other).mean())


@pytest.mark.parametrize("size", [8, 9, 16, 32, 33, 96, 224])
def test_a_scene_comes_back_nearly_the_same_from_a_sixth_of_the_bytes(size: int) -> None:
    codec, frame = FrameCodec(size), scene(size)
    quality, body = codec.encode(frame)
    assert quality == QUALITIES[0]
    assert len(body) <= codec.room
    assert codec.room <= max(3 * size**2 / 6, 192)
    back = codec.decode(quality, body)
    assert back.shape == frame.shape
    assert error(back, frame) < 80 / size + 2  # colours lie half as dense


def test_every_quality_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for quality in QUALITIES:
        monkeypatch.setattr("robot_edge.frame_codec.QUALITIES", (quality,))
        codec = FrameCodec(32)
        assert error(codec.decode(*codec.encode(scene(32))), scene(32)) < 3 + 200 / quality


def test_noise_gets_a_lower_quality_and_what_still_is_too_large_is_smoothed() -> None:
    codec, noise = FrameCodec(32), np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    quality, body = codec.encode(noise)
    assert quality < QUALITIES[0]
    assert len(body) <= codec.room
    codec.room = 40
    quality, body = codec.encode(noise)
    assert len(body) <= 40
    assert abs(float(codec.decode(quality, body).mean()) - float(noise.mean())) < 10


def test_frames_of_another_codec_come_back_with_its_heads() -> None:
    one, other = FrameCodec(32), FrameCodec(32)
    encoded = one.encode(scene(32))
    other.heads = dict(one.heads)
    assert np.array_equal(other.decode(*encoded), one.decode(*encoded))
