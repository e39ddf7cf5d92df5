"""Pictures for a browser: of what the camera sees, small and seldom enough, and of the classes."""

from __future__ import annotations

import threading

import numpy as np
from PIL import Image

from robot_edge.inference.seeing_thread import View
from robot_edge.sources.encoded import encode_jpeg
from robot_edge.sources.frames import Pixels

# Enough to see what is in front of the robot, and a tenth of a core for the encoder.
WIDEST = 640
QUALITY = 80


def jpeg(image: Pixels, widest: int = WIDEST, quality: int = QUALITY) -> bytes:
    """Return a picture uint8 (H, W, 3) as JPEG, scaled down to at most that many pixels a side."""
    picture = Image.fromarray(image)
    picture.thumbnail((widest, widest), Image.Resampling.BILINEAR)
    return encode_jpeg(np.asarray(picture), quality, dense=False)


class Encoder:
    """Encodes each view once, however many look at it; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = -1
        self._encoded = b""

    def encoded(self, view: View) -> bytes:
        """Return the view's frame as JPEG, or that of a newer one."""
        with self._lock:
            if view.number > self._number:
                self._encoded, self._number = jpeg(view.frame.image), view.number
            return self._encoded
