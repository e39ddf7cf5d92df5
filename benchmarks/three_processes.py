"""Runs the main job as a user does, in three processes: broker, cloud trainer, robot."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from shaped_link import shaped_link

from broker.local.server import start_local_broker


def run_main_job(
    folder: Path,
    robot_flags: Sequence[str],
    trainer_flags: Sequence[str] = (),
    *,
    cores: tuple[int, int] | None = None,
    mbit: float | None = None,
    start: Sequence[str] = ("-m",),
    former: Sequence[str] = (),
    until: str = "",
) -> dict[str, Any]:
    """Train a robot and a cloud trainer through a real broker and return the robot's summary.json.

    folder: removed first; then holds robot/, cloud/ and what the three printed. cores: pins robot and trainer. mbit:
    that a link between them carries each way, 0 for no limit, None for no link at all. start: what Python is given
    before the name of a program. former: flags of a run with whose weights the robot begins. until: what the trainer
    has to say once more, after the robot has ended, before it is stopped.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pins = [["taskset", "-c", str(core)] for core in cores] if cores else [[], []]
    with (
        start_local_broker(log=folder / "broker.log", bind="127.0.0.1" if mbit is None else "0.0.0.0") as broker,
        nullcontext(None) if mbit is None else shaped_link(broker.port, mbit) as link,
        (folder / "cloud.log").open("w") as cloud_log,
        (folder / "robot.log").open("w") as robot_log,
    ):
        common = ["--threads", "1", "--broker"]
        cloud = subprocess.Popen(
            [
                *pins[1],
                sys.executable,
                *start,
                "cloud_trainer",
                "run",
                *common,
                f"mqtt://127.0.0.1:{broker.port}",
                "--run-dir",
                str(folder / "cloud"),
                *trainer_flags,
            ],
            stderr=cloud_log,
        )

        def run_robot(name: str, flags: Sequence[str]) -> None:
            program = [*pins[0], sys.executable, *start, "robot_edge", "run", "--seed", "0", *common]
            program = [*link.prefix, *program, link.url] if link else [*program, broker.url]
            subprocess.run(
                [*program, "--run-dir", str(folder / name), *flags], stdout=robot_log, stderr=robot_log, check=True
            )

        try:
            if former:
                run_robot("former", former)
            run_robot("robot", [*robot_flags, *(["--weights", str(folder / "former")] if former else [])])
            said = (folder / "cloud.log").read_text().count(until)
            while until and (folder / "cloud.log").read_text().count(until) == said:
                time.sleep(1)
        finally:
            cloud.terminate()
            cloud.wait()
    summary: dict[str, Any] = json.loads((folder / "robot" / "summary.json").read_text())
    return summary


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def begin_of(robot: list[dict[str, Any]]) -> float:
    """Return when a robot's first step began: a line is written behind its step."""
    return float(2 * robot[0]["time"] - robot[1]["time"])


def learned_at(metrics: list[dict[str, Any]], images: int) -> float:
    """Return when so many images had been learned from."""
    return float(next(line["time"] for line in metrics if line["images"] >= images))
