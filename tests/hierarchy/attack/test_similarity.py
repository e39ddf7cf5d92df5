"""SSIM and recognition at their ends, and SSIM against its formula on one window."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from hierarchy.attack import similarity
from hierarchy.attack.pairs import as_map, as_shares, shrunk
from hierarchy.attack.recognition import found
from hierarchy.attack.similarity import LUMA, PERFECT, has_lpips, lpips, psnr, ssim

RNG = np.random.default_rng(0)


def test_a_copy_is_like_its_frame_and_noise_is_not() -> None:
    frames = RNG.integers(0, 256, (3, 16, 16, 3), np.uint8)
    copies, noise = as_shares(frames), RNG.random((3, 16, 16, 3)).astype(np.float32)
    assert np.allclose(ssim(copies, frames), 1)
    assert (psnr(copies, frames) == PERFECT).all()
    assert (ssim(noise, frames) < 0.2).all()
    assert np.allclose(psnr(np.clip(copies + 0.1, 0, 2), frames), 20, atol=0.01)


def test_of_one_window_it_is_the_formula_of_its_authors() -> None:
    frame, seen = RNG.integers(0, 256, (1, 11, 11, 3), np.uint8), RNG.random((1, 11, 11, 3)).astype(np.float32)
    row = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(row, row) / row.sum() ** 2
    a, b = (one[0].astype(float) @ np.array(LUMA) for one in (seen, as_shares(frame)))
    mean_a, mean_b = (window * a).sum(), (window * b).sum()
    spread_a, spread_b = (window * a**2).sum() - mean_a**2, (window * b**2).sum() - mean_b**2
    together = (window * a * b).sum() - mean_a * mean_b
    right = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
    right *= (2 * together + 9e-4) / (spread_a + spread_b + 9e-4)
    assert np.isclose(ssim(seen, frame)[0], right, atol=1e-5)


def test_the_right_frame_is_found_and_a_guess_is_as_good_as_chance() -> None:
    frames, others = RNG.integers(0, 256, (10, 8, 8, 3), np.uint8), RNG.integers(0, 256, (90, 8, 8, 3), np.uint8)
    faint = 0.5 + 0.05 * (as_shares(frames) - 0.5)
    assert found(faint, frames, others) == 1
    grey = np.full(faint.shape, 0.5, np.float32)
    assert found(grey, frames, others) <= 0.1
    twins = np.repeat(frames[:1], 10, axis=0)
    assert found(as_shares(twins), twins, others) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((16, 8, 8), (16, 8, 8)),
        ((14, 14, 96), (96, 14, 14)),
        ((197, 192), (192, 14, 14)),
        ((192, 49), (192, 7, 7)),
        ((320,), (320, 1, 1)),
        ((7, 11), (77, 1, 1)),
    ],
)
def test_whatever_crosses_becomes_a_map(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert as_map(np.zeros((2, *shape), np.float32)).shape == (2, *expected)


def test_large_pictures_are_averaged() -> None:
    large = np.zeros((1, 128, 128, 3), np.uint8)
    large[:, ::2] = 200
    assert (shrunk(large) == 100).all()
    assert shrunk(large, 128) is large


def test_without_its_package_lpips_says_what_it_needs() -> None:
    if has_lpips():
        pytest.skip("it is installed here")
    frames = np.zeros((1, 16, 16, 3), np.uint8)
    with pytest.raises(ImportError, match="needs the package lpips"):
        lpips(as_shares(frames), frames)


def test_lpips_is_given_pictures_as_its_package_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[torch.Tensor] = []

    class Distance(torch.nn.Module):
        def __init__(self, **_: object) -> None:
            super().__init__()

        def forward(self, seen: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
            given.append(frames)
            return (seen - frames).abs().mean((1, 2, 3), keepdim=True)

    package = ModuleType("lpips")
    package.LPIPS = Distance  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lpips", package)
    monkeypatch.setattr(similarity, "has_lpips", lambda: True)
    frames = RNG.integers(0, 256, (300, 32, 32, 3), np.uint8)
    assert np.allclose(lpips(as_shares(frames), frames), 0)
    assert lpips(1 - as_shares(frames), frames).shape == (300,)
    assert given[0].shape == (256, 3, 64, 64)
    assert -1 <= given[0].min() < -0.9 < 0.9 < given[0].max() <= 1
