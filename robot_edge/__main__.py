"""`robot-edge`: trains the front of the network on a robot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import tyro
from tyro.extras import SubcommandApp

from hierarchy.command_line import run_program
from robot_edge.config import RobotConfig
from robot_edge.record import RecordConfig
from robot_edge.record import record as record_source_of

app = SubcommandApp()


@app.command(name="run")
def run(config: Annotated[RobotConfig, tyro.conf.arg(name="")]) -> None:
    """Train on a source of frames, and send the activations at the cut to a cloud trainer.

    Broker, trainer and robots may start in any order. --config FILE reads settings from a TOML file (see
    launch/robot.toml); flags win over it.
    """
    from robot_edge.node import run  # torch takes seconds to import: --help should not

    run(config)


@app.command(name="record")
def record(config: Annotated[RecordConfig, tyro.conf.arg(name="")]) -> None:
    """Record frames and labels of a source into a bag, which --source bag:FILE replays to the same training."""
    record_source_of(config)


@app.command(name="cameras")
def cameras() -> None:
    """List the cameras that this machine has, as --source takes them."""
    from robot_edge.sources.camera import list_cameras

    for path, about in list_cameras():
        print(f"camera:{path}  {about}")
    if not list_cameras():
        print("no cameras here (no /dev/video*)")


def main() -> None:
    def cli(arguments: Sequence[str]) -> None:
        app.cli(prog="robot-edge", description=__doc__, args=list(arguments))

    run_program("robot-edge", cli)


if __name__ == "__main__":
    main()
