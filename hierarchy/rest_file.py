"""The cloud's half of a network as a folder, which a robot joins with its front."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from broker.errors import ConfigError
from broker.wire.messages import SplitSpec
from hierarchy.cloud import CloudSegment
from hierarchy.learner import LearnerState, restore_weights
from hierarchy.random_state import TorchRandom
from hierarchy.runtime.checkpoint import load_checkpoint, save_checkpoint
from hierarchy.runtime.state import Layout


@dataclass(frozen=True, kw_only=True, eq=False)
class RestState:
    """split: that it was trained behind. stands_still: as of `CloudSegment`. learner: without momentum."""

    split: SplitSpec
    stands_still: bool
    learner: LearnerState


LAYOUT = Layout(kind=RestState, migrations=(dict,))


def save_rest(folder: Path, state: RestState) -> None:
    """Write the half. Raises OSError."""
    save_checkpoint(folder, LAYOUT, state)


def load_rest(folder: Path, split: SplitSpec) -> CloudSegment:
    """Return the half behind a split. Raises ConfigError where it is another's, or damaged."""
    state = load_checkpoint(folder, LAYOUT, "name a folder that `cloud-trainer export` wrote")
    if state.split != split:
        raise ConfigError(f"--rest {folder} belongs behind another front ({state.split}) than the run's ({split})")
    with TorchRandom(0, torch.device("cpu")):
        segment = CloudSegment(split, weights="none")
    segment.stands_still = state.stands_still
    try:
        restore_weights(segment, segment.head, state.learner)
    except RuntimeError as error:
        raise ConfigError(f"--rest {folder} is damaged: {error}") from error
    return segment
