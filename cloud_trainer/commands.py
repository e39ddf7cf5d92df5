"""`cloud-trainer`: trains the rest of the network, for every robot at the broker."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from tyro.extras import SubcommandApp

from broker.program.paths import typed_path
from cloud_trainer.config import TrainerConfig
from hierarchy.runtime.command_line import DeviceName, run_program
from hierarchy.runtime.help import CommandHelp, run_command

app = SubcommandApp()


@app.command(name="run")
def run(config: Annotated[TrainerConfig, tyro.conf.arg(name=""), tyro.conf.OmitArgPrefixes]) -> None:
    """Train for every robot at the broker until Ctrl-C.

    Broker, trainer and robots may start in any order. --config FILE reads settings from a TOML file (see
    launch/cloud.toml); flags win over it. `robot-edge examples` has the files that help names.
    """
    from cloud_trainer.workers import check_folder, run_workers

    check_folder(config.run_path, config.workers)
    if config.workers > 1:
        run_workers(config)
    else:
        from cloud_trainer.trainer import run  # torch takes seconds to import: --help should not

        run(config)


@app.command(name="replay")
def replay(store: Path, run_dir: Path | None = None, device: DeviceName = "auto") -> None:
    """Train from a store's log, from its start, and compare with the checkpoints beside it, bit for bit.

    Use it where a run's outcome is in doubt. It changes nothing in the store. Exit status 1 where a checkpoint differs.

    Args:
        store: The store of a run: RUN_DIR/store.db.
        run_dir: Folder for the resulting checkpoints; none keeps none.
        device: Where to compute. Another kind of device rounds differently.

    """
    from cloud_trainer.replay import replay
    from cloud_trainer.store.sqlite_file import damage_explained

    store = typed_path(store)
    with damage_explained(store):
        equal = replay(store, typed_path(run_dir) if run_dir else None, device)
    if not equal:
        sys.exit(1)


HELPS = {
    "run": CommandHelp(
        command=run,
        settings=TrainerConfig,
        first="broker credentials trainer run_dir workers store_gb networks_gb page device threads",
        examples="""
            cloud-trainer run --run-dir runs/cloud
            cloud-trainer run --broker mqtts://host:8883 --credentials t1/credentials.toml
            cloud-trainer run --workers 4 --store-gb 100 --page 8080
        """,
    )
}


def main() -> None:
    def cli(arguments: Sequence[str]) -> None:
        run_command(app, "cloud-trainer", __doc__, HELPS, arguments)

    run_program("cloud-trainer", cli)
