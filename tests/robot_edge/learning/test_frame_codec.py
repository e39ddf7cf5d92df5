from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from robot_edge.learning import frame_codec
from robot_edge.learning.frame_codec import MIN_ROOM, QUALITIES, ExactCodec, FrameCodec
from robot_edge.sources.encoded import encode_jpeg
from robot_edge.sources.frames import Pixels

# Of a JPEG in colour: its length, three components with their tables, and all coefficients.
SCAN = bytes.fromhex("000c 03 0100 0211 0311 00 3f 00")


def scene(size: int) -> Pixels:
    """Return something smooth with an edge in it."""
    down, right = np.indices((size, size)) / size
    channels = [255 * down, 255 * right, np.where(down + right > 1, 200, 50)]
    return np.stack(channels, axis=2).astype(np.uint8)


def head_of(size: int, quality: int) -> bytes:
    tables, marker, _ = encode_jpeg(np.zeros((size, size, 3), np.uint8), quality, dense=True).partition(b"\xff\xda")
    return tables + marker + SCAN


def error(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(float) - other).mean())


@pytest.mark.parametrize("size", [8, 9, 16, 32, 33, 96, 224])
def test_a_scene_comes_back_nearly_the_same_from_a_twelfth_of_the_bytes(size: int) -> None:
    codec, frame = FrameCodec(size), scene(size)
    head, body = codec.encode(frame)
    assert codec.heads[head] in [head_of(size, quality) for quality in QUALITIES[:4]]
    assert len(body) <= codec.room
    assert codec.room <= max(3 * size**2 / 12, MIN_ROOM)
    back = codec.decode(head, body)
    assert back.shape == frame.shape
    assert error(back, frame) < 5


def test_every_quality_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for quality in QUALITIES:
        monkeypatch.setattr("robot_edge.learning.frame_codec.QUALITIES", (quality,))
        codec = FrameCodec(32)
        codec.room = 3 * 32**2
        assert error(codec.decode(*codec.encode(scene(32))), scene(32)) < 3 + 200 / quality


@pytest.mark.parametrize("best", range(len(QUALITIES)))
def test_of_the_qualities_that_fit_the_best_is_taken(best: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def encode(frame: Pixels, quality: int, *, dense: bool) -> bytes:
        assert dense
        tried.append(quality)
        return head_of(32, quality) + bytes(100 if quality <= QUALITIES[best] else 1000)

    monkeypatch.setattr(frame_codec, "encode_jpeg", encode)
    codec = FrameCodec(32)
    head, body = codec.encode(scene(32))
    assert codec.heads[head] == head_of(32, QUALITIES[best])
    assert len(body) == 100
    assert len(tried) == 3


def test_noise_gets_a_lower_quality_and_what_still_is_too_large_is_smoothed() -> None:
    codec, noise = FrameCodec(32), np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    head, body = codec.encode(noise)
    assert codec.heads[head] in [head_of(32, quality) for quality in QUALITIES[1:]]
    assert len(body) <= codec.room
    codec.room = 40
    head, body = codec.encode(noise)
    assert len(body) <= 40
    assert abs(float(codec.decode(head, body).mean()) - float(noise.mean())) < 10


def test_frames_of_another_library_come_back_beside_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = FrameCodec(32), FrameCodec(32)
    with monkeypatch.context() as other:
        other.setattr(frame_codec, "encode_jpeg", lambda frame, quality, dense: encode_jpeg(frame, 37, dense=dense))
        encoded = theirs.encode(scene(32))
    ours.heads = list(theirs.heads)
    new = ours.encode(scene(32))
    assert len(ours.heads) == 2
    for one in (encoded, new):
        assert error(ours.decode(*one), scene(32)) < 5


def test_exactly_as_it_was() -> None:
    codec, noise = ExactCodec(17), np.random.default_rng(0).integers(0, 256, (17, 17, 3)).astype(np.uint8)
    assert np.array_equal(codec.decode(*codec.encode(noise)), noise)
