"""`cloud-trainer`: trains the rest of the network, for every robot at the broker."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.extras import SubcommandApp

from broker.errors import ConfigError
from broker.program.completion import Shell, completion_script
from broker.program.paths import typed_path
from cloud_trainer.config import TrainerConfig
from cloud_trainer.doctor import DoctorConfig
from hierarchy.runtime.command_line import DeviceName, run_program, with_config_file
from hierarchy.runtime.help import CommandHelp, run_command

app = SubcommandApp()


@app.command(name="run")
def run(config: Annotated[TrainerConfig, tyro.conf.arg(name=""), tyro.conf.OmitArgPrefixes]) -> None:
    """Train for every robot at the broker until Ctrl-C.

    Broker, trainer and robots may start in any order. --config FILE reads settings from a TOML file (see
    launch/cloud.toml); flags win over it. `robot-edge examples` has the files that help names.
    """
    from cloud_trainer.trainer import run  # torch takes seconds to import: --help should not

    run(config)


@app.command(name="replay")
def replay(store: str, run_dir: Path | None = None, device: DeviceName = "auto", checkpoints: str = "") -> None:
    """Train from a store's log, from its start, and compare with the checkpoints beside it, bit for bit.

    Use it where a run's outcome is in doubt. It changes nothing in the store. Exit status 1 where a checkpoint differs.

    Args:
        store: The store of a run: RUN_DIR/store.db, or postgresql://USER@HOST/DATABASE.
        run_dir: Folder for the resulting checkpoints; none keeps none.
        device: Where to compute. Another kind of device rounds differently.
        checkpoints: Where the checkpoints of a store in PostgreSQL are: a run's folder, or a URL.

    """
    from cloud_trainer.checkpoints import checkpoint_place
    from cloud_trainer.replay import replay
    from cloud_trainer.store.opening import store_place
    from cloud_trainer.store.sqlite_file import damage_explained

    place = store_place(store)
    with damage_explained(store):
        out = typed_path(run_dir) if run_dir else None
        equal = replay(place, out, device, checkpoint_place(checkpoints) if checkpoints else None)
    if not equal:
        sys.exit(1)


@app.command(name="export")
def export(store: str, robot: str, out: Path, checkpoints: str = "") -> None:
    """Write the cloud's half of a robot's network, which `robot-edge export RUN --part whole --rest OUT` joins.

    Frames never leave the robot, so the whole network is put together, and compared with the run, where these are.

    Args:
        store: The store of a run: RUN_DIR/store.db, or postgresql://USER@HOST/DATABASE.
        robot: The robot whose network it is; of a fleet's robot the fleet's.
        out: Folder to write.
        checkpoints: Where the checkpoints of a store in PostgreSQL are: a run's folder, or a URL.

    """
    from cloud_trainer.checkpoints import checkpoint_place
    from cloud_trainer.export import export
    from cloud_trainer.store.opening import store_place
    from cloud_trainer.store.sqlite_file import damage_explained

    place, folder = store_place(store), typed_path(out)
    beside = place.parent if isinstance(place, Path) else ""
    if not (checkpoints or beside):
        raise ConfigError(f"{store} has no folder that checkpoints could be in: name it, --checkpoints FOLDER or URL")
    with damage_explained(store):
        half = export(place, checkpoint_place(checkpoints or beside), robot, folder)
    print(f"{len(half.learner.classes)} classes behind {half.learner.steps:,} steps: in {folder}")
    print(f"On the robot: robot-edge export RUN --part whole --rest {folder}")


@app.command(name="store")
def store(
    what: Annotated[Literal["move"], tyro.conf.Positional],
    source: Annotated[str, tyro.conf.Positional],
    target: Annotated[str, tyro.conf.Positional],
    source_checkpoints: str = "",
    target_checkpoints: str = "",
) -> None:
    """Move a run from a file to a PostgreSQL database, or back: `cloud-trainer store move FROM TO`.

    Nobody may have the run open. What was moved is left where it was, and marked as moved.

    Args:
        what: move
        source: The run's store: RUN_DIR/store.db, or postgresql://USER@HOST/DATABASE.
        target: Where it is to be, likewise. No run may be there.
        source_checkpoints: Where its checkpoints are: a folder, or a URL. Default: the folder of a file.
        target_checkpoints: Where they are to be. Default: the folder of a file.

    """
    from cloud_trainer.checkpoints import checkpoint_place
    from cloud_trainer.moving import Run, move
    from cloud_trainer.store.opening import store_place
    from cloud_trainer.store.sqlite_file import damage_explained

    runs = list[Run]()
    for one, checkpoints in ((source, source_checkpoints), (target, target_checkpoints)):
        place = store_place(one)
        if isinstance(place, str) and not checkpoints:
            raise ConfigError(
                f"{one} has no folder that checkpoints could be in: say where, "
                f"--{'source' if one == source else 'target'}-checkpoints FOLDER or URL"
            )
        beside = place.parent if isinstance(place, Path) else ""
        runs.append(Run(store=place, checkpoints=checkpoint_place(checkpoints or beside)))
    with damage_explained(source):
        logs = move(*runs)
    print(f"moved {len(logs)} logs to {target}")


@app.command(name="doctor")
def doctor(config: Annotated[DoctorConfig, tyro.conf.arg(name=""), tyro.conf.OmitArgPrefixes]) -> None:
    """Say what is here of what a trainer needs, a line each, and what mends the rest.

    Python, PyTorch, device, codecs, disk, broker, other trainers, clock and extras. Exit status 1 where something
    needed is not ok.
    """
    sys.exit(config.examine("trainer", config.trainer))


@app.command(name="completion")
def completion(shell: Annotated[Shell, tyro.conf.Positional]) -> None:
    """Print what a shell needs to complete commands and flags: save it where the shell looks (docs/how-to/install.md).

    Args:
        shell: bash, zsh or fish.

    """
    print(completion_script(app.cli, "cloud-trainer", shell))


HELPS = {
    "run": CommandHelp(
        command=run,
        settings=TrainerConfig,
        first="broker credentials trainer run_dir store store_gb networks_gb page device threads",
        examples="""
            cloud-trainer run --run-dir runs/cloud
            cloud-trainer run --broker mqtts://host:8883 --credentials t1/credentials.toml
            cloud-trainer run --store-gb 100 --page 8080
        """,
    )
}


def main() -> None:
    def cli(arguments: Sequence[str]) -> None:
        if arguments[:1] == ["cluster"]:
            from cloud_trainer.cluster.commands import cli as cluster

            cluster(with_config_file(arguments[1:]))
            return
        run_command(app, "cloud-trainer", __doc__, HELPS, arguments)

    run_program("cloud-trainer", cli)
