"""Which run this is, whatever becomes of its outbox and checkpoint: a file of its own in the run folder."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from broker.errors import ConfigError
from broker.program.machine import refused
from broker.program.paths import typed_path
from hierarchy.runtime.checkpoint import write_json
from hierarchy.runtime.state import Layout

RUN = "run.json"
HEXADECIMAL_16 = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class RunIdentity:
    """A trainer knows by it whether a robot goes on with the network that it has for its name.

    run: 16 hexadecimal digits. former: those of the run whose weights this one began with, empty for none.
    """

    run: str
    former: str

    def __post_init__(self) -> None:
        if not HEXADECIMAL_16.fullmatch(self.run) or not HEXADECIMAL_16.fullmatch(self.former or self.run):
            raise ValueError("not 16 hexadecimal digits")


LAYOUT = Layout(kind=RunIdentity, migrations=(dict,))


def run_identity(folder: Path, weights: str) -> RunIdentity:
    """Return what run a folder holds; a new one is given its identity. Raises ConfigError.

    weights: as in `RobotConfig`, which may be the folder of a former run.
    """
    try:
        if (folder / RUN).exists():
            return _read(folder)
        former = _read(typed_path(weights)).run if (typed_path(weights) / RUN).exists() else ""
    except OSError as error:
        raise refused(str(folder / RUN), error, path=folder) from error
    return _begin(folder, former)


def go_on_as_another(folder: Path) -> RunIdentity:
    """Make of a folder's run one that goes on from it, and return its identity. Raises ConfigError.

    For a run whose outbox is gone: it numbers its class edits from 1 again, as only another run may.
    """
    return _begin(folder, _read(folder).run)


def _begin(folder: Path, former: str) -> RunIdentity:
    identity = RunIdentity(run=secrets.token_hex(8), former=former)
    try:
        write_json(folder / RUN, LAYOUT.pack(identity))
    except OSError as error:
        raise refused(str(folder / RUN), error, path=folder) from error
    return identity


def _read(folder: Path) -> RunIdentity:
    try:
        return LAYOUT.read(folder / RUN)
    except ValueError as error:
        raise ConfigError(
            f"{folder / RUN} is damaged ({error}): put a copy of it back; without it, the cloud's half of the network "
            "starts anew once the file is moved away"
        ) from error
