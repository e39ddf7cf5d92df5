"""How near a whole run comes to its slowest stage alone, over links of several rates; and so how well plans predict.

    python benchmarks/pipeline.py --data PATH/cifar10

For each link `robot-edge plan --verify`: it measures robot, link and trainer, each on its own, and then runs the plan.
Robot and trainer have a core each, with a real broker and a shaped link between them. Its figures are in
docs/results/planning.md: a run's time is 1.00 of its slowest stage's where all others hide behind that one.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import tyro
from recording import Table, record
from shaped_link import shaped_link

from broker.local.server import start_local_broker

VERDICT = re.compile(r"predicted ([\d,]+) images/s, observed ([\d,]+)")
# Of the plan's row in the table: the last column.
STAGE = re.compile(r"│ (robot|link|cloud) +│")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A run beside its slowest stage."""

    data: Path
    """Folder with train/."""
    links: tuple[float, ...] = (0.0, 1.1, 0.15)
    """Mbit/s each way; 0 for no limit."""
    repeats: int = 3
    images: int = 4000
    """Of the run; a link so slow that it is the slowest takes half a minute for a thousand."""
    out: Path = Path("runs/benchmarks/pipeline")
    cores: tuple[int, int] = (0, 1)
    """Of robot and cloud."""


class Run(NamedTuple):
    """The stage that is the slowest alone, and images a second: what it would allow, and what came of it."""

    stage: str
    predicted: float
    observed: float


def main(settings: Settings) -> None:
    table = Table(
        "A run beside its slowest stage",
        *("link, Mbit/s", "slowest stage", "predicted, images/s", "observed, images/s"),
        *("time of the run / of its slowest stage", "each run"),
    )
    for mbit in settings.links:
        runs = [measure(settings, mbit) for _ in range(settings.repeats)]
        ratios = sorted(run.predicted / run.observed for run in runs)
        middle = sorted(runs, key=lambda run: run.predicted / run.observed)[len(runs) // 2]
        table.row(
            *(f"{mbit:g}" if mbit else "no limit", middle.stage, round(middle.predicted), round(middle.observed)),
            *(round(statistics.median(ratios), 2), ", ".join(f"{one:.2f}" for one in ratios)),
        )
    record(table)


def measure(settings: Settings, mbit: float) -> Run:
    shutil.rmtree(settings.out, ignore_errors=True)
    settings.out.mkdir(parents=True)
    robot_core, cloud_core = (["taskset", "-c", str(core), sys.executable, "-m"] for core in settings.cores)
    with (
        start_local_broker(bind="0.0.0.0") as broker,
        shaped_link(broker.port, mbit) as link,
        (settings.out / "cloud.log").open("w") as log,
    ):
        near = f"--broker mqtt://127.0.0.1:{broker.port} --run-dir {settings.out}/cloud --practice 0 --threads 1"
        cloud = subprocess.Popen([*cloud_core, "cloud_trainer", "run", *near.split()], stderr=log)
        flags = f"--broker {link.url} --source folder:{settings.data}/train --epochs 1000 --cuts layer2 --threads 1"
        flags += f" --out {settings.out}/plan.toml --verify --verify-images {settings.images}"
        try:
            plan = [*link.prefix, *robot_core, "robot_edge", "plan", *flags.split()]
            # Its exit status is 1 where the prediction was wrong by more than it may be, which is a result, too.
            done = subprocess.run(plan, stdout=subprocess.PIPE, text=True, check=False)
        finally:
            cloud.terminate()
            cloud.wait()
    (settings.out / "plan.txt").write_text(done.stdout)
    stage, verdict = STAGE.search(done.stdout), VERDICT.search(done.stdout)
    if not (stage and verdict):
        raise RuntimeError(f"the plan says nothing of how it went:\n{done.stdout}")
    predicted, observed = (float(one.replace(",", "")) for one in verdict.groups())
    return Run(stage[1], predicted, observed)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
