"""All that is looked at for either end, in the order in which it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated

import tyro

from broker.program.paths import typed_path
from broker.wire.topics import Role
from hierarchy.runtime.command_line import DeviceName
from hierarchy.runtime.doctor.finding import Finding, check_names, tell
from hierarchy.runtime.doctor.machine import codecs, computing, disk, python
from hierarchy.runtime.doctor.packages import extra_names, packages
from hierarchy.runtime.doctor.peers import peers

CHECKS = ("python", "packages", "torch", "device", "codecs", "disk", "broker", "trainer", "clock")


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What to look at, for whichever end."""

    need: tuple[str, ...] = ()
    """Names of lines that have to be ok, too, as in: --need trainer camera page. Else the exit status is 1."""
    broker: str = ""
    """URL of the broker, which then has to let this end in. Default: look whether one is on this machine."""
    credentials: str = ""
    """TOML file with what the broker asks for, as for `run`."""
    payload_key: str = ""
    """File with the keys that payloads are sealed with, as for `run`."""
    run_dir: str = "runs"
    """Folder of runs. Its disk is looked at."""
    device: DeviceName = "auto"
    """Where to compute. One that is named has to be there."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON."""

    def examine(
        self, role: Role, name: str, further: Callable[[], Iterable[Finding]] = tuple, checks: Iterable[str] = ()
    ) -> int:
        """Print what is found, and return the exit status. Raises ConfigError for a name that no line has.

        name: of the robot, or trainer. further: looks at what this end alone needs, under the names of ``checks``.
        """
        known = [*CHECKS, *checks]
        check_names(self.need, [*known, *(one for one in extra_names() if one not in known)])
        needed = {*self.need, *(["broker"] if self.broker else []), *(["device"] if self.device != "auto" else [])}

        def findings() -> Iterator[Finding]:
            yield from python()
            installed, *extras = packages()
            yield installed
            yield from computing(self.device)
            yield from codecs()
            yield from further()
            yield from disk(typed_path(self.run_dir))
            yield from peers(role, name, self.broker, self.credentials, self.payload_key)
            yield from (one for one in extras if one.name not in known)

        return tell(findings(), needed, as_json=self.json)
