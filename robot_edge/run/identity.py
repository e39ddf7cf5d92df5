"""Which run this is, whatever becomes of its outbox and checkpoint: a file of its own in the run folder."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from broker.errors import ConfigError
from broker.program.paths import typed_path
from hierarchy.runtime.checkpoint import write_json

RUN = "run.json"
HEXADECIMAL_16 = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class RunIdentity:
    """A trainer knows by it whether a robot goes on with the network that it has for its name.

    run: 16 hexadecimal digits. former: those of the run whose weights this one began with, empty for none.
    """

    run: str
    former: str = ""


def run_identity(folder: Path, weights: str) -> RunIdentity:
    """Return what run a folder holds; a new one is given its identity. Raises ConfigError.

    weights: as in `RobotConfig`, which may be the folder of a former run.
    """
    try:
        if (folder / RUN).exists():
            return _read(folder)
        former = _read(typed_path(weights)).run if (typed_path(weights) / RUN).exists() else ""
        identity = RunIdentity(run=secrets.token_hex(8), former=former)
        write_json(folder / RUN, asdict(identity))
    except OSError as error:
        raise ConfigError(f"{folder / RUN}: {error}") from error
    return identity


def go_on_as_another(folder: Path) -> RunIdentity:
    """Make of a folder's run one that goes on from it, and return its identity. Raises ConfigError.

    For a run whose outbox is gone: it numbers its class edits from 1 again, as only another run may.
    """
    identity = RunIdentity(run=secrets.token_hex(8), former=_read(folder).run)
    try:
        write_json(folder / RUN, asdict(identity))
    except OSError as error:
        raise ConfigError(f"{folder / RUN}: {error}") from error
    return identity


def _read(folder: Path) -> RunIdentity:
    try:
        identity = RunIdentity(**json.loads((folder / RUN).read_text()))
        if not HEXADECIMAL_16.fullmatch(identity.run) or not HEXADECIMAL_16.fullmatch(identity.former or identity.run):
            raise ValueError("not 16 hexadecimal digits")
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{folder / RUN} is damaged ({error}): put a copy of it back; without it, the cloud's half of the network "
            "starts anew once the file is moved away"
        ) from error
    return identity
