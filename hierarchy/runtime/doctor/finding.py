"""One thing that was looked at, and how all of them are told: a line each, or JSON."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from broker.errors import EXIT_MACHINE, ConfigError
from broker.program.paths import like
from broker.program.plain_text import say

# Without these no run begins.
ALWAYS_NEEDED = frozenset({"python", "packages", "torch", "codecs", "disk"})
NAME_WIDTH = 10


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found. missing: it is not here. problem: it is here, and does not do.

    text: what there is, or what is wrong. remedy: what mends it, a command where one does.
    """

    name: str
    state: Literal["ok", "missing", "problem"] = "ok"
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f": {self.remedy}" if self.remedy else ""
        return f"{self.state:7}  {self.name:{NAME_WIDTH}}  {self.text}{remedy}"


def check_names(needed: Collection[str], known: Collection[str]) -> None:
    """Raise ConfigError for a name in --need that nothing has."""
    for name in needed:
        if name not in known:
            meant = like(name, list(known))
            hint = f" (did you mean {meant}?)" if meant else ""
            raise ConfigError(f"--need {name}: there is no such check{hint}; use {', '.join(known)}")


def tell(findings: Iterable[Finding], needed: Collection[str], *, as_json: bool) -> int:
    """Print what is found as soon as it is, and return the exit status: 1 where something needed is not ok."""
    needed = ALWAYS_NEEDED | set(needed)
    found = list[Finding]()
    for one in findings:
        found.append(one)
        if not as_json:
            say(str(one))
    broken = sorted(needed - {one.name for one in found if one.state == "ok"})  # or not even looked at
    if as_json:
        rows = [{**asdict(one), "needed": one.name in needed} for one in found]
        print(json.dumps({"ok": not broken, "found": rows}, indent=2))
    else:
        say(f"needed, and not ok: {', '.join(broken)}" if broken else "all that is needed is here")
    return EXIT_MACHINE if broken else 0
