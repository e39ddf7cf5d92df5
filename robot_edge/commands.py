"""`robot-edge`: trains the front of the network on a robot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import tyro
from tyro.extras import SubcommandApp

from hierarchy.command_line import run_program
from robot_edge.config import EvaluateConfig, RobotConfig

app = SubcommandApp()


@app.command(name="run")
def run(config: Annotated[RobotConfig, tyro.conf.arg(name="")]) -> None:
    """Train on a source of frames, and send the activations at the cut to a cloud trainer.

    Broker, trainer and robots may start in any order. --config FILE reads settings from a TOML file (see
    launch/robot.toml); flags win over it.
    """
    from robot_edge.node import run  # torch takes seconds to import: --help should not

    run(config)


@app.command(name="evaluate")
def evaluate(config: Annotated[EvaluateConfig, tyro.conf.arg(name="")]) -> None:
    """Test a run's segment on a source of frames: accuracy, calibration, latency; with --broker the cloud's half too.

    Nothing is learned, neither here nor in the cloud.
    """
    from robot_edge.evaluate import evaluate

    evaluate(config)


def main() -> None:
    def cli(arguments: Sequence[str]) -> None:
        app.cli(prog="robot-edge", description=__doc__, args=list(arguments))

    run_program("robot-edge", cli)
