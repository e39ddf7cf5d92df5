"""What attackers find in activations that are pictures, that are noise, and that an unprotected front sends."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from broker.wire.quantize import dequantize, quantize
from hierarchy.attack.decoder import train_decoder
from hierarchy.attack.leak import leak_of, nothing_leaks, quick_leak
from hierarchy.attack.pairs import Pairs, Pictures, Values, shrunk
from hierarchy.attack.ridge import MOST_PRIMAL, linear_attackers
from hierarchy.edge import build_edge_segment, normalise

SIDE = 32


def blobs(count: int, seed: int = 0) -> Pictures:
    """Return pictures of a few smooth patches each: no two alike, all about equally bright."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (count, 3, 5, 5)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 255)
    return smooth.byte().permute(0, 2, 3, 1).contiguous().numpy()


def split(values: Values, pictures: Pictures, own: int) -> tuple[Pairs, Pairs]:
    return Pairs(values=values[:own], pictures=pictures[:own]), Pairs(values=values[own:], pictures=pictures[own:])


@pytest.mark.parametrize("channels", [3, 40])
def test_a_channel_that_copies_the_picture_is_found_by_linear_algebra(channels: int) -> None:
    pictures, rng = blobs(700), np.random.default_rng(1)
    grey = shrunk(pictures, 8).mean(3)[:, None].astype(np.float32)
    noise = rng.normal(0, 50, (len(pictures), channels - 1, 8, 8)).astype(np.float32)
    values = dequantize(quantize(np.concatenate([noise, grey], axis=1), 4))
    assert (values[0].size > MOST_PRIMAL) == (channels == 40)  # both ways of solving
    own, attacked = split(values, pictures, 600)
    assert quick_leak(own, attacked).found > 0.95


def test_noise_tells_an_attacker_no_more_than_the_mean_picture_does() -> None:
    pictures = blobs(300)
    values = np.random.default_rng(1).normal(size=(300, 8, 4, 4)).astype(np.float32)
    own, attacked = split(values, pictures, 200)
    leak, least = quick_leak(own, attacked, decoder_steps=10), nothing_leaks(own, attacked)
    assert leak.found <= 0.03
    assert leak.psnr < least.psnr + 0.3
    assert leak.ssim < least.ssim + 0.1


@pytest.mark.slow
def test_an_unprotected_segment_is_read_by_both_attackers_and_the_same_by_the_same_seed() -> None:
    pictures = blobs(400)
    torch.manual_seed(0)
    segment, _ = build_edge_segment(
        "resnet18", "layer1", image_size=SIDE, bits=4, bottleneck_channels=8, weights="none"
    )
    with torch.inference_mode():
        crossed = segment.encode(torch.from_numpy(np.ascontiguousarray(normalise(pictures)))).numpy()
    own, attacked = split(dequantize(quantize(crossed, 4)), pictures, 300)
    least = nothing_leaks(own, attacked)
    decoder, again = (train_decoder(own, steps=15, seed=3) for _ in range(2))
    seen = decoder.reconstruct(attacked.values)
    assert np.array_equal(seen, again.reconstruct(attacked.values))
    for one in (*(linear.reconstruct(attacked.values) for linear in linear_attackers(own).values()), seen):
        leak = leak_of(one, attacked.pictures, own.pictures)
        assert leak.psnr > least.psnr + 1
        assert leak.ssim > least.ssim + 0.1
    assert quick_leak(own, attacked).found > 0.9
