"""Taking a run up again: which settings must be the same, and what to say where it cannot be. No I/O."""

from __future__ import annotations

from dataclasses import MISSING, replace
from pathlib import Path
from typing import Any

import torch

from broker.errors import ConfigError
from hierarchy.device import Compute
from hierarchy.runtime.settings import flat_fields
from robot_edge.learning.automatic import FROM_SCRATCH, OF_WHAT_CROSSES
from robot_edge.learning.settings import NetworkSettings
from robot_edge.run.config import RobotConfig

# What a run may be taken up with another value of: it changes neither the network nor which frames come, and in which
# order; a camera's never come again anyway. A lower learning rate is what a run needs that has diverged.
FREE = {
    "broker",
    "credentials",
    "names_key",  # a file that may have moved; which key it holds is in run.json
    "payload_key",
    "run_dir",
    "fleet",
    "share",
    "when_full",
    "outbox_mb",
    "durable",
    "checkpoint_every",
    "practice",
    "threshold",
    "ask_deadline",
    "predictions_per_second",
    "prediction_topic",
    "learning_rate",
    "device",
    "threads",
    "rate",
    "encode_anew",
    "least_bits",
    "data_dir",
    "width",
    "height",
    "fps",
    "exposure",
    "page",
    "page_host",
    "page_password_file",
    "track",
    "home_assistant",
}
# The source may also be shown for longer; with phases that would change which frame comes when.
FREE_WITHOUT_PHASES = {"epochs", "images"}
# A live robot's frames never come again, and it may look elsewhere while it runs. All that it remembers has one --fit.
FREE_WHILE_LIVE = {"look"}


def check_same_run(former: dict[str, Any], config: RobotConfig) -> None:
    """Raise ConfigError, which names the setting, unless a run with those former settings can go on with these."""
    if "source" not in former:
        raise ConfigError(f"{config.run_path} holds a run of another program: choose another --run-dir")
    free = FREE if config.source.phases else FREE | FREE_WITHOUT_PHASES
    free = free | FREE_WHILE_LIVE if config.is_live else free
    advice = (
        f"choose another --run-dir, with --weights {config.run_path} to go on from what it learned, or take the run up "
        "with the settings in its config.toml"
    )
    settings = config.as_toml()  # passwords masked, as they are in the former ones
    fields = flat_fields(RobotConfig)
    for name in sorted(fields, key=lambda name: name not in OF_WHAT_CROSSES):  # else what these shape would be named
        one = fields[name]
        before = former.get(name, FROM_SCRATCH.get(name, "" if one.default is MISSING else one.default))
        now = settings.get(name, "")
        if name not in free and before != now:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{config.run_path} holds a run with {flag} {before!r}, not {now!r}: {advice}")


def check_still_sealed(former: dict[str, Any], run: Path, *, is_sealed: bool) -> None:
    """Raise ConfigError where payloads of a run were sealed and would go in the clear from now on."""
    if (key := former.get("payload_key")) and not is_sealed:
        raise ConfigError(
            f"{run} holds a run whose payloads were sealed with --payload-key {key}, and now no key is given: give it "
            "again, or choose another --run-dir to send in the clear"
        )


def sealed_so_far(former: dict[str, Any] | None, *, is_sealed: bool) -> str:
    """Say that a run begins with the weights of one whose payloads were sealed, and its own are not; else nothing.

    former: settings of that run.
    """
    key = (former or {}).get("payload_key")
    if not key or is_sealed:
        return ""
    return (
        f"the run whose weights this one begins with sealed its payloads; those of this one go up in the clear. "
        f"--payload-key {key} seals them"
    )


def with_key(config: RobotConfig, named: Path | None, former: dict[str, Any] | None) -> RobotConfig:
    """Return the settings with the file of the key that payloads are sealed with, for whoever goes on with the run.

    named: by the credentials, and used where no flag names one. former: settings of the run so far, which may have had
    a broker when this process has none.
    """
    key = config.uplink.payload_key or (str(named) if named else (former or {}).get("payload_key", ""))
    return replace(config, uplink=replace(config.uplink, payload_key=key))


def taken_over(asked: NetworkSettings, now: NetworkSettings) -> list[str]:
    """Return what to say of the privacy that a run takes over from the one whose weights it begins with.

    asked: settings as they were given, now: as they are with those of the former run.
    """
    return [
        f"--{name} {getattr(now, name)}, as of the run whose weights this one begins with; --{name} "
        f"{FROM_SCRATCH[name]} begins without"
        for name in OF_WHAT_CROSSES
        if getattr(asked, name) != getattr(now, name) != FROM_SCRATCH[name]
    ]


def pack_compute(compute: Compute) -> dict[str, Any]:
    """Return how the network is computed, as JSON can hold it."""
    return {"device": compute.device.type, **compute.settings}


def unpack_compute(saved: dict[str, Any], device: torch.device) -> Compute | None:
    """Return how the network was computed; None where that was on another kind of device."""
    if saved["device"] != device.type:
        return None
    return Compute.from_settings(device, saved)


def checkpoint_error(folder: Path, error: Exception) -> ConfigError:
    """Return the error of a checkpoint that this run cannot go on from."""
    return ConfigError(
        f"the run in {folder} cannot go on from its checkpoint ({type(error).__name__}: {error}): choose another "
        f"--run-dir, and start from its weights with --weights {folder}"
    )


def without_checkpoint(checkpoint: Path) -> str:
    """Say what to do where a run's checkpoint cannot be read."""
    return (
        f"put a copy of it back, or move {checkpoint} away: then the robot learns once more from the start of its "
        "source, and sends only what it has not sent before"
    )
