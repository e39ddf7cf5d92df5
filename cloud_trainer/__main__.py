"""`cloud-trainer`: trains the rest of the network, for every robot at the broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import tyro
from tyro.extras import SubcommandApp

from cloud_trainer.config import TrainerConfig
from hierarchy.command_line import run_program

app = SubcommandApp()


@app.command(name="run")
def run(config: Annotated[TrainerConfig, tyro.conf.arg(name="")]) -> None:
    """Train for every robot at the broker until Ctrl-C.

    Broker, trainer and robots may start in any order. --config FILE reads settings from a TOML file (see
    launch/cloud.toml); flags win over it.
    """
    from cloud_trainer.node import run  # torch takes seconds to import: --help should not

    run(config)


def main() -> None:
    def cli(arguments: Sequence[str]) -> None:
        app.cli(prog="cloud-trainer", description=__doc__, args=list(arguments))

    run_program("cloud-trainer", cli)


if __name__ == "__main__":
    main()
