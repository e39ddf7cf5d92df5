"""Real streams for tests: ffmpeg as a camera in the network, which can be killed, stalled and started again."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from types import TracebackType

import pytest

from robot_edge.frames import Frame, FrameSource

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
# Generous: two slow cores, shared with others.
SECONDS = 30.0


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class MjpegCamera:
    """An ffmpeg that serves MJPEG over HTTP; as a real camera it starts again by itself when its reader leaves."""

    def __init__(self, size: str = "64x48") -> None:
        self.url = f"http://127.0.0.1:{free_port()}/camera.mjpg"
        self._size = size
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> MjpegCamera:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def start(self, size: str | None = None) -> None:
        self._size = size or self._size
        film = ["-re", "-f", "lavfi", "-i", f"color=c=0xC83214:size={self._size}:rate=25"]
        server = ["-f", "mpjpeg", "-listen", "1", self.url]
        self._process = subprocess.Popen(["ffmpeg", "-nostdin", "-loglevel", "quiet", *film, *server])

    def mend(self) -> None:
        """Start again if it ended, as it serves a single connection."""
        if self._process is not None and self._process.poll() is not None:
            self.start()

    def stall(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def wait_for(condition: Callable[[], object], meanwhile: Callable[[], object] = lambda: None) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        meanwhile()
        time.sleep(0.02)


def frame_of(source: FrameSource, meanwhile: Callable[[], object] = lambda: None) -> Frame:
    """Return the newest frame, which must come in time."""
    deadline = time.monotonic() + SECONDS
    while (frame := source.latest(0.1)) is None:
        assert time.monotonic() < deadline, f"no frame came; {source.status}"
        meanwhile()
    return frame
