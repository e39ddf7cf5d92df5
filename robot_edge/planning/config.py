"""Settings of `robot-edge plan`: those of a run, and what the plan has to keep to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from broker.errors import ConfigError
from broker.program.paths import typed_path
from broker.wire.topics import check_name
from hierarchy.runtime.command_line import check_range
from hierarchy.runtime.settings import from_flat
from robot_edge.planning.runtime_model import Bounds
from robot_edge.run.config import RobotConfig


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """Settings of `robot-edge plan`, beside those of the run. It finds cut, bits and bottleneck: those are not read.

    With --privacy it finds the cut alone.
    """

    run: RobotConfig
    out: str = "plan.toml"
    """File for the settings that it finds, which `robot-edge run --config FILE` takes."""
    most_memory_mb: float = 0.0
    """Memory on the robot that training may take, in megabytes: weights, gradients, momentum and activations; 0 for no
    bound."""
    least_share: float = 1 / 16
    """Bytes to send of an image at least, before compression, as a share of its raw ones. With fewer than 1/16 the
    cloud's half loses accuracy (docs/results/accuracy.md)."""
    cuts: str = ""
    """Layers to cut after, separated by commas. Default: the last of each size, at most a quarter as wide as the
    image, as an exit behind the very first layers learns little, and wider than one, as behind that is no more than a
    classifier."""
    mbit: float = 0.0
    """The link's rate in Mbit/s, to plan for another than there is now; 0 measures it."""
    most_leak: float = 0.0
    """How similar to a frame what a quick attack makes of its activation may be at most: structural similarity, 1 for a
    copy (docs/how-to/find-where-to-cut.md). Needs 320 frames of the source, and up to a minute for each cut. 1 shows
    what leaks and leaves nothing out; 0 attacks nothing."""
    verify: bool = False
    """Then run the plan, and print how fast it is beside how fast it should be; 15 % off is exit status 1."""
    verify_images: int = 4000
    """Images that --verify trains on."""
    verify_as: str = ""
    """The robot's name meanwhile. The trainer begins a new network for that name, and gives up one that it has.
    Default: ROBOT-verify."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", str(typed_path(self.out)))
        check_name(self.verifying_robot, "--verify-as")
        check_range("most-memory-mb", self.most_memory_mb, 0, 10**6)
        check_range("least-share", self.least_share, 0, 1)
        check_range("most-leak", self.most_leak, 0, 1)
        check_range("mbit", self.mbit, 0, 10**6)
        check_range("verify-images", self.verify_images, 1000, 10**7)
        if self.run.network.former_run:
            raise ConfigError(
                f"--weights {self.run.network.weights} is divided already: plan without it, for a network to begin"
            )
        if self.verify and self.run.is_live:
            raise ConfigError("--verify needs labels, which a camera has none of: plan with a folder:, a bag or sim:")
        if self.verify and self.mbit:
            raise ConfigError("--verify runs over the link that there is, not over one of --mbit: leave one out")
        if Path(self.out).is_dir():
            raise ConfigError(f"--out {self.out} is a folder: name a file, such as plan.toml")

    @classmethod
    def from_flags(cls, **flags: Any) -> PlanConfig:
        """Return the settings that flags of those names ask for. Raises ConfigError."""
        return from_flat(cls, flags)

    @property
    def chosen_cuts(self) -> tuple[str, ...]:
        """The names in --cuts."""
        return tuple(name.strip() for name in self.cuts.split(",") if name.strip())

    @property
    def verifying_robot(self) -> str:
        """The robot's name while a plan is verified."""
        return self.verify_as or f"{self.run.robot}-verify"

    @property
    def bounds(self) -> Bounds:
        """What an option has to keep to."""
        return {
            "most_memory": self.most_memory_mb * 1e6,
            # What crosses of a network that stands still, or is private, was found by measuring what is then known.
            "least_codes": 0
            if self.run.network.stands_still or self.run.network.privacy != "off"
            else self.least_share * 3 * self.run.network.image_size**2,
        }

    def run_with(
        self, cut: str, bits: int, bottleneck: int, pool: int = 0, exit_at: Literal["cut", "end"] | None = None
    ) -> RobotConfig:
        """Return the settings of a run that is divided like that. exit_at: None for where the run has it."""
        network = replace(self.run.network, cut=cut, bits=bits, bottleneck=bottleneck, pool=pool)
        return replace(self.run, network=replace(network, exit=exit_at or network.exit))
