"""Which run this is, whatever becomes of its outbox and checkpoint: a file of its own in the run folder."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.errors import ConfigError
from broker.program.machine import refused
from broker.program.paths import typed_path
from broker.wire.messages import Weights
from hierarchy.runtime.checkpoint import write_json
from hierarchy.runtime.state import Layout

RUN = "run.json"
HEXADECIMAL_16 = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Beginning:
    """weights: none, the library's, a file's. digest: `weights_digest` of the cloud's half of them; empty for none."""

    weights: Weights
    digest: str

    def __post_init__(self) -> None:
        if self.digest and not HEXADECIMAL_16.fullmatch(self.digest):
            raise ValueError("not 16 hexadecimal digits")


UNKNOWN = Beginning(weights="none", digest="")


@dataclass(frozen=True)
class RunIdentity:
    """A trainer knows by it whether a robot goes on with the network that it has for its name.

    run: 16 hexadecimal digits. former: those of the run whose weights this one began with, empty for none. names_key:
    the fingerprint of the key that makes tokens of its class names, empty where they go up as they are.
    began: of a network that stands still, the weights that it began with, however many runs ago.
    """

    run: str
    former: str
    names_key: str
    began: Beginning

    def __post_init__(self) -> None:
        if not all(HEXADECIMAL_16.fullmatch(one) for one in (self.run, self.former or self.run, *self._key)):
            raise ValueError("not 16 hexadecimal digits")

    @property
    def _key(self) -> tuple[str, ...]:
        return (self.names_key,) if self.names_key else ()


def _without_key(fields: dict[str, Any]) -> dict[str, Any]:
    """Version 1 knew no keys of class names."""
    return {**fields, "names_key": ""}


def _began_somehow(fields: dict[str, Any]) -> dict[str, Any]:
    """Version 2 did not say what a network began with."""
    return {**fields, "began": {"weights": "none", "digest": ""}}


LAYOUT = Layout(kind=RunIdentity, migrations=(dict, _without_key, _began_somehow))


def run_identity(folder: Path, weights: str, names_key: str | None = None, began: Beginning = UNKNOWN) -> RunIdentity:
    """Return what run a folder holds; a new one is given its identity. Raises ConfigError.

    weights: as in `RobotConfig`, which may be the folder of a former run. names_key: the fingerprint of the key that
    the run has from now on; a run with another, of which nothing was learned, becomes a new one. None for as it is.
    began: what a new run begins with that has no former one; else it is what that began with.
    """
    try:
        if (folder / RUN).exists() and ((found := _read(folder)).names_key == names_key or names_key is None):
            return found
        former = _read(typed_path(weights)) if (typed_path(weights) / RUN).exists() else None
    except OSError as error:
        raise refused(str(folder / RUN), error, path=folder) from error
    return _begin(
        folder, former.run if former else "", names_key=names_key or "", began=former.began if former else began
    )


def check_names_key(run: Path, names_key: str, flag: str) -> None:
    """Raise ConfigError unless the run in a folder gives its classes the tokens of that key.

    names_key: its fingerprint, empty for none. flag: what named the folder. With another key the cloud would take each
    class for a new one, and without one it would be told the names.
    """
    try:
        began_with = _read(run).names_key if (run / RUN).exists() else ""
    except OSError as error:
        raise refused(str(run / RUN), error, path=run) from error
    if names_key == began_with:
        return
    if not began_with:
        raise ConfigError(
            f"{flag} {run} holds a run whose class names went up as they are: leave out --names-key, or begin anew in "
            "another --run-dir, without the weights of this one"
        )
    given = "another one" if names_key else "none"
    raise ConfigError(
        f"{flag} {run} holds a run with the --names-key of fingerprint {began_with}, and {given} is given: give the "
        "key that it began with"
    )


def go_on_as_another(folder: Path) -> RunIdentity:
    """Make of a folder's run one that goes on from it, and return its identity. Raises ConfigError.

    For a run whose outbox is gone: it numbers its class edits from 1 again, as only another run may.
    """
    before = _read(folder)
    return _begin(folder, before.run, names_key=before.names_key, began=before.began)


def _begin(folder: Path, former: str, *, names_key: str, began: Beginning) -> RunIdentity:
    identity = RunIdentity(run=secrets.token_hex(8), former=former, names_key=names_key, began=began)
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
