"""Which trackers there are, and the setting that names some of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass

from broker.errors import ConfigError


@dataclass(frozen=True)
class Tracker:
    """package: what has to be there to import. may_send: whether it can be told to send figures to another machine."""

    package: str
    may_send: bool
    has_pictures: bool = False


TRACKERS: Mapping[str, Tracker] = {
    "tensorboard": Tracker("tensorboard", may_send=False),
    "mlflow": Tracker("mlflow", may_send=True),
    "wandb": Tracker("wandb", may_send=True),
    "trackio": Tracker("trackio", may_send=True),
    "rerun": Tracker("rerun", may_send=False, has_pictures=True),
}


@dataclass(frozen=True, kw_only=True)
class TrackOptions:
    """Trackers and viewers. Both ends have them."""

    track: str = ""
    """Trackers and viewers that are told figures, per-class accuracy and confusion, with commas between: tensorboard,
    mlflow, wandb, trackio, rerun (docs/how-to/watch-a-run.md). They write into the run's folder, and send nothing
    unless their own variables say so. Only rerun is shown pictures, on the robot. Default: none."""

    def __post_init__(self) -> None:
        for name in self.trackers:
            if name not in TRACKERS:
                raise ConfigError(f"--track {name}: use {', '.join(TRACKERS)}, or several with commas between")

    @property
    def trackers(self) -> tuple[str, ...]:
        """The trackers, each once."""
        return tuple(dict.fromkeys(filter(None, (one.strip() for one in self.track.split(",")))))

    def check_installed(self) -> None:
        """Raise ConfigError where a tracker's package is missing."""
        for name in self.trackers:
            if importlib.util.find_spec(TRACKERS[name].package) is None:
                raise ConfigError(f"--track {name} takes a package that is missing: pip install 'reflexarc[{name}]'")
