"""Settings of a robot, from the command line or a TOML file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from broker.address import parse_broker_urls
from broker.errors import ConfigError
from broker.program.paths import typed_path
from broker.wire.bounds import MAX_DEADLINE_SECONDS
from broker.wire.messages import Share
from broker.wire.topics import check_name
from hierarchy.runtime.command_line import DeviceName, check_range
from hierarchy.runtime.page.options import PageOptions
from hierarchy.runtime.settings import flattened, from_flat
from hierarchy.runtime.tracking.options import TrackOptions
from robot_edge.inference.settings import LiveSettings
from robot_edge.learning.automatic import as_before, from_scratch, is_untouched, of_camera, resolved
from robot_edge.learning.settings import LearningSettings, NetworkSettings, region_of
from robot_edge.run.secret_seed import DRAWN, SEEDS, derived_seed, shown_seed
from robot_edge.sources.passwords import masked
from robot_edge.sources.settings import SourceOptions, SourceSettings, is_live_source, is_mixed_source
from robot_edge.uplink.outbox import WhenFull
from robot_edge.uplink.settings import UplinkSettings


@dataclass(frozen=True, kw_only=True)
class RobotConfig:
    """Settings of `robot-edge run`, in groups. Flags and TOML files name a setting without its group."""

    robot: str = "robot"
    """This robot's name; no other robot at the broker may have it."""
    fleet: str = ""
    """The fleet that this robot belongs to, 1 to 64 letters, digits, '-' and '_'. Robots of one fleet with one front
    that stands still train one half of the network in the cloud: a class taught to one is known to all when they ask
    (docs/how-to/teach-a-fleet.md). Default: none, the cloud's half is the robot's own."""
    share: Share = "yes"
    """What becomes of what a robot of a fleet is taught, from its next start on. yes: the fleet's half learns it. no: a
    half of the robot's own does, and the robot is sent its fleet's exit all the same. withdraw: as no, and what it
    shared before is taken out of the fleet's half."""
    run_dir: str = ""
    """Folder for outbox, checkpoint, metrics, curves and summary. A run in it that was stopped or killed goes on.
    Default: runs/ROBOT-DATE-TIME."""
    device: DeviceName = "auto"
    """Where to compute."""
    threads: int = 0
    """Processor cores for PyTorch; 0 leaves its own choice, all of them. Where the trainer is on this machine too, give
    each its share: with all cores for both, both are slower."""
    seed: int = -1
    """Seed of weights, order and augmentation. With it anybody can build the front that a new robot begins with, and
    what crosses then shows its frames. -1 draws a secret one, which stays in the run folder."""
    source: SourceSettings
    network: NetworkSettings = field(default_factory=NetworkSettings)
    learning: LearningSettings = field(default_factory=LearningSettings)
    uplink: UplinkSettings = field(default_factory=UplinkSettings)
    live: LiveSettings = field(default_factory=LiveSettings)
    page: PageOptions = field(default_factory=PageOptions)
    track: TrackOptions = field(default_factory=TrackOptions)

    def __post_init__(self) -> None:
        check_name(self.robot, "--robot")
        if self.fleet:
            check_name(self.fleet, "--fleet")
        elif self.share != "yes":
            raise ConfigError(f"--share {self.share} is for a robot of a fleet: add --fleet NAME")
        check_range("threads", self.threads, 0, 1024)
        check_range("seed", self.seed, DRAWN, SEEDS - 1)
        if self.network.weights in {"auto", "none"} and not self._may_begin_pretrained:
            object.__setattr__(self, "network", from_scratch(self.network))

    @classmethod
    def from_flags(cls, **flags: Any) -> RobotConfig:
        """Return the settings that flags of those names (`image_size=64`) ask for. Raises ConfigError."""
        return from_flat(cls, flags)

    def resolved(self, former: Mapping[str, Any] | None = None) -> RobotConfig:
        """Return the settings with nothing of the network left open.

        former: settings of the run that goes on, or whose weights this one begins with; they fill what nobody chose.
        Raises ConfigError.
        """
        network = self.network
        if former:
            network = as_before(network, former)
        elif self._may_begin_pretrained:
            network = of_camera(network)
        return replace(self, network=resolved(network))

    @property
    def _may_begin_pretrained(self) -> bool:
        is_camera = is_live_source(self.source.source) and not self.source.source.startswith("sim:")
        return is_camera and is_untouched(self.network)

    @property
    def open_seed(self) -> int:
        """Seed of what others see the results of, and of what is only tried; it tells nothing of a secret one."""
        return derived_seed(self.seed, "order")

    @property
    def forgets(self) -> bool:
        """Whether what a replay ends on lacks classes of before: then the network must not be left as that bent it.

        With the frames of a former run it always may: what the source shows is known when it has been read.
        """
        if self.is_live:
            return False
        shown = {name for phase in self.source.phase_classes for name in phase}
        has_former = self.network.former_run is not None and self.rehearsed_per_fresh > 0
        return has_former or not shown.issubset(self.source.phase_classes[-1] if shown else ())

    @property
    def is_live(self) -> bool:
        """Whether it is taught what it sees."""
        return self.live.live or is_live_source(self.source.source)

    @property
    def ros2_topic(self) -> str:
        """Where predictions are published in ROS 2, where no name has a '-' and no part of one begins with a digit.

        Empty for nowhere: of other sources, nobody in ROS 2 has heard.
        """
        if not self.source.source.startswith("ros2:"):
            return self.live.prediction_topic
        name = self.robot.replace("-", "_")
        return self.live.prediction_topic or f"/reflexarc/{f'robot_{name}' if name[0].isdigit() else name}/prediction"

    @property
    def when_outbox_full(self) -> WhenFull:
        """What --when-full comes to."""
        if self.uplink.when_full == "auto":
            return "balanced" if self.is_live else "block"
        return self.uplink.when_full

    @property
    def rehearsed_per_fresh(self) -> float:
        """Rehearsed frames for each fresh one. A shuffled folder is its own rehearsal, but not of a former run's."""
        if self.learning.rehearse >= 0:
            return self.learning.rehearse
        is_shuffled = is_mixed_source(self.source.source) and not self.source.phases
        return 0.0 if is_shuffled and self.network.former_run is None else 1.0

    @property
    def fresh_per_batch(self) -> int:
        """How many of a batch's frames are fresh."""
        return max(1, round(self.learning.batch / (1 + self.rehearsed_per_fresh)))

    @property
    def run_path(self) -> Path:
        """The run's folder."""
        return typed_path(self.run_dir or time.strftime(f"runs/{self.robot}-%Y%m%d-%H%M%S"))

    def as_toml(self) -> dict[str, Any]:
        """Return the settings as --config takes them, without passwords and a secret seed."""
        settings = {name: value for name, value in flattened(self).items() if value != ""}
        settings["seed"] = shown_seed(self.seed)
        return {**settings, **{name: masked(settings[name]) for name in ("source", "held_out") if name in settings}}


# Which exit answers: the robot's own alone, its fleet's beside it, or what the run chose (`robot-edge use`).
WhichExit = Literal["chosen", "own", "fleet"]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Settings of `robot-edge evaluate`. Labelled frames of the source count for accuracy."""

    source: str = field(repr=False)  # its URL may have a password
    """Where frames come from, as for `robot-edge run`."""
    checkpoint: str
    """Run folder of the robot whose segment is evaluated."""
    broker: str = ""
    """The MQTT broker of the trainer to ask, as for `robot-edge run`. Default: none, the exit alone."""
    credentials: str = ""
    """TOML file with what the broker asks for, as for `robot-edge run`."""
    names_key: str = ""
    """Key of the run's class names, to ask the cloud with. Default: the file that the run was started with."""
    payload_key: str = ""
    """File with the keys that payloads are sealed with. Default: the file that the run was started with."""
    robot: str = ""
    """The robot's name, which must not be online. Default: the run's own."""
    use: WhichExit = "chosen"
    """Which exit answers, of a run with --fleet: its own alone, the fleet's beside it, or as the run has chosen
    (robot-edge use)."""
    threshold: str = "auto"
    """Confidence from which the exit answers alone, 0 to 1; auto takes the one that asks least of those within half a
    percentage point of the best accuracy."""
    deadline: float = 0.3
    """Seconds from the frame on in which an answer counts."""
    look: str = ""
    """Where in each frame to look, as for `robot-edge run`. Default: where the run looks."""
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
    options: SourceOptions = field(default_factory=SourceOptions)

    def __post_init__(self) -> None:
        object.__setattr__(self, "checkpoint", str(typed_path(self.checkpoint)))
        object.__setattr__(self, "out", str(typed_path(self.out)) if self.out else "")
        if self.look:
            region_of(self.look)
        if self.robot:
            check_name(self.robot, "--robot")
        if self.broker:
            parse_broker_urls(self.broker)
        check_range("deadline", self.deadline, 0.01, MAX_DEADLINE_SECONDS)
        check_range("images", self.images, 0, 10**12)
        check_range("threads", self.threads, 0, 1024)
        check_range("seed", self.seed, 0, 2**32 - 1)
        if self.threshold != "auto":
            try:
                check_range("threshold", float(self.threshold), 0, 1)
            except ValueError:
                raise ConfigError(f"--threshold {self.threshold}: use auto, or a number from 0 to 1") from None
