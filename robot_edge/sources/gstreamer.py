"""Whatever GStreamer reads, as the cameras of a Jetson: gst-launch-1.0 as a process that writes raw pictures to a pipe.

OpenCV's wheels come without GStreamer.
"""

from __future__ import annotations

import os
import select
import shlex
import shutil
import subprocess
import tempfile
import time
from functools import partial

import numpy as np

from broker.errors import SourceError
from robot_edge.sources.frames import check_size
from robot_edge.sources.live import CameraLost, LiveSource, Picture
from robot_edge.sources.passwords import masked
from robot_edge.sources.settings import SourceOptions

# For the first picture, as pipelines take their time to start, and for the next one.
OPEN_SECONDS, READ_SECONDS = 8.0, 2.0
END_SECONDS = 2.0
LAUNCH = "gst-launch-1.0"


def open_pipeline(pipeline: str, options: SourceOptions) -> LiveSource:
    """Open a pipeline as gst-launch-1.0 takes it, without a sink. Raises SourceError."""
    if not options.width:
        raise SourceError("gst: needs --width and --height: raw pictures do not say how large they are")
    if shutil.which(LAUNCH) is None:
        raise SourceError(f"gst: needs {LAUNCH}: sudo apt-get install gstreamer1.0-tools gstreamer1.0-plugins-good")
    try:
        check_size(options.width, options.height)
        command = launch_command(pipeline, options)
    except ValueError as error:
        raise SourceError(f"gst:{masked(pipeline)}: {error}") from None
    return LiveSource(f"gst:{masked(pipeline)}", partial(PipelineCamera, command, options.width, options.height))


def launch_command(pipeline: str, options: SourceOptions) -> list[str]:
    """Return the command that writes RGB pictures of the chosen size to its standard output. Raises ValueError."""
    caps = f"video/x-raw,format=RGB,width={options.width},height={options.height}"
    rate = ["videorate", "!", f"video/x-raw,framerate={round(options.fps * 1000)}/1000", "!"] if options.fps else []
    convert = ["!", *rate, "videoconvert", "!", "videoscale", "!", caps, "!"]
    return [LAUNCH, "-q", *shlex.split(pipeline), *convert, "fdsink", "fd=1"]


class PipelineCamera:
    """A running pipeline."""

    def __init__(self, command: list[str], width: int, height: int) -> None:
        self._shape = (height, width)
        self._stride = (3 * width + 3) // 4 * 4  # GStreamer's lines of RGB begin at multiples of four bytes
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - close() does
        self._patience = OPEN_SECONDS
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            start_new_session=True,  # Ctrl-C at the terminal is for us; close() ends it
        )

    def read(self) -> Picture:
        height, width = self._shape
        picture = self._read(height * self._stride)
        self._patience = READ_SECONDS
        lines = np.frombuffer(picture, np.uint8).reshape(height, self._stride)
        return Picture(lines[:, : 3 * width].reshape(height, width, 3))

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()

    def _read(self, size: int) -> bytearray:
        assert self._process.stdout is not None
        picture, file = bytearray(), self._process.stdout.fileno()
        deadline = time.monotonic() + self._patience
        while len(picture) < size:
            if not select.select([file], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise CameraLost(f"no picture came within {self._patience:g} s")
            part = os.read(file, size - len(picture))
            if not part:
                raise CameraLost(f"the pipeline ended: {self._last_words()}")
            picture += part
        return picture

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read(4000).decode(errors="replace").splitlines()
        said = [line.strip() for line in lines if line.startswith(("ERROR", "WARNING"))] or ["it said nothing"]
        return masked(said[0])[:300]
