"""Where a live robot looks after a restart, whatever was drawn on its page: a file of its own in the run folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from broker.errors import ConfigError
from broker.program.machine import refused
from hierarchy.runtime.checkpoint import write_json
from hierarchy.runtime.run_folder import RunFolder
from hierarchy.runtime.state import Layout
from robot_edge.learning.framed import framing_for
from robot_edge.learning.framing import Framing, Region, parse_region
from robot_edge.learning.settings import NetworkSettings

LOOK = "look.json"

log = logging.getLogger("robot-edge")


@dataclass(frozen=True)
class KeptLook:
    """now: where to look, said while the robot ran. given: what --look was then; another --look counts for more."""

    given: str
    now: str

    def __post_init__(self) -> None:
        try:
            parse_region(self.now)
        except ConfigError as error:
            raise ValueError(str(error)) from error


LAYOUT = Layout(kind=KeptLook, migrations=())


def framing_of(folder: Path, network: NetworkSettings) -> Framing:
    """Return how the run in a folder sees its frames: where it looked last, unless --look is another since.

    Raises ConfigError.
    """
    kept, framing = _read(folder), framing_for(network)
    if kept is None or kept.given == network.look:
        return replace(framing, region=parse_region(kept.now)) if kept else framing
    log.info("looks at %s, as --look says, and no longer at %s, which was chosen while it ran", network.look, kept.now)
    return framing


def _read(folder: Path) -> KeptLook | None:
    try:
        return LAYOUT.read(folder / LOOK) if (folder / LOOK).exists() else None
    except OSError as error:
        raise refused(str(folder / LOOK), error, path=folder) from error
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"{folder / LOOK} is damaged ({error}): remove it, and the robot looks as --look says"
        ) from error


def keep_look(folder: RunFolder, network: NetworkSettings, region: Region) -> None:
    """Have the run look there after a restart, too."""
    try:
        write_json(folder.path / LOOK, LAYOUT.pack(KeptLook(given=network.look, now=str(region))))
    except OSError as error:
        folder.disk.failed(LOOK, error, ", after a restart the robot looks where it did before")
    else:
        folder.disk.written(LOOK)
