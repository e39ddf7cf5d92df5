"""Settings of where frames come from, besides the source itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from broker.errors import ConfigError, MalformedMessage
from broker.wire.bounds import check_class_name
from hierarchy.runtime.command_line import check_range

# A number is so many frames a second.
Rate = float | Literal["realtime", "max"]

# What only shows what is in front of it, and never says what that is.
CAMERAS = {"camera", "rtsp", "rtsps", "http", "https", "gst"}
# What shows what is there now; a ROS topic may say what that is on another one.
LIVE_SOURCES = CAMERAS | {"ros2"}
# Sets of pictures without an order, which are shown mixed: so they rehearse themselves.
MIXED_SOURCES = {"folder", "torchvision", "coco", "yolo", "webdataset"}


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How a source is read. Each has a meaning for some sources only (docs/sources.md)."""

    rate: str = "max"
    """Pace of any source: max as fast as frames are learned from, realtime as fast as they were recorded, or so many
    frames a second."""
    labels: str = ""
    """For video: CSV file of what is shown when, with the columns start, end (seconds) and class. For lerobot: CSV
    file with the columns episode and class."""
    image_topic: str = ""
    """For bag: the topic of the pictures. Default: the only one with pictures."""
    label_topic: str = ""
    """For bag and ros2: the topic of what is shown, std_msgs/String or vision_msgs/Detection2DArray. Default: /label
    where there is one."""
    camera: str = ""
    """For recordings of several cameras (lerobot, tub, hdf5): the one to show. Default: the only one."""
    label_field: str = ""
    """For recordings whose fields have names (metadata.jsonl of a folder, lerobot, tub, hdf5, webdataset): the field
    with the class. Default: one that is called label, class or category; task of lerobot. robot-edge sources PATH lists
    them."""
    data_dir: str = ""
    """For torchvision: where the data set is or goes. Default: ~/.cache/reflexarc. For coco: where the pictures are.
    Default: beside its file, or where COCO has them."""
    width: int = 0
    """For camera: width of its pictures in pixels; 0 leaves what it has. gst: has to know."""
    height: int = 0
    """For camera: height of its pictures in pixels; 0 leaves what it has."""
    fps: float = 0.0
    """For camera: pictures a second; 0 leaves what it has."""
    exposure: float = 0.0
    """For camera: exposure time as its driver counts (V4L2: in 0.1 ms); 0 leaves it automatic."""

    def __post_init__(self) -> None:
        parse_rate(self.rate)
        check_range("width", self.width, 0, 16_384)
        check_range("height", self.height, 0, 16_384)
        check_range("fps", self.fps, 0, 1000)
        check_range("exposure", self.exposure, 0, 1_000_000)
        if bool(self.width) != bool(self.height):
            raise ConfigError("--width and --height: give both, or none")


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """Which frames a run shows, and which it is tested on."""

    source: str = field(repr=False)  # its URL may have a password
    """Where frames come from (docs/sources.md): folder:PATH (one sub-folder of pictures for each class), camera:0,
    rtsp://..., http://... (MJPEG), gst:PIPELINE, ros2:/TOPIC, video:FILE, bag:PATH, lerobot:PATH, torchvision:CIFAR10,
    or sim: (a simulated camera); robot-edge sources PATH says which of them reads what is at a path. For a password in
    a URL write *** and set REFLEXARC_CAMERA_PASSWORD."""
    epochs: int = 1
    """How often a folder, or another recording of pictures, is shown, in each phase."""
    images: int = 0
    """Frames to read at most; 0 for no bound (sim: then shows 12,000)."""
    phases: str = ""
    """Classes shown one phase after the other, as in "cat,dog|ship,truck"; empty shows all at once."""
    held_out: str = field(default="", repr=False)
    """Source of frames to test on at the end, as for --source. Default: the test part of a --source that has parts, as
    train and test folders; else scenes of the source itself are set apart."""
    held_out_labels: str = ""
    """For --held-out video: or lerobot: its CSV file of what is shown when, as --labels is that of --source."""
    held_out_image_topic: str = ""
    """For --held-out bag: the topic of its pictures. Default: --image-topic, or the only one."""
    held_out_label_topic: str = ""
    """For --held-out bag: the topic of what it shows. Default: --label-topic, or /label."""
    held_out_every: int = 10
    """One scene in so many is set apart when there is no --held-out, and never trained on."""
    options: SourceOptions = field(default_factory=SourceOptions)

    def __post_init__(self) -> None:
        check_range("epochs", self.epochs, 1, 100_000)
        check_range("images", self.images, 0, 10**12)
        check_range("held-out-every", self.held_out_every, 2, 10**6)
        is_video = self.held_out.startswith("video:")
        if is_video and not self.held_out_labels:
            raise ConfigError(
                f"--held-out {self.held_out}: say with --held-out-labels FILE.csv what this video shows when; --labels "
                "is of --source"
            )
        if self.held_out_labels and not self.held_out.startswith(("video:", "lerobot:")):
            raise ConfigError(
                f"--held-out-labels {self.held_out_labels}: is for --held-out video:FILE and --held-out lerobot:PATH"
            )
        try:
            for phase in self.phase_classes:
                for name in phase:
                    check_class_name(name)
        except MalformedMessage as error:
            raise ConfigError(f"--phases: {error}") from error

    @property
    def phase_classes(self) -> list[list[str]]:
        """The class names of each phase; empty for one phase of all."""
        if not self.phases:
            return []
        return [[name.strip() for name in phase.split(",")] for phase in self.phases.split("|")]


def is_mixed_source(text: str) -> bool:
    """Whether a source as written on the command line is shown mixed."""
    return text.partition(":")[0] in MIXED_SOURCES


def is_live_source(text: str) -> bool:
    """Whether a source as written on the command line is a camera."""
    return text.partition(":")[0] in LIVE_SOURCES


def parse_rate(text: str) -> Rate:
    """Return what --rate says. Raises ConfigError."""
    match text:
        case "realtime" | "max":
            return text
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0.001 <= rate <= 1000:
        raise ConfigError(f"--rate {text}: use realtime, max, or 0.001 to 1000 frames a second")
    return rate
