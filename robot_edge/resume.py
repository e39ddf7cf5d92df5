"""Taking a run up again: which settings must be the same, and what a checkpoint holds besides the network. No I/O."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from broker.errors import ConfigError
from hierarchy.checkpoint import Parts
from hierarchy.device import Compute
from hierarchy.rehearsal import BalancedMemory
from robot_edge.batches import Pixels
from robot_edge.config import RobotConfig

# What a run may be taken up with another value of: it changes neither the network nor which frames come, and in which
# order; a camera's never come again anyway. A lower learning rate is what a run needs that has diverged.
FREE = {
    "broker",
    "credentials",
    "run_dir",
    "when_full",
    "outbox_mb",
    "durable",
    "catch_up",
    "checkpoint_every",
    "learning_rate",
    "device",
    "threads",
    "rate",
    "data_dir",
    "width",
    "height",
    "fps",
    "exposure",
}
# The source may also be shown for longer; with phases that would change which frame comes when.
FREE_WITHOUT_PHASES = {"epochs", "images"}


def check_same_run(former: dict[str, Any], config: RobotConfig) -> None:
    """Raise ConfigError, which names the setting, unless a run with those former settings can go on with these."""
    if "source" not in former:
        raise ConfigError(f"{config.run_path} holds a run of another program: choose another --run-dir")
    free = FREE if config.phases else FREE | FREE_WITHOUT_PHASES
    advice = "choose another --run-dir, or take the run up with the settings in its config.toml"
    settings = config.as_toml()  # passwords masked, as they are in the former ones
    for one in fields(RobotConfig):
        before = former.get(one.name, "" if one.default is MISSING else one.default)
        now = settings.get(one.name, "")
        if one.name not in free and before != now:
            flag = f"--{one.name.replace('_', '-')}"
            raise ConfigError(f"{config.run_path} holds a run with {flag} {before!r}, not {now!r}: {advice}")


def pack_compute(compute: Compute) -> dict[str, Any]:
    """Return how the network is computed, as JSON can hold it."""
    return {"device": compute.device.type, "dtype": compute.dtype_name, "channels_last": compute.channels_last}


def unpack_compute(about: dict[str, Any] | None, device: torch.device) -> Compute | None:
    """Return how the network was computed; None where that was on another kind of device, or is not known."""
    if about is None or about["device"] != device.type:
        return None
    return Compute.named(device, about["dtype"], channels_last=about["channels_last"])


def pack_frames(memory: BalancedMemory[Pixels]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a memory's frames, uint8 (N, H, W, 3), with their labels, and what goes into the checkpoint's JSON."""
    samples = memory.all()
    classes = list(dict.fromkeys(name for name, _ in samples))
    about = {"classes": classes, "random": memory.random_state()}
    if not samples:
        return {}, about
    frames = torch.from_numpy(np.stack([frame for _, frame in samples]))
    labels = torch.tensor([classes.index(name) for name, _ in samples])
    return {"frames": frames, "labels": labels}, about


def unpack_frames(memory: BalancedMemory[Pixels], tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Give a memory the frames that `pack_frames` returned."""
    names = [about["classes"][label] for label in tensors["labels"].tolist()] if tensors else []
    # A view would keep all frames in memory as long as one of them is.
    frames = [frame.numpy().copy() for frame in tensors["frames"]] if tensors else []
    memory.restore(zip(names, frames, strict=True), about["random"])


def checkpoint_error(folder: Path, error: Exception) -> ConfigError:
    """Return the error of a checkpoint that this run cannot go on from."""
    return ConfigError(
        f"the run in {folder} cannot go on from its checkpoint ({type(error).__name__}: {error}): choose another "
        f"--run-dir, and start from its weights with --weights {folder}"
    )


def checkpoint_parts(
    trainer: Parts, rehearsal: dict[str, Tensor], held_out: dict[str, Tensor], batcher: dict[str, NDArray[Any]]
) -> Parts:
    """Return all tensors of a robot's checkpoint."""
    arrays = {name: torch.from_numpy(array) for name, array in batcher.items()}
    return {**trainer, "rehearsal": rehearsal, "held_out": held_out, "batcher": arrays}
