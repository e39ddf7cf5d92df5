"""Looks at the paths in an audit's settings, before anything is imported or built that takes time."""

from __future__ import annotations

from pathlib import Path

from broker.errors import ConfigError, SourceError
from robot_edge.privacy.config import PrivacyConfig
from robot_edge.run.given_paths import check_files, check_folder_to_write, check_former_run
from robot_edge.sources.kinds import check_source


def check_privacy(config: PrivacyConfig) -> None:
    """Raise ConfigError for a path in the settings of an audit at which nothing can be read or written."""
    check_former_run(Path(config.checkpoint), "--checkpoint", "the --run-dir of a robot")
    check_source(config.source, "--source")
    if config.attacker_source:
        check_source(config.attacker_source, "--attacker-source")
    if config.attribute:
        try:
            check_source(f"folder:{config.attribute}")
        except SourceError as error:
            raise ConfigError(f"--attribute: {error}") from error
    check_files(payloads=config.payloads, labels=config.options.labels)
    if config.out:
        check_folder_to_write(Path(config.out), "--out")
