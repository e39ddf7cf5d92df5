"""`robot-edge record`: frames and labels into a bag (mcap) or a LeRobot data set, replayed sample for sample.

A recording's labels are recorded as they are. What a camera shows is taught, by typing names, as to a live robot.
"""

from __future__ import annotations

import io
import logging
import shutil
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from broker.errors import ConfigError, ReflexarcError, SourceError
from broker.program.machine import refused
from broker.program.paths import typed_path
from broker.program.plain_text import counted
from broker.wire.codec import pack
from broker.wire.messages import ClassEdit
from hierarchy.runtime.command_line import Notice, StopRequest, check_range
from hierarchy.runtime.progress import RunProgress
from robot_edge.recording.recorded_lessons import RecordedLessons
from robot_edge.sources.bag import BYTES, EDIT_TOPIC, LABEL_TOPIC, LESSON_TOPIC, NANOSECONDS, NUMBER, SCENE_TOPIC
from robot_edge.sources.frames import Frame, FrameSource
from robot_edge.sources.opening import open_source
from robot_edge.sources.ros_images import COMPRESSED_IMAGE, IMAGE, STRING
from robot_edge.sources.settings import SourceOptions, is_live_source
from robot_edge.teaching.terminal import listening

if TYPE_CHECKING:
    from robot_edge.recording.lerobot_recorder import LeRobotRecorder

# What stands in front of the folder of a LeRobot data set.
LEROBOT = "lerobot:"
IMAGE_TOPIC = "/camera/image"
# Level 1 takes a third of the time of Pillow's default, for files a tenth larger.
PNG_LEVEL = 1
HOW_TO_TEACH = ", unless with --live; type a name while it is recorded, or record a source that has labels"
# How long to wait for a frame before looking whether to stop.
SOURCE_SECONDS = 0.2

log = logging.getLogger("robot-edge")


@dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """Settings of `robot-edge record`."""

    source: str = field(repr=False)  # its URL may have a password
    """Where frames come from, as for `robot-edge run`."""
    out: str
    """The bag to write, as in session.mcap, or a LeRobot data set, as in lerobot:FOLDER. It must not be there yet."""
    seconds: float = 0.0
    """How long to record; 0 until Ctrl-C or the source's end."""
    images: int = 0
    """How many frames to record at most; 0 for no bound."""
    raw: bool = False
    """Write pictures as they are, where a robot is too slow for PNG. Takes two to three times the disk."""
    live: bool = False
    """Record as from a camera, at its pace, with the labels that are taught; those of the source are not looked at.
    Cameras and streams always are."""
    image_size: int = 32
    """Side of the pictures of sim:, in pixels. Others are recorded at their own size."""
    seed: int = 0
    """Seed of the order of a folder, and of sim:."""
    options: SourceOptions = field(default_factory=SourceOptions)

    def __post_init__(self) -> None:
        kind = LEROBOT if self.out.startswith(LEROBOT) else ""
        object.__setattr__(self, "out", f"{kind}{typed_path(self.out.removeprefix(kind))}")
        check_range("seconds", self.seconds, 0, 10**7)
        check_range("images", self.images, 0, 10**9)
        check_range("image-size", self.image_size, 8, 1024)
        check_range("seed", self.seed, 0, 2**32 - 1)

    @property
    def is_live(self) -> bool:
        """Whether it is taught what the recording shows."""
        return self.live or is_live_source(self.source)


def record(config: RecordConfig) -> None:
    """Record a source until it ends, for long enough, or until Ctrl-C. Raises ConfigError and StorageError."""
    source = open_source(
        config.source,
        config.options,
        image_size=config.image_size,
        images=config.images,
        seed=config.seed,
        live=config.is_live,
    )
    with closing(source), StopRequest() as stop, open_recorder(config) as recorder:
        if config.is_live:
            lessons = RecordedLessons(source, recorder.edit, trusts_source=not config.live)
            with listening(lessons.commands, stop):
                record_source(source, recorder, stop, seconds=config.seconds, lessons=lessons)
        else:
            record_source(source, recorder, stop, seconds=config.seconds)
    if not recorder.labelled:
        log.warning("no frame of %s has a label: a replay can learn nothing from it%s", config.out, HOW_TO_TEACH)
    log.info(
        "%s has %s, %d of them with a label; replay it with --source %s%s",
        config.out,
        counted(recorder.frames, "frame"),
        recorder.labelled,
        recorder.source,
        "" if recorder.labelled else " --live",
    )


def open_recorder(config: RecordConfig) -> Recorder | LeRobotRecorder:
    """Return what writes to --out. Raises ConfigError."""
    if config.out.startswith(LEROBOT):
        from robot_edge.recording.lerobot_recorder import LeRobotRecorder  # which imports torch: --help should not

        return LeRobotRecorder(Path(config.out.removeprefix(LEROBOT)), raw=config.raw)
    return Recorder(Path(config.out), raw=config.raw)


def record_source(
    source: FrameSource,
    recorder: Recorder | LeRobotRecorder,
    stop: StopRequest,
    *,
    seconds: float = 0.0,
    lessons: RecordedLessons | None = None,
) -> None:
    """Record every frame of a source until it ends, a stop is asked for, or so many seconds are over (0: never).

    lessons: give frames their labels, instead of the source.
    """
    deadline = time.monotonic() + (seconds or float("inf"))
    notice = Notice(log)
    with RunProgress(source.length, "frames recorded") as progress:
        while not (stop.made or source.ended) and (left := deadline - time.monotonic()) > 0:
            frame = source.next(min(left, SOURCE_SECONDS))
            if lessons:
                for result in lessons.obey():
                    log.info("%s", result.text)
            if frame is not None:
                recorder.add(lessons.see(frame) if lessons else frame)
            notice.say(source.status)
            progress.show(recorder.frames, [lessons.line if lessons else recorder.shown or "no label"])


class Recorder:
    """Writes frames, and what they show, into an mcap file that any ROS 2 tool reads; use it as a context manager.

    Pictures are lossless, on IMAGE_TOPIC; what is shown, std_msgs/String, at every change on LABEL_TOPIC, empty for
    nothing that has a name; which frames are near-duplicates on SCENE_TOPIC; the lessons of labelled frames on
    LESSON_TOPIC; later edits on EDIT_TOPIC. Until it is closed, the file is in the folder PATH.part.

    frames: how many were written. labelled: how many of them with a label. shown: the label of the last one. source:
    what replays it, as written on the command line.
    """

    def __init__(self, path: Path, *, raw: bool = False) -> None:
        """Create the file. Raises ConfigError where it cannot be, or is there already."""
        try:
            from rosbags.rosbag2 import StoragePlugin, Writer
            from rosbags.typesys import Stores, get_typestore
        except ImportError:
            raise SourceError("recording needs rosbags: pip install 'reflexarc[bag]'") from None
        if path.suffix != ".mcap":
            raise ConfigError(f"--out {path}: use a name that ends in .mcap, or lerobot:FOLDER")
        self.source = f"bag:{path}"
        self._path = path
        self._part = path.with_name(path.name + ".part")
        for one in (path, self._part):
            if one.exists():
                raise ConfigError(f"--out {path}: {one} is there already; choose another name, or remove it")
        self.frames = self.labelled = 0
        self.shown: str | None = None
        self._scene: int | None = None
        self._lesson = 0
        self._recorded = -1
        self._raw = raw
        self._types = get_typestore(Stores.ROS2_HUMBLE)
        self._writer = Writer(self._part, version=9, storage_plugin=StoragePlugin.MCAP)
        self._image_topic, image_type = (IMAGE_TOPIC, IMAGE) if raw else (f"{IMAGE_TOPIC}/compressed", COMPRESSED_IMAGE)
        try:
            self._writer.open()
        except OSError as error:
            raise refused(f"--out {path}", error, path=path.parent) from error
        topics = {LABEL_TOPIC: STRING, SCENE_TOPIC: NUMBER, LESSON_TOPIC: NUMBER, EDIT_TOPIC: BYTES}
        self._connections = {
            topic: self._writer.add_connection(topic, kind, typestore=self._types)
            for topic, kind in {self._image_topic: image_type, **topics}.items()
        }

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.close()
        except ReflexarcError:
            if error is None:  # else it would hide why nothing was recorded
                raise

    def add(self, frame: Frame) -> None:
        """Write a frame. Raises StorageError where the disk takes no more."""
        stamp = int(frame.time) * NANOSECONDS + round(frame.time % 1 * NANOSECONDS)
        # The order in the bag is that of the times of recording; a folder's second phase may start with 0 again.
        self._recorded = max(stamp, self._recorded + 1)
        try:
            if frame.label != self.shown:
                self._write(LABEL_TOPIC, data=frame.label or "")
            if frame.label is not None and frame.session != self._lesson:
                self._write(LESSON_TOPIC, data=frame.session)
                self._lesson = frame.session
            if frame.scene != self._scene:
                self._write(SCENE_TOPIC, data=frame.scene)
            self._write_image(frame.image, stamp)
        except OSError as error:
            raise self._full(error) from error
        self.shown, self._scene = frame.label, frame.scene
        self.frames += 1
        self.labelled += frame.label is not None

    def edit(self, edit: ClassEdit) -> None:
        """Write down what was changed about the classes of all frames before. Raises StorageError as ``add`` does."""
        self._recorded += 1
        layout = self._types.types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
        try:
            self._write(EDIT_TOPIC, layout=layout, data=np.frombuffer(pack(edit), np.uint8))
        except OSError as error:
            raise self._full(error) from error

    def close(self) -> None:
        """End the file; remove it where it has no frame. Raises ConfigError and StorageError."""
        try:
            self._writer.close()
            if self.frames:
                (self._part / f"{self._part.name}.mcap").rename(self._path)
            shutil.rmtree(self._part)
        except OSError as error:
            raise refused(f"--out {self._path}, what there is, is in {self._part}", error, path=self._part) from error
        if not self.frames:
            raise ConfigError(f"--out {self._path}: nothing was recorded, as no frame came")

    def _write_image(self, image: np.ndarray[Any, np.dtype[np.uint8]], stamp: int) -> None:
        seconds, nanoseconds = divmod(stamp, NANOSECONDS)
        types = self._types.types
        time = types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
        header = types["std_msgs/msg/Header"](stamp=time, frame_id="camera")
        height, width, _ = image.shape
        if self._raw:
            metadata = {"height": height, "width": width, "step": 3 * width, "encoding": "rgb8", "is_bigendian": 0}
            self._write(self._image_topic, header=header, data=np.ascontiguousarray(image).reshape(-1), **metadata)
            return
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG", compress_level=PNG_LEVEL)
        # As ROS's own publisher calls it: what comes out when it is decoded in OpenCV's order.
        data = np.frombuffer(file.getbuffer(), np.uint8)
        self._write(self._image_topic, header=header, format="rgb8; png compressed bgr8", data=data)

    def _write(self, topic: str, **fields: Any) -> None:
        connection = self._connections[topic]
        message = self._types.types[connection.msgtype](**fields)
        self._writer.write(connection, self._recorded, self._types.serialize_cdr(message, connection.msgtype))

    def _full(self, error: OSError) -> ReflexarcError:
        return refused(
            f"--out {self._path}, {counted(self.frames, 'frame is', 'frames are')} recorded", error, path=self._part
        )
