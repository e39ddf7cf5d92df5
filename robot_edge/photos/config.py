"""Settings of `robot-edge teach-photos`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from broker.program.paths import typed_path
from broker.wire.topics import check_name
from hierarchy.runtime.command_line import check_range
from hierarchy.runtime.page.options import PageOptions
from hierarchy.runtime.settings import flattened, from_flat
from robot_edge.learning.automatic import is_untouched, of_camera
from robot_edge.learning.settings import LearningSettings, NetworkSettings
from robot_edge.uplink.settings import UplinkSettings


@dataclass(frozen=True, kw_only=True)
class PhotosConfig:
    """Settings of a robot that is taught photos. Without any of the network it begins as a camera's does."""

    photos: str
    """Folder with one sub-folder of photos for each class, which has the class's name."""
    held_out: str = ""
    """Another such folder, of photos to judge by. Default: one photo in --keep-back of each class."""
    keep_back: int = 4
    """One photo in so many of a class is kept back to judge by, and never taught."""
    each: int = 20
    """Photos of a class in its lesson at most, and as many to judge by."""
    per_second: float = 4.0
    """Photos shown in a second."""
    robot: str = "photos"
    """The robot's name; no other robot at the broker may have it."""
    run_dir: str = ""
    """Folder for the run, which `robot-edge run` goes on with. Default: runs/ROBOT-DATE-TIME."""
    threads: int = 0
    """Processor cores for PyTorch; 0: all but one."""
    seed: int = -1
    """Seed of which photos are taught, and of the robot. -1: 0 for the photos, and a secret one for the robot."""
    network: NetworkSettings = field(default_factory=NetworkSettings)
    learning: LearningSettings = field(default_factory=LearningSettings)
    uplink: UplinkSettings = field(default_factory=UplinkSettings)
    page: PageOptions = field(default_factory=PageOptions)

    def __post_init__(self) -> None:
        object.__setattr__(self, "photos", str(typed_path(self.photos)))
        object.__setattr__(self, "held_out", str(typed_path(self.held_out)) if self.held_out else "")
        if is_untouched(self.network):
            object.__setattr__(self, "network", of_camera(self.network))
        check_name(self.robot, "--robot")
        check_range("keep-back", self.keep_back, 2, 1000)
        check_range("each", self.each, 1, 10_000)
        check_range("per-second", self.per_second, 0.1, 100)
        check_range("threads", self.threads, 0, 1024)
        check_range("seed", self.seed, -1, 2**32 - 1)

    @classmethod
    def from_flags(cls, **flags: Any) -> PhotosConfig:
        """Return the settings that flags of those names ask for. Raises ConfigError."""
        return from_flat(cls, flags)

    @property
    def of_robot(self) -> dict[str, Any]:
        """The settings of the robot, by their names, but for its name and broker."""
        groups = (self.network, self.learning, self.uplink, self.page)
        settings = {name: value for group in groups for name, value in flattened(group).items()}
        del settings["broker"]
        more = {"run_dir": self.run_dir, "threads": self.threads} if self.threads else {"run_dir": self.run_dir}
        return {**settings, **more, "seed": self.seed}
