"""Which frames of a stream show something new: a still scene filmed for ten seconds is one sample, not 300. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hierarchy.encoding import Encoding

# Frames are compared as grey pictures of so many pixels a side: sensor noise averages out, a turned object does not.
SIDE = 16
# Mean difference in grey levels of 255 from which on a frame is another one. A simulated camera's noise makes 0.5 of
# it, a toy that turns by two degrees 3.
DIFFERENT = 2.0
# A frame is compared with so many that were kept: what swings back and forth would else be kept for ever.
REMEMBERED = 20
# A hand trembles. Of frames that are larger than those of networks for small pictures, a shift by so many pixels of a
# picture of so many a side is nothing new; of small ones a pixel is much of what they show.
SMALL, COMPARED_AT, SHIFT = 64, 224, 4
# Cosine distance of features from which on a frame is another one. Photos shifted by a pixel or two are 0.005 to 0.018
# apart, turned by five degrees 0.03, and two photos of one kind of fruit 0.026 at least.
DIFFERENT_FEATURES = 0.015


class NearDuplicateFilter:
    """Keeps what differs from all that it kept lately, in pixels and, of a network that stands still, in features."""

    def __init__(self) -> None:
        self._kept: deque[Look] = deque(maxlen=REMEMBERED)

    def keep(self, image: NDArray[np.uint8], encoding: Encoding | None = None) -> bool:
        """Whether the image, uint8 (H, W, 3), differs; then it is what later ones are compared with.

        encoding: what a network that stands still makes of it.
        """
        look = look_of(image, encoding)
        if any(is_alike(look, other) for other in self._kept):
            return False
        self._kept.append(look)
        return True


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """What of an image is compared with others.

    grey: float32 (SIDE, SIDE). shifted: the same of the picture at each shift, (shifts, SIDE, SIDE).

    direction: float32 (F,), of the features, of unit length; None where there are none.
    """

    grey: NDArray[np.float32]
    shifted: NDArray[np.float32]
    direction: NDArray[np.float32] | None


def is_alike(one: Look, other: Look) -> bool:
    """Whether two images show nothing that differs."""
    has_features = one.direction is not None and other.direction is not None
    if has_features and 1 - float(np.dot(one.direction, other.direction)) < DIFFERENT_FEATURES:  # type: ignore[arg-type]
        return True
    if one.shifted.shape != other.shifted.shape:
        return False
    return bool((np.abs(other.shifted - one.grey).mean(axis=(1, 2)) < DIFFERENT).any())


def distances(looks: Sequence[Look]) -> NDArray[np.float32]:
    """Return (N, N): how far each two of N images are apart, by their features where all have them, else in grey."""
    directions = [one.direction for one in looks if one.direction is not None]
    if len(directions) == len(looks):
        units = np.stack(directions)
        return 1 - units @ units.T
    greys = np.stack([one.grey for one in looks])
    apart: NDArray[np.float32] = np.abs(greys[:, None] - greys).mean(axis=(2, 3))
    return apart


def look_of(image: NDArray[np.uint8], encoding: Encoding | None) -> Look:
    """Return what of an image, uint8 (H, W, 3), is compared. encoding: by a network that stands still."""
    shifted = _greys(image)
    direction = None
    if encoding is not None:
        features = encoding.features[0].astype(np.float32)
        direction = features / max(float(np.linalg.norm(features)), 1e-6)
    return Look(grey=shifted[len(shifted) // 2], shifted=shifted, direction=direction)


def _greys(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the picture in grey at each shift, the middle one being none: float32 (shifts, SIDE, SIDE)."""
    picture = Image.fromarray(image).convert("L")
    if min(picture.size) <= SMALL:
        return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)[None]
    large = np.asarray(picture.resize((COMPARED_AT, COMPARED_AT), Image.Resampling.BOX), np.float64)
    sums = np.pad(large, ((1, 0), (1, 0))).cumsum(0).cumsum(1)  # of all pixels above and left of a place
    block = (COMPARED_AT - 2 * SHIFT) // SIDE
    margin = (COMPARED_AT - block * SIDE) // 2
    edges = margin + block * np.arange(SIDE + 1)
    found = [_means(sums, edges + down, edges + right) for down in _SHIFTS for right in _SHIFTS]
    return (np.stack(found) / block**2).astype(np.float32)


_SHIFTS = range(-SHIFT, SHIFT + 1)


def _means(sums: NDArray[np.float64], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
    corners = sums[np.ix_(rows, columns)]
    return np.diff(np.diff(corners, axis=0), axis=1)
