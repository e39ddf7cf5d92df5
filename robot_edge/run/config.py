"""Settings of a robot, from the command line or a TOML file."""

from __future__ import annotations

import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from broker.address import parse_broker_url
from broker.errors import ConfigError, MalformedMessage
from broker.program.paths import typed_path
from broker.wire.codec import MAX_DEADLINE_SECONDS, check_class_name
from broker.wire.quantize import MAX_BITS, MIN_BITS
from broker.wire.topics import check_name
from hierarchy.runtime.command_line import DeviceName, check_range
from hierarchy.runtime.page.options import PageOptions
from robot_edge.sources.options import OneSource, SourceOptions, is_live_source, masked
from robot_edge.uplink.outbox import CatchUp, WhenFull

# What ROS 2 takes as a topic's name.
ROS_TOPIC = re.compile(r"(~/|/)?[a-z_]\w*(/[a-z_]\w*)*", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class RobotConfig(PageOptions, SourceOptions, OneSource):
    """Settings of `robot-edge run`."""

    broker: str = "mqtt://127.0.0.1:1883"
    """The MQTT broker, mqtt://HOST:PORT or mqtts://HOST:PORT for an encrypted connection."""
    credentials: str = ""
    """TOML file with what the broker asks for: ca, certificate and key, or username and password (docs/security.md).
    Default: the environment variables REFLEXARC_MQTT_USERNAME, REFLEXARC_MQTT_PASSWORD and so on."""
    robot: str = "robot"
    """This robot's name; no other robot at the broker may have it."""
    run_dir: str = ""
    """Folder for outbox, checkpoint, metrics, curves and summary. A run in it that was stopped or killed goes on.
    Default: runs/ROBOT-DATE-TIME."""

    backbone: str = "resnet18"
    """Any classifier of torchvision. Images of up to 64 pixels get a smaller first convolution."""
    cut: str = "layer2"
    """The layer after which the network is cut, by its name in torchvision; a wrong one lists those that do."""
    bits: int = 4
    """Bits of each value sent, 1 to 8."""
    least_bits: int = 2
    """Where the link cannot carry them, they become fewer while the robot runs, one at a time, down to these; and more
    again when it can. As --bits or more: always as --bits."""
    bottleneck: int = 0
    """Channels sent, made from the cut's by a learned 1x1 convolution; 0 sends all."""
    image_size: int = 32
    """Side of the square that frames are scaled to, in pixels."""
    weights: str = "none"
    """Where to start from: none (random), default (torchvision's pretrained ones, in both halves), or the run folder
    of a former run on this robot, whose frames to rehearse come along."""
    freeze: str = ""
    """Layers to leave as they are, separated by commas: stem for the first convolution, others by name, as in
    stem,layer1."""

    live: bool = False
    """See as through a camera, the newest frame only, and learn what `robot-edge teach` says that it shows; labels of
    the source are not looked at. Cameras and streams always are."""
    practice: float = 0.5
    """Training steps on remembered frames alone that each frame is worth: of a live robot, when nothing new comes; at
    most, at the end of a replay that ended on some of its classes."""
    threshold: float = 0.8
    """When live: the calibrated confidence from which the exit's answer stands; the cloud is asked about other
    frames. 0 asks about none."""
    ask_deadline: float = 0.3
    """When live: seconds in which the cloud has to answer; then the exit's answer stands."""
    predictions_per_second: float = 5.0
    """When live: predictions published in a second while they stay the same; another one is at once."""
    prediction_topic: str = ""
    """For ros2: the topic on which predictions are published, vision_msgs/Classification. Default:
    /reflexarc/ROBOT/prediction."""
    epochs: int = 1
    """How often a folder is shown, in each phase."""
    images: int = 0
    """Frames to read at most; 0 for no bound (sim: then shows 12,000)."""
    phases: str = ""
    """Classes shown one phase after the other, as in "cat,dog|ship,truck"; empty shows all at once."""
    held_out: str = field(default="", repr=False)
    """Source of frames to test on at the end, as for --source. Empty sets apart scenes of the source itself."""
    held_out_labels: str = ""
    """For --held-out video: its CSV file of what is shown when, as --labels is that of --source."""
    held_out_image_topic: str = ""
    """For --held-out bag: the topic of its pictures. Default: --image-topic, or the only one."""
    held_out_label_topic: str = ""
    """For --held-out bag: the topic of what it shows. Default: --label-topic, or /label."""
    held_out_every: int = 10
    """One scene in so many is set apart when there is no --held-out, and never trained on."""
    rehearse: float = -1.0
    """Rehearsed frames for each fresh one, at both ends. Default: 1, but 0 for a shuffled folder without phases and
    without --weights of a former run."""
    encode_anew: bool = True
    """Also send what is rehearsed, as the network encodes it by now; the cloud then rehearses that in place of what it
    was sent before. About twice the bytes where each fresh frame has a rehearsed one; not while the link is behind."""
    rehearsal_mb: float = 16.0
    """Memory for frames to rehearse, in megabytes; they never leave the robot. They lie in it as JPEG, some 3,900 of 32
    pixels in each megabyte."""

    batch: int = 64
    """Frames in a training step, fresh and rehearsed together."""
    learning_rate: float = 0.05
    """Peak learning rate of SGD, one-cycle where the length of the source is known."""
    when_full: WhenFull | Literal["auto"] = "auto"
    """What happens when the cloud is away for so long that the outbox is full: block waits (a replay can), drop-oldest
    lets the oldest samples go, balanced those of the class that has most. Default: block, and balanced when live."""
    outbox_mb: float = 256.0
    """What may wait on the disk for the cloud, in megabytes; at least 1."""
    durable: bool = False
    """Write the outbox so that nothing in it is lost, or sent twice, after a power cut. Costs some milliseconds ten
    times a second; a kill loses nothing either way."""
    catch_up: CatchUp | Literal["auto"] = "auto"
    """What goes up first when the cloud is back after an outage, or where the link cannot carry all: oldest, newest, or
    rarest, samples of classes that there are few of. Default: oldest, and rarest when live, behind what is seen now."""
    checkpoint_every: int = 200
    """Training steps between two checkpoints. What a killed replay learned since the last one it learns again; a live
    robot also writes one at the beginning and end of each lesson."""

    device: DeviceName = "auto"
    """Where to compute."""
    threads: int = 0
    """Processor cores for PyTorch; 0 leaves its own choice, all of them. Where the trainer is on this machine too, give
    each its share: with all cores for both, both are slower."""
    seed: int = 0
    """Seed of weights, order and augmentation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_page()
        check_name(self.robot, "--robot")
        parse_broker_url(self.broker)
        check_range("bits", self.bits, MIN_BITS, MAX_BITS)
        check_range("least-bits", self.least_bits, MIN_BITS, MAX_BITS)
        check_range("bottleneck", self.bottleneck, 0, 8192)
        check_range("image-size", self.image_size, 8, 1024)
        check_range("epochs", self.epochs, 1, 100_000)
        check_range("images", self.images, 0, 10**12)
        check_range("held-out-every", self.held_out_every, 2, 10**6)
        self._check_held_out()
        check_range("batch", self.batch, 2, 1024)
        check_range("practice", self.practice, 0, 1000)
        check_range("threshold", self.threshold, 0, 1)
        check_range("ask-deadline", self.ask_deadline, 0, 60)
        check_range("predictions-per-second", self.predictions_per_second, 0.01, 1000)
        check_range("threads", self.threads, 0, 1024)
        check_range("seed", self.seed, 0, 2**32 - 1)
        check_range("rehearsal-mb", self.rehearsal_mb, 0, 10**6)
        check_range("outbox-mb", self.outbox_mb, 1, 10**7)
        check_range("checkpoint-every", self.checkpoint_every, 1, 10**9)
        check_range("learning-rate", self.learning_rate, 1e-7, 100)
        if not ROS_TOPIC.fullmatch(self.ros2_topic):
            raise ConfigError(f"--prediction-topic {self.prediction_topic}: that is no name of a ROS 2 topic")
        if self.rehearse != -1:
            check_range("rehearse", self.rehearse, 0, 16)
        try:
            for phase in self.phase_classes:
                for name in phase:
                    check_class_name(name)
        except MalformedMessage as error:
            raise ConfigError(f"--phases: {error}") from error

    def _check_held_out(self) -> None:
        is_video = self.held_out.startswith("video:")
        if is_video and not self.held_out_labels:
            raise ConfigError(
                f"--held-out {self.held_out}: say with --held-out-labels FILE.csv what this video shows when; --labels "
                "is of --source"
            )
        if self.held_out_labels and not is_video:
            raise ConfigError(f"--held-out-labels {self.held_out_labels}: is for --held-out video:FILE")

    @property
    def phase_classes(self) -> list[list[str]]:
        """The class names of each phase; empty for one phase of all."""
        if not self.phases:
            return []
        return [[name.strip() for name in phase.split(",")] for phase in self.phases.split("|")]

    @property
    def forgets(self) -> bool:
        """Whether what a replay ends on lacks classes of before: then the network must not be left as that bent it.

        With the frames of a former run it always may: what the source shows is known when it has been read.
        """
        if self.is_live:
            return False
        shown = {name for phase in self.phase_classes for name in phase}
        has_former = self.former_run is not None and self.rehearsed_per_fresh > 0
        return has_former or not shown.issubset(self.phase_classes[-1] if shown else ())

    @property
    def frozen_layers(self) -> tuple[str, ...]:
        """The names in --freeze."""
        return tuple(name.strip() for name in self.freeze.split(",") if name.strip())

    @property
    def is_live(self) -> bool:
        """Whether it is taught what it sees."""
        return self.live or is_live_source(self.source)

    @property
    def ros2_topic(self) -> str:
        """Where predictions are published in ROS 2, where no name has a '-' and no part of one begins with a digit."""
        name = self.robot.replace("-", "_")
        return self.prediction_topic or f"/reflexarc/{f'robot_{name}' if name[0].isdigit() else name}/prediction"

    @property
    def when_outbox_full(self) -> WhenFull:
        """What --when-full comes to."""
        if self.when_full == "auto":
            return "balanced" if self.is_live else "block"
        return self.when_full

    @property
    def catches_up(self) -> CatchUp:
        """What --catch-up comes to."""
        if self.catch_up == "auto":
            return "rarest" if self.is_live else "oldest"
        return self.catch_up

    @property
    def rehearsed_per_fresh(self) -> float:
        """Rehearsed frames for each fresh one. A shuffled folder is its own rehearsal, but not of a former run's."""
        if self.rehearse >= 0:
            return self.rehearse
        is_shuffled = self.source.startswith(("folder:", "torchvision:")) and not self.phases
        return 0.0 if is_shuffled and self.former_run is None else 1.0

    @property
    def former_run(self) -> Path | None:
        """The run folder that --weights names; None where they come from elsewhere."""
        return None if self.weights in {"none", "default"} else typed_path(self.weights)

    @property
    def fresh_per_batch(self) -> int:
        """How many of a batch's frames are fresh."""
        return max(1, round(self.batch / (1 + self.rehearsed_per_fresh)))

    @property
    def run_path(self) -> Path:
        """The run's folder."""
        return typed_path(self.run_dir or time.strftime(f"runs/{self.robot}-%Y%m%d-%H%M%S"))

    def as_toml(self) -> dict[str, Any]:
        """Return the settings as --config takes them, without passwords."""
        settings = {name: value for name, value in asdict(self).items() if value != ""}
        return {**settings, **{name: masked(settings[name]) for name in ("source", "held_out") if name in settings}}


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(SourceOptions, OneSource):
    """Settings of `robot-edge evaluate`. Labelled frames of the source count for accuracy."""

    checkpoint: str
    """Run folder of the robot whose segment is evaluated."""
    broker: str = ""
    """The MQTT broker of the trainer to ask. Default: none, the exit alone."""
    credentials: str = ""
    """TOML file with what the broker asks for, as for `robot-edge run`."""
    robot: str = ""
    """The robot's name, which must not be online. Default: the run's own."""
    threshold: str = "auto"
    """Confidence from which the exit answers alone, 0 to 1; auto takes the one that asks least of those within half a
    percentage point of the best accuracy."""
    deadline: float = 0.3
    """Seconds from the frame on in which an answer counts."""
    images: int = 0
    """Frames to read at most; 0 for no bound (sim: then shows 12,000)."""
    out: str = ""
    """Folder for evaluation.json and threshold.png. Default: the checkpoint's run folder."""
    device: DeviceName = "auto"
    """Where to compute."""
    threads: int = 0
    """Processor cores for PyTorch; 0 leaves its own choice."""
    seed: int = 0
    """Seed of the order of frames."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "checkpoint", str(typed_path(self.checkpoint)))
        object.__setattr__(self, "out", str(typed_path(self.out)) if self.out else "")
        if self.robot:
            check_name(self.robot, "--robot")
        if self.broker:
            parse_broker_url(self.broker)
        check_range("deadline", self.deadline, 0.01, MAX_DEADLINE_SECONDS)
        check_range("images", self.images, 0, 10**12)
        check_range("threads", self.threads, 0, 1024)
        check_range("seed", self.seed, 0, 2**32 - 1)
        if self.threshold != "auto":
            try:
                check_range("threshold", float(self.threshold), 0, 1)
            except ValueError:
                raise ConfigError(f"--threshold {self.threshold}: use auto, or a number from 0 to 1") from None
