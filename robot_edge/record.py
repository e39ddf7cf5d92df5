"""`robot-edge record`: frames and labels of a source into a bag (mcap), which `bag:` replays sample for sample."""

from __future__ import annotations

import io
import logging
import shutil
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from broker.codec import check_class_name
from broker.errors import ConfigError, SourceError
from hierarchy.command_line import Notice, StopRequest, check_range
from robot_edge.frames import Frame, FrameSource
from robot_edge.progress import RunProgress
from robot_edge.source_options import OneSource, SourceOptions
from robot_edge.sources import open_source
from robot_edge.sources.bag import LABEL_TOPIC, NANOSECONDS, SCENE_TOPIC, SCENE_TYPE
from robot_edge.sources.ros_images import COMPRESSED_IMAGE, IMAGE, STRING

IMAGE_TOPIC = "/camera/image"
# Level 1 takes a third of the time of Pillow's default, for files a tenth larger.
PNG_LEVEL = 1
# How long to wait for a frame before looking whether to stop.
SOURCE_SECONDS = 0.2

log = logging.getLogger("robot-edge")


@dataclass(frozen=True, kw_only=True)
class RecordConfig(SourceOptions, OneSource):
    """Settings of `robot-edge record`."""

    out: str
    """The bag to write, as in session.mcap. It must not be there yet."""
    seconds: float = 0.0
    """How long to record; 0 until Ctrl-C or the source's end."""
    images: int = 0
    """How many frames to record at most; 0 for no bound."""
    raw: bool = False
    """Write pictures as they are, where a robot is too slow for PNG. Takes two to three times the disk."""
    image_size: int = 32
    """Side of the pictures of sim:, in pixels. Others are recorded at their own size."""
    seed: int = 0
    """Seed of the order of a folder, and of sim:."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("seconds", self.seconds, 0, 10**7)
        check_range("images", self.images, 0, 10**9)
        check_range("image-size", self.image_size, 8, 1024)
        check_range("seed", self.seed, 0, 2**32 - 1)


def record(config: RecordConfig) -> None:
    """Record a source until it ends, for long enough, or until Ctrl-C. Raises ConfigError."""
    source = open_source(config.source, config, image_size=config.image_size, images=config.images, seed=config.seed)
    with closing(source), StopRequest() as stop, Recorder(Path(config.out), raw=config.raw) as recorder:
        record_source(source, recorder, stop, seconds=config.seconds)
    log.info("%s has %d frames; replay it with --source bag:%s", config.out, recorder.frames, config.out)


def record_source(source: FrameSource, recorder: Recorder, stop: StopRequest, *, seconds: float = 0.0) -> None:
    """Record every frame of a source until it ends, a stop is asked for, or so many seconds are over (0: never)."""
    deadline = time.monotonic() + (seconds or float("inf"))
    notice = Notice(log)
    with RunProgress(source.length, "frames recorded") as progress:
        while not (stop.made or source.ended) and (left := deadline - time.monotonic()) > 0:
            frame = source.next(min(left, SOURCE_SECONDS))
            if frame is not None:
                recorder.add(frame)
            notice.say(source.status)
            progress.show(recorder.frames, recorder.shown or "no label")


class Recorder:
    """Writes frames, and what they show, into an mcap file that any ROS 2 tool reads; use it as a context manager.

    Pictures are lossless, on IMAGE_TOPIC; what is shown, std_msgs/String, at every change on LABEL_TOPIC, empty for
    nothing that has a name; which frames are near-duplicates on SCENE_TOPIC. Until it is closed, the file is in the
    folder PATH.part.

    frames: how many were written. shown: the label of the last one.
    """

    def __init__(self, path: Path, *, raw: bool = False) -> None:
        """Create the file. Raises ConfigError where it cannot be, or is there already."""
        try:
            from rosbags.rosbag2 import StoragePlugin, Writer
            from rosbags.typesys import Stores, get_typestore
        except ImportError:
            raise SourceError("recording needs rosbags: pip install 'reflexarc[bag]'") from None
        if path.suffix != ".mcap":
            raise ConfigError(f"--out {path}: use a name that ends in .mcap")
        self._path = path
        self._part = path.with_name(path.name + ".part")
        for one in (path, self._part):
            if one.exists():
                raise ConfigError(f"--out {path}: {one} is there already; choose another name, or remove it")
        self.frames = 0
        self.shown: str | None = None
        self._taught: tuple[str | None] | None = None
        self._scene: int | None = None
        self._recorded = -1
        self._raw = raw
        self._types = get_typestore(Stores.ROS2_HUMBLE)
        self._writer = Writer(self._part, version=9, storage_plugin=StoragePlugin.MCAP)
        kind, topic = (IMAGE, IMAGE_TOPIC) if raw else (COMPRESSED_IMAGE, f"{IMAGE_TOPIC}/compressed")
        try:
            self._writer.open()
        except OSError as error:
            raise ConfigError(f"--out {path}: {error}") from error
        self._connections = {
            name: self._writer.add_connection(where, name, typestore=self._types)
            for where, name in ((topic, kind), (LABEL_TOPIC, STRING), (SCENE_TOPIC, SCENE_TYPE))
        }

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.close()
        except ConfigError:
            if error is None:  # else it would hide why nothing was recorded
                raise

    def label(self, name: str | None) -> None:
        """Say what the frames from now on show, whatever their source says. Raises MalformedMessage."""
        if name is not None:
            check_class_name(name)
        self._taught = (name,)

    def add(self, frame: Frame) -> None:
        """Write a frame. Raises ConfigError where the disk takes no more."""
        stamp = int(frame.time) * NANOSECONDS + round(frame.time % 1 * NANOSECONDS)
        # The order in the bag is that of the times of recording; a folder's second phase may start with 0 again.
        self._recorded = max(stamp, self._recorded + 1)
        name = self._taught[0] if self._taught else frame.label
        try:
            if name != self.shown:
                self._write(STRING, data=name or "")
            if frame.scene != self._scene:
                self._write(SCENE_TYPE, data=frame.scene)
            self._write_image(frame.image, stamp)
        except OSError as error:
            raise ConfigError(f"--out {self._path}: {error}; {self.frames} frames are recorded") from error
        self.shown, self._scene = name, frame.scene
        self.frames += 1

    def close(self) -> None:
        """End the file; remove it where it has no frame. Raises ConfigError."""
        try:
            self._writer.close()
            if self.frames:
                (self._part / f"{self._part.name}.mcap").rename(self._path)
            shutil.rmtree(self._part)
        except OSError as error:
            raise ConfigError(f"--out {self._path}: {error}; what there is, is in {self._part}") from error
        if not self.frames:
            raise ConfigError(f"--out {self._path}: nothing was recorded, as no frame came")

    def _write_image(self, image: np.ndarray[Any, np.dtype[np.uint8]], stamp: int) -> None:
        seconds, nanoseconds = divmod(stamp, NANOSECONDS)
        types = self._types.types
        time = types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
        header = types["std_msgs/msg/Header"](stamp=time, frame_id="camera")
        height, width, _ = image.shape
        if self._raw:
            about = {"height": height, "width": width, "step": 3 * width, "encoding": "rgb8", "is_bigendian": 0}
            self._write(IMAGE, header=header, data=np.ascontiguousarray(image).reshape(-1), **about)
            return
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG", compress_level=PNG_LEVEL)
        # As ROS's own publisher calls it: what comes out when it is decoded in OpenCV's order.
        data = np.frombuffer(file.getbuffer(), np.uint8)
        self._write(COMPRESSED_IMAGE, header=header, format="rgb8; png compressed bgr8", data=data)

    def _write(self, kind: str, **fields: Any) -> None:
        message = self._types.types[kind](**fields)
        self._writer.write(self._connections[kind], self._recorded, self._types.serialize_cdr(message, kind))
