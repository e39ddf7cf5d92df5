"""A live camera of any kind: read by a thread of its own, lost and found again."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from broker.errors import SourceError
from broker.program.threads import LoudThread
from robot_edge.sources.frames import Frame, Header, LeftOut, check_size

# Before trying to reach a lost camera again, in seconds, doubled each time. A camera that is back should be seen again
# within five seconds, so the longest pause is short: a try costs a robot little.
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 1.0
# Raw pictures that wait for a reader of every frame: 70 of 640x480, 10 of 1920x1080.
BUFFER_BYTES = 64_000_000
# A camera's thread that hangs in its driver is left behind after so many seconds; it ends with the process.
CLOSE_SECONDS = 5.0

log = logging.getLogger("robot-edge")


class CameraLost(Exception):
    """No picture comes any more, for the reason in the message; trying again may help."""


class UnreadablePicture(Exception):
    """A picture came that cannot be read, for the reason in the message; the next one may be whole.

    like_all: whether those that follow are probably like it, as their encoding is unknown.
    """

    def __init__(self, reason: str, *, like_all: bool = False) -> None:
        super().__init__(reason)
        self.like_all = like_all


class Picture(NamedTuple):
    """image: (height, width, 3) in RGB. label: what it shows, if that is known. header: where it came with one."""

    image: NDArray[np.uint8]
    label: str | None = None
    header: Header | None = None


class Camera(Protocol):
    """An open camera."""

    def read(self) -> Picture:
        """Wait for the next picture. Raises UnreadablePicture; CameraLost, also where none comes for some seconds."""

    def close(self) -> None:
        """Let go of the device."""


class LiveSource:
    """A FrameSource of a camera that is opened in the background, and again whenever it is lost.

    ``next`` shows every frame for as long as its reader keeps up: behind BUFFER_BYTES the oldest are given up.
    ``latest`` gives them all up but the newest. Frames of the same second share a scene.

    name: of the camera, for people. connect: opens it; raises CameraLost, or SourceError where trying again is no use.
    clock: Unix seconds.
    """

    length = None
    left_out: tuple[LeftOut, ...] = ()

    def __init__(self, name: str, connect: Callable[[], Camera], *, clock: Callable[[], float] = time.time) -> None:
        self._name = name
        self._connect = connect
        self._clock = clock
        self._changed = threading.Condition()
        self._frames: deque[Frame] = deque()
        self._bytes = 0
        self._error: BaseException | None = None
        self.position = 0
        self.skipped = 0  # pictures that came and could not be read
        self.reconnects = 0
        self.missed = 0  # frames that came faster than they were taken
        self.status = f"waiting for {name}"
        self._thread = LoudThread(f"camera {name}", self._run, restarts=False)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether it was closed: a camera does not end by itself."""
        return self._thread.ending.is_set()

    def next(self, timeout: float | None = None) -> Frame | None:
        """Return the next frame, waiting at most so many seconds. Raises SourceError, or what else ended the thread."""
        with self._changed:
            self._changed.wait_for(lambda: self._frames or self._error or self.ended, timeout)
            if not self._frames:
                if self._error is not None:
                    raise self._error
                return None
            frame = self._frames.popleft()
            self._bytes -= frame.image.nbytes
            self.position += 1
            return frame

    def latest(self, timeout: float | None = None) -> Frame | None:
        with self._changed:
            while len(self._frames) > 1:
                self._drop_oldest()
        return self.next(timeout)

    def seek(self, position: int) -> None:
        """Go on counting from there: nobody sees a camera's past."""
        self.position = position

    def close(self) -> None:
        """Stop the thread and let go of the camera."""
        self._thread.ending.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.close(CLOSE_SECONDS)

    def _run(self, ending: threading.Event) -> None:
        try:
            self._take_pictures(ending)
        except BaseException as error:  # whoever waits for frames is to hear of it
            with self._changed:
                self._error = error
                self._changed.notify_all()
            raise

    def _take_pictures(self, ending: threading.Event) -> None:
        pause, losses, seen = FIRST_PAUSE, 0, False
        while not ending.is_set():
            camera = None
            try:
                camera = self._connect()
                while not ending.is_set():
                    try:
                        picture = camera.read()
                    except UnreadablePicture as error:
                        self._skip(error, seen=seen)
                        continue
                    self._put(picture)
                    if losses:
                        self.reconnects += seen
                        log.info("%s is %s", self._name, "back" if seen else "there")
                    pause, losses, seen, self.status = FIRST_PAUSE, 0, True, ""
            except CameraLost as error:
                losses += 1
                self.status = f"{'reconnecting to' if seen else 'waiting for'} {self._name}: {error}"
            finally:
                if camera is not None:
                    camera.close()
            ending.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _skip(self, error: UnreadablePicture, *, seen: bool) -> None:
        """Count a picture that is left out. Raises SourceError where none is to be expected that can be read."""
        if error.like_all and not seen:
            raise SourceError(f"{self._name}: {error}") from error
        self.status = f"{self._name}: a picture cannot be read: {error}"
        if not self.skipped:
            log.warning("%s; it is skipped, and counted, as all others like it", self.status)
        self.skipped += 1

    def _put(self, picture: Picture) -> None:
        image = picture.image
        height, width, _ = image.shape
        try:
            check_size(width, height)
        except ValueError as error:
            raise CameraLost(str(error)) from error
        now = self._clock()
        with self._changed:
            while self._frames and self._bytes + image.nbytes > BUFFER_BYTES:
                self._drop_oldest()
            self._frames.append(
                Frame(image=image, label=picture.label, scene=int(now), time=now, header=picture.header)
            )
            self._bytes += image.nbytes
            self._changed.notify_all()

    def _drop_oldest(self) -> None:
        self._bytes -= self._frames.popleft().image.nbytes
        self.missed += 1
