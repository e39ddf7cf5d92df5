"""`make soak`: the long version of the tests beside it. Prints what was done and what the books say.

python -m tests.soak --kills 40
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from tests.soak.chaos import Chaos
from tests.soak.test_soak import check
from tests.warm_start import WarmStart


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Kill, cut, stall, repeat; then count."""

    kills: int = 40
    """How often broker, trainer or robot are killed."""
    seed: int = 0
    backend: Literal["mosquitto", "amqtt"] = "mosquitto"
    out: Path | None = None
    """Empty folder for the run; none is a temporary one."""


def main(settings: Settings) -> None:
    WarmStart.measures = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = settings.out or Path(temporary)
        begin = time.monotonic()
        chaos = Chaos(folder, kills=settings.kills, seed=settings.seed, backend=settings.backend)
        accounts = chaos.run()
        print(f"{time.monotonic() - begin:.0f} s, kill -9: {dict(accounts.kills)}, messages repeated: {chaos.repeated}")
        print(
            f"samples shown {accounts.expected.total():,}, taken {accounts.taken.total():,}, "
            f"trained {accounts.trained.total():,}, queued {accounts.queued.total():,}, "
            f"dropped {accounts.dropped.total():,}"
        )
        print(accounts.replay.strip())
        check(accounts)
        print("nothing was lost and nothing was trained on twice")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
