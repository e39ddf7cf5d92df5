"""A run as its folder has it: settings, the segment as it was saved, and the frames it remembers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from broker.errors import ConfigError
from broker.wire.messages import SplitSpec
from hierarchy.edge import EdgeSegment
from hierarchy.learner import restore_weights
from hierarchy.runtime.checkpoint import load_checkpoint
from hierarchy.runtime.run_folder import former_settings
from hierarchy.runtime.settings import flat_fields
from robot_edge.learning.automatic import FROM_SCRATCH
from robot_edge.learning.frame_memory import KeptFrame, frames_in
from robot_edge.learning.segment import build_edge
from robot_edge.run.checkpoint import LAYOUT, RobotCheckpoint
from robot_edge.run.config import RobotConfig
from robot_edge.sources.encoded import UNREADABLE


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedRun:
    """segment: with the weights of the checkpoint. held_out: the frames that the run set apart."""

    segment: EdgeSegment
    split: SplitSpec
    held_out: list[KeptFrame]
    checkpoint: RobotCheckpoint


def saved_settings(
    folder: Path, *, robot: str = "", broker: str = "", credentials: str = "", names_key: str = "", look: str = ""
) -> RobotConfig:
    """Return the settings of the run in a folder, with others where they are given. Raises ConfigError."""
    former = former_settings(folder)
    if former is None:
        raise ConfigError(f"--checkpoint {folder}: there is no run with a checkpoint; name the --run-dir of a robot")
    if "source" not in former:
        raise ConfigError(f"--checkpoint {folder} is a run of another program; name the --run-dir of a robot")
    kept = {name: value for name, value in former.items() if name in flat_fields(RobotConfig)}
    kept |= {"weights": "none", "robot": robot or former.get("robot", "robot")}
    kept |= {"broker": broker or former.get("broker"), "credentials": credentials, "outbox_mb": 1.0}
    kept |= {"names_key": names_key} if names_key else {}
    kept |= {"held_out": "", "held_out_labels": ""}  # what the run was tested on is not looked at
    kept |= {"look": look} if look else {}
    return RobotConfig.from_flags(**{**FROM_SCRATCH, **kept})


def load_run(run: RobotConfig, folder: Path) -> SavedRun:
    """Return the run in a folder. run: its settings. Raises ConfigError where they do not fit."""
    saved = load_checkpoint(folder / "checkpoint", LAYOUT, "name another --checkpoint")
    segment, split, _ = build_edge(run.network)
    if saved.split != split:
        raise ConfigError(f"--checkpoint {folder} is of another split, {saved.split}, than its settings say")
    try:
        restore_weights(segment, segment.exit.head, saved.trainer.learner)
        held_out = list(frames_in(saved.held_out))
    except (RuntimeError, KeyError, IndexError, *UNREADABLE) as error:
        raise ConfigError(f"--checkpoint {folder} is damaged or of another version: {error!r}") from error
    return SavedRun(segment=segment, split=split, held_out=held_out, checkpoint=saved)
