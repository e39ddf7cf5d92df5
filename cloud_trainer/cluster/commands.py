"""`cloud-trainer cluster`: a trainer of many processes on Ray."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.extras import SubcommandApp

from broker.errors import ConfigError
from broker.program.plain_text import counted
from cloud_trainer.cluster.config import ClusterConfig, check_cluster_store
from hierarchy.runtime.help import CommandHelp, run_command

if TYPE_CHECKING:
    from cloud_trainer.cluster.board import Board

app = SubcommandApp()

NO_RAY = "`cloud-trainer cluster run` needs Ray: pip install 'reflexarc[cluster]'"


@app.command(name="run")
def run(config: Annotated[ClusterConfig, tyro.conf.arg(name=""), tyro.conf.OmitArgPrefixes]) -> None:
    """Train for every robot at the broker, on all cores of a machine, or on many machines, until Ctrl-C.

    One machine needs nothing else. On several, `ray start` comes first on each. The log is a PostgreSQL database.
    """
    try:
        from cloud_trainer.cluster.run import run
    except ImportError as error:
        raise ConfigError(f"{NO_RAY} ({error})") from error
    run(config)


@app.command(name="status")
def status(store: str) -> None:
    """Print the processes of a cluster, with how many robots each has, and what waits.

    Args:
        store: The cluster's store, postgresql://USER@HOST/DATABASE.

    """
    with closing(_board(store)) as board:
        members = board.members()
    if not members:
        print(f"no process of a cluster is there: is {store} the --store of `cloud-trainer cluster run`?")
    for one in members:
        its = f", {counted(one.logs, 'log')}, {one.held} of them in memory" if one.role == "actor" else ""
        print(
            f"{one.name:24} {one.place:28} {_figures(one.figures)}{its}, {one.silent:.0f} s ago"
            + (": gone" if one.gone else "")
        )


def _board(store: str) -> Board:
    """Open what a cluster's processes tell each other. Raises ConfigError and StorageError."""
    check_cluster_store(store)
    try:
        from cloud_trainer.cluster.board import Board
    except ImportError as error:
        raise ConfigError(f"{store}: {error}: pip install 'reflexarc[cluster]'") from error
    return Board(store)


def _figures(text: str) -> str:
    figures = json.loads(text or "{}")
    return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in figures.items()) or "no figures yet"


@app.command(name="move")
def move(robot: Annotated[str, tyro.conf.Positional], actor: Annotated[str, tyro.conf.Positional], store: str) -> None:
    """Let another actor train for a robot, and for those that share its network.

    The present one saves the network first. Nothing is lost, and the weights are the same.

    Args:
        robot: The robot's name.
        actor: An actor of `cloud-trainer cluster status`.
        store: The cluster's store, postgresql://USER@HOST/DATABASE.

    """
    with closing(_board(store)) as board:
        actors = [one.name for one in board.members() if one.role == "actor" and not one.gone]
        if actor not in actors:
            raise ConfigError(f"there is no actor {actor}: {', '.join(actors) or 'no cluster runs on this store'}")
        if not (log := board.log_of(robot)) or not board.move(log, actor):
            raise ConfigError(f"no robot {robot} is known")
    print(f"{log} belongs to {actor}")


HELPS = {
    "run": CommandHelp(
        command=run,
        settings=ClusterConfig,
        first="broker credentials trainer store checkpoints actors ingest run_dir networks_gb",
        examples="""
            cloud-trainer cluster run --store postgresql://trainer@localhost/robots --run-dir runs/cloud
            cloud-trainer cluster run --store ... --checkpoints s3://bucket/robots --actors 8 --ingest 2
            cloud-trainer cluster status --store postgresql://trainer@localhost/robots
            cloud-trainer cluster move r1 trainer-1 --store postgresql://trainer@localhost/robots
        """,
    )
}


def cli(arguments: Sequence[str]) -> None:
    """Run the command that the arguments name."""
    run_command(app, "cloud-trainer cluster", __doc__, HELPS, arguments)
