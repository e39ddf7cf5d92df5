"""Frames as the network sees them: of a source, and of a camera whose region to look at may change meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from broker.errors import ConfigError
from hierarchy.backbone import input_spec
from robot_edge.learning.framing import Framing, Region
from robot_edge.learning.settings import NetworkSettings, region_of
from robot_edge.sources.frames import Frame, Frames, Pixels


def framing_for(network: NetworkSettings) -> Framing:
    """Return how a frame becomes what the network sees. Nothing of its settings is left open. Raises ConfigError."""
    spec = input_spec(network.backbone, network.image_size)
    return Framing(
        size=network.image_size,
        fit=network.fit,
        interpolation=spec.interpolation,
        crop=spec.crop,
        region=region_of(network.look),
    )


class Framed:
    """The frames of a source, each as the network sees it."""

    def __init__(self, source: Frames, see: Callable[[Pixels], Pixels]) -> None:
        """see: returns what the network sees of a frame, as Framing.input."""
        self._source = source
        self._see = see

    @property
    def length(self) -> int | None:
        return self._source.length

    @property
    def position(self) -> int:
        return self._source.position

    @property
    def ended(self) -> bool:
        return self._source.ended

    def next(self, timeout: float | None = None) -> Frame | None:
        frame = self._source.next(timeout)
        return frame and replace(frame, image=self._see(frame.image))

    def seek(self, position: int) -> None:
        self._source.seek(position)


class Viewfinder:
    """What of a camera's frames the network sees now. From any thread."""

    def __init__(self, framing: Framing, keep: Callable[[Region], object]) -> None:
        """keep: is given each region that is chosen from now on, to be there after a restart."""
        self._framing = framing
        self._keep = keep
        self._frame_size: tuple[int, int] | None = None  # width, height
        self._lock = threading.Lock()

    @property
    def framing(self) -> Framing:
        """How frames are seen now."""
        return self._framing

    def input(self, image: Pixels) -> Pixels:
        """Return what the network sees of a frame, uint8 (size, size, 3), of one uint8 (H, W, 3).

        A region in pixels is that of the first frame: a camera that comes back with more of them shows the same.
        Raises ConfigError for pixels that the frame does not have.
        """
        height, width, _ = image.shape
        with self._lock:
            self._frame_size = width, height
            region = self._framing.region.of_frame(width, height)
            if region is not self._framing.region:
                self._framing = replace(self._framing, region=region)
            framing = self._framing
        return framing.input(image)

    def look(self, region: Region) -> Region:
        """See only that region from now on, and return it in percent. Raises ConfigError where frames lack it."""
        with self._lock:
            if not region.in_percent:
                if self._frame_size is None:
                    raise ConfigError(f"no frame has come that {region} could be pixels of: give percent, or wait")
                region = region.of_frame(*self._frame_size)
            self._framing = replace(self._framing, region=region)
        self._keep(region)
        return region
