from __future__ import annotations

import base64
import os
import signal
import socket
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest

from broker.errors import SourceError
from robot_edge.sources import camera as cameras
from robot_edge.sources.camera import StreamCamera, list_cameras, open_camera
from robot_edge.sources.live import CameraLost
from robot_edge.sources.opening import open_source
from robot_edge.sources.settings import SourceOptions
from tests.ports import free_port
from tests.robot_edge.sources.streams import (
    MjpegCamera,
    RtspCamera,
    frame_of,
    has_rtsp_server,
    needs_ffmpeg,
    wait_for,
)

pytestmark = pytest.mark.slow  # streams of other programs


@needs_ffmpeg
def test_a_stream_shows_its_pictures_in_rgb() -> None:
    with MjpegCamera("64x48") as server, closing(open_source(server.url, image_size=32)) as source:
        frame = frame_of(source, server.mend)
        assert frame.image.shape == (48, 64, 3)
        assert frame.image.dtype == np.uint8
        assert abs(frame.time - time.time()) < 5
        assert np.abs(frame.image.astype(int) - (0xC8, 0x32, 0x14)).max() < 10


@needs_ffmpeg
def test_a_killed_stream_is_found_again_within_five_seconds() -> None:
    with MjpegCamera("64x48") as server, closing(open_source(server.url, image_size=32)) as source:
        frame_of(source, server.mend)
        server.kill()
        wait_for(lambda: "reconnecting" in source.status)
        server.start("96x64")
        begin = time.monotonic()
        while (frame := frame_of(source, server.mend)).image.shape[:2] != (64, 96):
            pass
        assert time.monotonic() - begin < 5 + 3, "five seconds, and three for a slow machine to start ffmpeg"
        assert source.reconnects == 1
        assert source.status == ""
        assert frame.image.shape == (64, 96, 3), "it came back with another resolution"


@needs_ffmpeg
def test_a_stalled_stream_is_left_and_found_again() -> None:
    with MjpegCamera() as server, closing(open_source(server.url, image_size=32)) as source:
        frame_of(source, server.mend)
        server.stall()
        wait_for(lambda: "no picture came within 2 s" in source.status)
        assert source.next(0) is None or True
        server.go_on()
        wait_for(lambda: source.reconnects == 1, server.mend)
        frame_of(source, server.mend)


@needs_ffmpeg
def test_a_reader_that_is_slow_gets_the_newest_picture() -> None:
    with MjpegCamera() as server, closing(open_source(server.url, image_size=32)) as source:
        frame_of(source, server.mend)
        time.sleep(1.5)
        frame = frame_of(source)
        assert time.time() - frame.time < 1, "it is old"


@pytest.mark.skipif(not has_rtsp_server(), reason="GStreamer's RTSP server is not installed")
def test_an_rtsp_camera_is_logged_in_to_killed_stalled_and_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFLEXARC_CAMERA_PASSWORD", "s3cret")
    with RtspCamera() as server, closing(open_source(server.url("***"), image_size=32)) as source:
        frame = frame_of(source)
        assert frame.image.shape == (64, 96, 3)
        assert np.abs(frame.image.astype(int) - (0xC8, 0x32, 0x14)).max() < 25
        server.kill()
        wait_for(lambda: "reconnecting" in source.status)
        server.start()
        begin = time.monotonic()
        wait_for(lambda: source.reconnects == 1)
        assert time.monotonic() - begin < 5 + 3, "five seconds, and three for a slow machine to start the server"
        server.signal(signal.SIGSTOP)
        wait_for(lambda: "reconnecting" in source.status)
        server.signal(signal.SIGCONT)
        wait_for(lambda: source.reconnects == 2)


@pytest.mark.skipif(not has_rtsp_server(), reason="GStreamer's RTSP server is not installed")
def test_a_wrong_password_is_said_and_not_shown() -> None:
    with RtspCamera() as server, closing(open_source(server.url("wr0ng"), image_size=32)) as source:
        wait_for(lambda: "check path and password" in source.status)
        assert "wr0ng" not in source.status


def test_a_stream_that_is_not_there_yet_is_waited_for_without_showing_its_password() -> None:
    url = f"rtsp://me:s3cret@127.0.0.1:{free_port()}/live"
    with closing(open_source(url, image_size=32)) as source:
        wait_for(lambda: "Connection refused" in source.status)
        assert source.status.startswith("waiting for rtsp://me:***@127.0.0.1:")
        assert "s3cret" not in source.status
        assert source.next(0) is None


@pytest.mark.parametrize("garbage", [b"\x00\xff" * 5000, b"HTTP/1.1 200 OK\r\n\r\n" + bytes(range(256)) * 40, b""])
def test_a_stream_of_garbage_is_said(garbage: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def answer() -> None:
            server.settimeout(0.1)
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.sendall(garbage)

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        try:
            with closing(open_source(url, image_size=32)) as source:
                wait_for(lambda: "no video that can be read" in source.status)
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_stream_that_is_tried_again_and_again_takes_no_file_handle(scheme: str) -> None:
    url = f"{scheme}://127.0.0.1:{free_port()}/live"
    handles = set()
    for _ in range(10):
        with pytest.raises(CameraLost):
            StreamCamera(url)
        handles.add(len(os.listdir("/proc/self/fd")))
    assert len(handles) == 1


@pytest.mark.parametrize("url", ["rtsp://", "http:///path", "rtsp://host:99999/"])
def test_an_url_without_host_is_refused(url: str) -> None:
    with pytest.raises(SourceError, match="stream"):
        open_source(url, image_size=32)


@pytest.mark.parametrize("password", ["p#/?@% s:", "plain"])
def test_a_camera_is_told_the_password_of_the_environment_as_it_is(
    password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFLEXARC_CAMERA_PASSWORD", password)
    told: list[str] = []

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if said := self.headers["Authorization"]:
                told.append(base64.b64decode(said.partition(" ")[2]).decode())
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Camera) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with closing(open_source(f"http://me:***@127.0.0.1:{server.server_port}/", image_size=32)) as source:
                wait_for(lambda: bool(told))
                assert password not in source.status
        finally:
            server.shutdown()
            thread.join()
    assert told[0] == f"me:{password}"


def test_what_opencv_says_itself_is_not_in_the_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENCV_LOG_LEVEL", raising=False)
    url = f"http://127.0.0.1:{free_port()}/"
    with closing(open_source(url, image_size=32)) as source:
        wait_for(lambda: "Connection refused" in source.status)
        cv2.VideoCapture("/dev/video999", cv2.CAP_V4L2).release()
    assert capfd.readouterr().err == ""


class FakeCapture:
    """What cv2.VideoCapture is for a V4L2 device; tests set what it does."""

    pictures: ClassVar[list[Any]] = []
    opens = True
    settings: ClassVar[dict[int, float]] = {}

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        FakeCapture.settings = {}

    def isOpened(self) -> bool:  # noqa: N802, as OpenCV has it
        return FakeCapture.opens

    def read(self) -> tuple[bool, Any]:
        time.sleep(0.01)
        if not FakeCapture.pictures:
            return False, None
        return True, FakeCapture.pictures[0]

    def set(self, setting: int, value: float) -> bool:
        FakeCapture.settings[setting] = value
        return True

    def get(self, setting: int) -> float:
        return 32.0

    def release(self) -> None: ...


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file in place of /dev/video0, read through FakeCapture."""
    monkeypatch.setattr(cameras, "DEVICES", tmp_path)
    monkeypatch.setattr(cameras, "ABOUT_DEVICES", tmp_path / "about")
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    FakeCapture.pictures, FakeCapture.opens = [np.full((24, 32, 3), (0, 0, 200), np.uint8)], True
    path = tmp_path / "video0"
    path.touch()
    return path


def test_a_device_is_read_and_set(device: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = SourceOptions(width=640, height=480, fps=15, exposure=100)
    with closing(open_camera("0", options)) as source:
        assert frame_of(source).image[0, 0].tolist() == [200, 0, 0]
    assert FakeCapture.settings[cv2.CAP_PROP_FRAME_WIDTH] == 640
    assert FakeCapture.settings[cv2.CAP_PROP_FPS] == 15
    assert FakeCapture.settings[cv2.CAP_PROP_EXPOSURE] == 100
    assert FakeCapture.settings[cv2.CAP_PROP_AUTO_EXPOSURE] == 1
    assert "has no 640 x 480; it gives 32 x 32" in caplog.text


def test_an_unplugged_device_is_found_again(device: Path) -> None:
    with closing(open_camera("0", SourceOptions())) as source:
        frame_of(source)
        FakeCapture.pictures = []
        device.unlink()
        wait_for(lambda: f"there is no {device}" in source.status)
        device.touch()
        FakeCapture.pictures = [np.zeros((24, 32, 3), np.uint8)]
        wait_for(lambda: source.reconnects == 1)


def test_a_device_that_another_program_has_is_said(device: Path) -> None:
    FakeCapture.opens = False
    with closing(open_camera("0", SourceOptions())) as source:
        wait_for(lambda: "another program" in source.status)


def test_a_device_that_is_missing_is_said_at_once(device: Path) -> None:
    with pytest.raises(SourceError, match=f"there is no {device.parent}/video7; there are {device}"):
        open_camera("7", SourceOptions())


def test_a_device_that_may_not_be_opened_is_said_at_once(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SourceError, match="usermod -aG video"):
        open_camera("0", SourceOptions())


@pytest.mark.parametrize("text", ["", "front", "-1", "/etc/passwd", "0; rm"])
def test_what_is_no_device_is_refused(text: str) -> None:
    with pytest.raises(SourceError, match="expected camera:0"):
        open_source(f"camera:{text}", image_size=32)


def test_cameras_are_listed_without_their_metadata_devices(device: Path) -> None:
    for number, (name, index) in enumerate([("HD Webcam", "0"), ("HD Webcam", "1"), ("Arm camera", "0")]):
        (device.parent / f"video{number}").touch()
        about = device.parent / "about" / f"video{number}"
        about.mkdir(parents=True)
        (about / "name").write_text(f"{name}\n")
        (about / "index").write_text(f"{index}\n")
    assert list_cameras() == [(device.parent / "video0", "HD Webcam"), (device.parent / "video2", "Arm camera")]


def test_phases_are_nothing_for_a_camera() -> None:
    with pytest.raises(SourceError, match="no --phases"):
        open_source("rtsp://host/", image_size=32, phases=[["cat"]])
