"""Random shifts and mirror images of a batch of frames. Pure numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# A shift of up to an eighth of the frame: the 4 of 32 pixels that CIFAR training has used since He et al. (2015).
MOST_SHIFT = 8


def augment(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return uint8 (N, H, W, 3) with each image shifted at random, edges repeated, and half of them mirrored."""
    count, height, width, _ = images.shape
    reach = height // MOST_SHIFT
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    tops = rng.integers(0, 2 * reach + 1, count)
    lefts = rng.integers(0, 2 * reach + 1, count)
    mirrored = rng.random(size=(count,))
    result = np.empty_like(images)
    for index in range(count):
        window = padded[index, tops[index] : tops[index] + height, lefts[index] : lefts[index] + width]
        result[index] = window[:, ::-1] if mirrored[index] < 0.5 else window
    return result
