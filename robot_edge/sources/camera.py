"""Cameras that OpenCV reads: V4L2 devices, and RTSP and MJPEG streams."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from broker.errors import SourceError
from robot_edge.sources.frames import check_size
from robot_edge.sources.live import CameraLost, LiveSource, Picture
from robot_edge.sources.passwords import check_url, masked
from robot_edge.sources.settings import SourceOptions

if TYPE_CHECKING:
    import cv2

# For a stream to open, with the key frame that some cameras send every four seconds only; for the next picture; and to
# find out why a stream does not open.
OPEN_SECONDS, READ_SECONDS, PROBE_SECONDS = 5.0, 2.0, 1.0
DEFAULT_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
DEVICES = Path("/dev")
ABOUT_DEVICES = Path("/sys/class/video4linux")
UNREADABLE = "it answers, but sends no video that can be read; check path and password"
MANUAL_EXPOSURE = 1  # V4L2_EXPOSURE_MANUAL

log = logging.getLogger("robot-edge")


def open_camera(text: str, options: SourceOptions) -> LiveSource:
    """Open the camera of a number or path as in camera:0 and camera:/dev/video2. Raises SourceError."""
    if not re.fullmatch(r"\d{1,3}|/dev/[\w/.:-]+", text):
        raise SourceError(f"camera:{text}: expected camera:0 or camera:/dev/video0; there are {_devices_line()}")
    path = DEVICES / f"video{text}" if text.isdecimal() else Path(text)
    _cv2()
    if sys.platform == "linux" and (trouble := device_trouble(path)):
        raise SourceError(f"camera:{text}: {trouble}")
    return LiveSource(f"camera {path}", partial(DeviceCamera, path, options))


def open_stream(url: str) -> LiveSource:
    """Open an RTSP or MJPEG stream; it need not be there yet. Raises SourceError."""
    check_url(url)
    _cv2()
    return LiveSource(masked(url), partial(StreamCamera, url))


class OpenCvCamera:
    """An open cv2.VideoCapture."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture

    def read(self) -> Picture:
        try:
            ok, image = self._capture.read()
        except _cv2().error as error:
            raise CameraLost(masked(str(error))) from error
        if not ok or image is None or image.ndim != 3 or image.shape[2] != 3:
            raise CameraLost(self._why())
        return Picture(np.ascontiguousarray(image[:, :, ::-1]))

    def close(self) -> None:
        self._capture.release()

    def _why(self) -> str:
        raise NotImplementedError


class DeviceCamera(OpenCvCamera):
    """A V4L2 device."""

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self._path = path
        if trouble := device_trouble(path):
            raise CameraLost(trouble)
        cv2 = _cv2()
        if sys.platform == "linux":
            super().__init__(cv2.VideoCapture(str(path), cv2.CAP_V4L2))
        else:
            super().__init__(cv2.VideoCapture(int(re.sub(r"\D", "", path.name)), cv2.CAP_ANY))
        if not self._capture.isOpened():
            self.close()
            raise CameraLost("it cannot be opened; perhaps another program is using it")
        self._set(cv2, options)

    def _set(self, cv2: Any, options: SourceOptions) -> None:
        wanted = {
            cv2.CAP_PROP_FRAME_WIDTH: options.width,
            cv2.CAP_PROP_FRAME_HEIGHT: options.height,
            cv2.CAP_PROP_FPS: options.fps,
            cv2.CAP_PROP_AUTO_EXPOSURE: MANUAL_EXPOSURE if options.exposure else 0,
            cv2.CAP_PROP_EXPOSURE: options.exposure,
        }
        for setting, value in wanted.items():
            if value:
                self._capture.set(setting, value)
        has = [int(self._capture.get(each)) for each in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
        if options.width and has != [options.width, options.height]:
            log.warning("%s has no %d x %d; it gives %d x %d", self._path, options.width, options.height, *has)

    def _why(self) -> str:
        return device_trouble(self._path) or "it sends no pictures; perhaps another program is using it"


class StreamCamera(OpenCvCamera):
    """An RTSP or MJPEG stream."""

    def __init__(self, url: str) -> None:
        self._url = url
        cv2 = _cv2()
        timeouts = [
            *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(OPEN_SECONDS * 1000)),
            *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(READ_SECONDS * 1000)),
        ]
        super().__init__(cv2.VideoCapture(url, cv2.CAP_FFMPEG, timeouts))
        if not self._capture.isOpened():
            self.close()
            # OpenCV does not say why. Not asked before: some cameras serve a single connection.
            raise CameraLost(stream_trouble(url) or UNREADABLE)
        try:
            size = (self._capture.get(each) for each in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
            check_size(*map(int, size))
        except ValueError as error:
            self.close()
            raise CameraLost(str(error)) from error

    def _why(self) -> str:
        return f"no picture came within {READ_SECONDS:g} s, or the stream ended"


def device_trouble(path: Path) -> str:
    """Say why a device cannot be used; empty where it can, as far as one sees without reading from it."""
    if not path.exists():
        return f"there is no {path}; there are {_devices_line()}"
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    except PermissionError:
        return f"{path} may not be opened: add yourself to its group, as in: sudo usermod -aG video $USER"
    except OSError as error:
        return f"{path}: {error.strerror}"
    return ""


def stream_trouble(url: str) -> str:
    """Say why nothing listens at a URL; empty where something does."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]
    try:
        socket.create_connection((host, port), PROBE_SECONDS).close()
    except socket.gaierror:
        return f"the name {host} is unknown here"
    except TimeoutError:
        return f"no answer from {host}:{port}"
    except OSError as error:
        return f"{host}:{port}: {error.strerror or error}"
    return ""


def list_cameras() -> list[tuple[Path, str]]:
    """Return (device, what it is and what keeps it from being used) of every V4L2 camera of this machine."""
    found = []
    for path in sorted(DEVICES.glob("video[0-9]*"), key=lambda one: (len(one.name), one.name)):
        about = ABOUT_DEVICES / path.name
        name, index = "", "0"
        with contextlib.suppress(OSError):
            name, index = (about / "name").read_text().strip(), (about / "index").read_text().strip()
        # A camera's further devices give metadata, not pictures.
        if index == "0":
            found.append((path, "; ".join(filter(None, (name, device_trouble(path))))))
    return found


def _devices_line() -> str:
    return ", ".join(str(path) for path, _ in list_cameras()) or "no cameras here"


def _cv2() -> Any:
    """Return OpenCV, which takes its time to import. Raises SourceError where it is not installed."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what goes wrong we say ourselves, without passwords
    try:
        import cv2
    except ImportError:
        raise SourceError("cameras need OpenCV: pip install 'reflexarc[camera]'") from None
    if "OPENCV_LOG_LEVEL" not in os.environ:
        _silence(cv2)
    return cv2


def _silence(cv2: Any) -> None:
    """Turn OpenCV's own log off. It reads its environment when it is imported, which another module may have done."""
    if hasattr(cv2, "setLogLevel"):  # up to OpenCV 4
        cv2.setLogLevel(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
