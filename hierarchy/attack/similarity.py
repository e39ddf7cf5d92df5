"""How much a reconstruction looks like the frame: PSNR, SSIM, and LPIPS where its package is installed."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hierarchy.attack.pairs import Pictures, Reconstructions, as_shares

# Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural similarity", 2004:
# window, its deviation in pixels, and the two constants as shares of the range.
WINDOW, WINDOW_DEVIATION = 11, 1.5
LUMINANCE, CONTRAST = 0.01**2, 0.03**2
# Of red, green and blue in luma (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)
# A perfect copy has no error, and an infinite ratio: this many dB stand for it.
PERFECT = 60.0
AT_ONCE = 256
# What LPIPS needs beside its package, and what its authors give figures with. torchvision keeps it under this name.
ALEXNET = "alexnet-owt-7be5be79.pth"


def psnr(seen: Reconstructions, frames: Pictures) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio of each picture in dB, float64 (N,), at most PERFECT."""
    errors = [np.mean((one - as_shares(frame)) ** 2, dtype=np.float64) for one, frame in zip(seen, frames, strict=True)]
    ratios: NDArray[np.float64] = np.minimum(PERFECT, -10 * np.log10(np.maximum(errors, 1e-12)))
    return ratios


def ssim(seen: Reconstructions, frames: Pictures) -> NDArray[np.float64]:
    """Return the structural similarity of luma, float64 (N,): 1 for a copy, about 0 for what has nothing in common."""
    parts = [slice(start, start + AT_ONCE) for start in range(0, len(seen), AT_ONCE)]
    found = [ssim_of(_channels_first(seen[part]), _channels_first(as_shares(frames[part]))) for part in parts]
    return torch.cat(found).double().numpy() if found else np.zeros(0)


def ssim_of(seen: Tensor, frames: Tensor) -> Tensor:
    """Return the structural similarity of pictures (N, 3, h, w) from 0 to 1, as (N,). It has a gradient.

    The window is a Gaussian, and lies within the picture. In a picture smaller than it, it is as large as fits.
    """
    side = min(WINDOW, *(one - (one + 1) % 2 for one in seen.shape[2:]))
    places = torch.arange(side, dtype=seen.dtype, device=seen.device) - side // 2
    row = torch.exp(-(places**2) / (2 * WINDOW_DEVIATION**2))
    row = row / row.sum()
    weights = seen.new_tensor(LUMA)
    a, b = (torch.einsum("nchw,c->nhw", one, weights)[:, None] for one in (seen, frames))
    stacked = torch.cat([a, b, a * a, b * b, a * b], dim=1)
    kernels = [row.reshape(1, 1, -1, 1).expand(5, 1, -1, 1), row.reshape(1, 1, 1, -1).expand(5, 1, 1, -1)]
    for kernel in kernels:
        stacked = F.conv2d(stacked, kernel, groups=5)
    mean_a, mean_b, aa, bb, ab = stacked.unbind(1)
    variance_a, variance_b, covariance = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + LUMINANCE) / (mean_a**2 + mean_b**2 + LUMINANCE)
    structure = (2 * covariance + CONTRAST) / (variance_a + variance_b + CONTRAST)
    similarity: Tensor = (luminance * structure).flatten(1).mean(1)
    return similarity


def has_lpips() -> bool:
    """Whether `lpips` can be computed here: its package is installed, and AlexNet's weights are here."""
    weights = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET
    return importlib.util.find_spec("lpips") is not None and weights.exists()


@torch.inference_mode()
def lpips(seen: Reconstructions, frames: Pictures) -> NDArray[np.float64]:
    """Return the perceptual distance of Zhang et al. (2018) by AlexNet, float64 (N,): 0 for a copy, more for others.

    Nothing is downloaded. Raises ImportError where `has_lpips` is false.
    """
    if not has_lpips():
        raise ImportError(f"LPIPS needs the package lpips, and torchvision's {ALEXNET} in its cache")
    import lpips as package

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision renamed an argument that the package gives
        distance = package.LPIPS(net="alex", verbose=False).eval()
    found = []
    for start in range(0, len(seen), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        pair = (_channels_first(one) * 2 - 1 for one in (seen[part], as_shares(frames[part])))
        # AlexNet sees nothing in pictures of fewer pixels.
        pair = (F.interpolate(one, 64, mode="bilinear") if one.shape[-1] < 64 else one for one in pair)
        found.append(distance(*pair).reshape(-1))
    return torch.cat(found).double().numpy() if found else np.zeros(0)


def _channels_first(pictures: Reconstructions) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)
