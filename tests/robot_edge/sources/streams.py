"""Real streams for tests: ffmpeg as a camera in the network, which can be killed, stalled and started again."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from types import TracebackType

import pytest

from robot_edge.sources.frames import Frame, FrameSource
from tests.ports import free_port

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
# Generous: two slow cores, shared with others.
SECONDS = 30.0


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


# Debian's Python has GStreamer's bindings, a virtual environment has not.
SYSTEM_PYTHON = "/usr/bin/python3"
RTSP_SERVER = """
import sys, gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
token = GstRtspServer.RTSPToken()
token.set_string("media.factory.role", "user")
auth = GstRtspServer.RTSPAuth()
auth.add_basic(GstRtspServer.RTSPAuth.make_basic("me", "s3cret"), token)
server.set_auth(auth)
allowed = GstRtspServer.RTSPPermissions()
for what in ("media.factory.access", "media.factory.construct"):
    allowed.add_permission_for_role("user", what, True)
film = GstRtspServer.RTSPMediaFactory()
film.set_launch("( videotestsrc is-live=true pattern=solid-color foreground-color=0xffc83214 ! "
    "video/x-raw,format=I420,width=96,height=64,framerate=25/1 ! jpegenc ! rtpjpegpay name=pay0 pt=26 )")
film.set_permissions(allowed)
server.get_mount_points().add_factory("/live", film)
assert server.attach(None), "no port"
GLib.MainLoop().run()
"""


def has_rtsp_server() -> bool:
    check = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    try:
        return subprocess.run([SYSTEM_PYTHON, "-c", check], capture_output=True).returncode == 0
    except OSError:
        return False


class RtspCamera:
    """A real RTSP server with user and password."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, password: str = "s3cret") -> str:
        return f"rtsp://me:{password}@127.0.0.1:{self.port}/live"

    def __enter__(self) -> RtspCamera:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        self._process = subprocess.Popen([SYSTEM_PYTHON, "-c", RTSP_SERVER, str(self.port)])

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

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
