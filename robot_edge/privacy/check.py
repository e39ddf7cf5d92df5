"""Looks at the paths in an audit's settings, before anything is imported or built that takes time."""

from __future__ import annotations

from pathlib import Path

from broker.errors import ConfigError, SourceError
from robot_edge.privacy.config import PrivacyConfig
from robot_edge.run.given_paths import check_files, check_folder_to_write, check_former_run
from robot_edge.sources.kinds import check_source
from robot_edge.sources.listing import list_pictures


def check_privacy(config: PrivacyConfig) -> None:
    """Raise ConfigError for a path in the settings of an audit at which nothing can be read or written."""
    check_former_run(Path(config.checkpoint), "--checkpoint", "the --run-dir of a robot")
    check_source(config.source, "--source")
    if config.attacker_source:
        check_source(config.attacker_source, "--attacker-source")
    if config.attribute:
        _check_attribute(Path(config.attribute))
    check_files(payloads=config.payloads, labels=config.options.labels)
    check_folder_to_write(Path(config.out or config.checkpoint), "--out")


def _check_attribute(path: Path) -> None:
    try:
        values = {value for _, value in list_pictures(path).pictures}
    except SourceError as error:
        raise ConfigError(f"--attribute: {error}") from error
    if len(values) < 2:
        raise ConfigError(f"--attribute {path} has one sub-folder: give one for each of two values")
