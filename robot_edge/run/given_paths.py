"""Looks at the paths in a robot's settings, before anything is imported or built that takes time."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

from broker.errors import ConfigError, MachineError
from broker.program.paths import like, typed_path, what_is_wrong
from broker.security.names_key import load_names
from robot_edge.run.config import EvaluateConfig, RobotConfig
from robot_edge.sources.kinds import check_source
from robot_edge.sources.passwords import unmasked
from robot_edge.sources.recordings import is_same_recording
from robot_edge.sources.splits import with_splits

log = logging.getLogger("robot-edge")


def check_run(config: RobotConfig) -> None:
    """Raise ConfigError, with what may be meant, for a path of the settings at which nothing can be read or written.

    Says where a test would show nothing.
    """
    check_source(config.source.source, "--source")
    if config.source.held_out:
        check_source(config.source.held_out, "--held-out")
        if is_same_recording(unmasked(config.source.source), unmasked(config.source.held_out)):
            log.warning(
                "--held-out is what --source shows: the robot is tested on what it has learned. Without --held-out one "
                "scene in %d is set apart",
                config.source.held_out_every,
            )
    check_files(
        labels=config.source.options.labels,
        held_out_labels=config.source.held_out_labels,
        credentials=config.uplink.credentials,
        payload_key=config.uplink.payload_key,
    )
    load_names(config.uplink.names_key)
    check_folder_to_write(config.run_path, "--run-dir")
    if config.network.former_run and not (config.run_path / "checkpoint").exists():  # else it goes on with that
        check_former_run(
            config.network.former_run,
            "--weights",
            "none, default, or a state dict (.pth, .safetensors), or the run folder of a former run",
        )
    elif config.network.weights_file:
        check_files(weights=config.network.weights)


def with_parts(config: RobotConfig) -> RobotConfig:
    """Return the settings with the parts of a source that has some: to learn from, and to test on."""
    return replace(config, source=with_splits(config.source))


def check_evaluation(config: EvaluateConfig) -> None:
    """Raise ConfigError for a path in the settings of an evaluation at which nothing can be read or written."""
    check_source(config.source, "--source")
    check_files(labels=config.options.labels, credentials=config.credentials, payload_key=config.payload_key)
    load_names(config.names_key)
    check_former_run(Path(config.checkpoint), "--checkpoint", "the --run-dir of a robot")
    if config.out:
        check_folder_to_write(Path(config.out), "--out")


def check_files(**settings: str) -> None:
    """Raise ConfigError for a setting that names a file which is not there. Empty ones name none."""
    for name, text in settings.items():
        flag = f"--{name.replace('_', '-')}"
        path = typed_path(text)
        if text and (wrong := what_is_wrong(path)):
            raise ConfigError(f"{flag} {path} {wrong}")
        if text and path.is_dir():
            raise ConfigError(f"{flag} {path} is a folder; name a file")


def check_former_run(path: Path, flag: str, expected: str) -> None:
    """Raise ConfigError where a run's folder, with a checkpoint in it, is to be read and is not there."""
    if wrong := what_is_wrong(path):
        meant = like(path.name, ["default", "none"]) if flag == "--weights" else ""
        hint = f" (did you mean {flag} {meant}?)" if meant and "did you mean" not in wrong else ""
        raise ConfigError(f"{flag} {path} {wrong}{hint}; expected {expected}")
    if not (path / "checkpoint").is_dir():
        raise ConfigError(f"{flag} {path}: there is no run with a checkpoint; expected {expected}")


def check_folder_to_write(path: Path, flag: str) -> None:
    """Raise ConfigError where a folder can neither be written nor made, and MachineError where a right is missing."""
    there = path
    while not os.path.lexists(there) and there.parent != there:
        there = there.parent
    if not there.is_dir():
        raise ConfigError(f"{flag} {path}: {there} is no folder; choose another one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise MachineError(f"{flag} {path}: {there} may not be written by this user; choose another one")
