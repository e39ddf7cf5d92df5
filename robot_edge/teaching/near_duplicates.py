"""Which frames of a stream show something new: a still scene filmed for ten seconds is one sample, not 300. Pure."""

from __future__ import annotations

from collections import deque

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


class NearDuplicateFilter:
    """Keeps what differs from all that it kept lately."""

    def __init__(self) -> None:
        self._kept: deque[NDArray[np.float32]] = deque(maxlen=REMEMBERED)

    def keep(self, image: NDArray[np.uint8], encoding: Encoding | None = None) -> bool:
        """Whether the image, uint8 (H, W, 3), differs; then it is what later ones are compared with."""
        small = Image.fromarray(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
        grey = np.asarray(small, np.float32)
        if any(np.abs(grey - other).mean() < DIFFERENT for other in self._kept):
            return False
        self._kept.append(grey)
        return True
