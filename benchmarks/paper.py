"""The paper's result: training time over links of several rates, against sending frames to the cloud.

    python benchmarks/paper.py --data PATH/cifar10

Robot and cloud are processes on a core each, with a real broker and a shaped link between them. Measured is the time
from the first image to the last training step, of

- raw: frames go up as they are, and the cloud trains the whole network (the paper's baseline; here sending and training
  overlap, which the paper's does not);
- JPEG: the same with encoded frames;
- robot: the whole network is trained on the robot;
- ours: the divided network, in both places.

Accuracy is that of the whole network, and of ours at the exit and in the cloud, after as many images. Each result is
kept in --out, so an interrupted benchmark goes on where it was. Draws its
figures, which are in docs/results/slow-link.md.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tyro
from accuracy import kept
from recording import Table, percent, record
from shaped_link import shaped_link
from three_processes import begin_of, learned_at, metrics_of, run_main_job

from broker.local.server import start_local_broker
from robot_edge.planning.edge_timing import memory_of
from robot_edge.run.config import RobotConfig

HERE = Path(__file__).parent
METHODS = ("raw", "JPEG", "robot", "ours")
# Where each network is cut: as `robot-edge plan --mbit 1.1` advises.
CUTS = {"resnet18": "layer2", "vgg16_bn": "features.22"}
BITS, CHANNELS = 2, 16


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Training time over the link's rate."""

    data: Path
    """Folder with train/ and test/."""
    out: Path = Path("runs/benchmarks/paper")
    """Where results are kept."""
    backbones: tuple[str, ...] = ("resnet18", "vgg16_bn")
    links: tuple[float, ...] = (1.1, 5.85, 18.88, 0.0)
    """Mbit/s each way; 0 for no limit. Those are 3G, 4G and Wi-Fi in the paper."""
    images: int = 4096
    """Images to train on: whole steps, as the last part of one waits for the end of the run."""
    repeats: int = 3
    """Runs of which the median counts."""
    cores: tuple[int, int] = (0, 1)
    """Of robot and cloud."""
    figure: Path = Path("runs/benchmarks/paper.png")


def main(settings: Settings) -> None:
    settings.out.mkdir(parents=True, exist_ok=True)
    tables: list[Table] = []
    for backbone in settings.backbones:
        cells: dict[tuple[str, float], list[dict[str, Any]]] = {}
        for number in range(settings.repeats):
            for mbit in settings.links:
                for method in METHODS:
                    link = 0.0 if method == "robot" else mbit  # it has none
                    path = settings.out / f"{backbone}-{method}-{link:g}-{settings.images}-{number}.json"
                    print(f"{path.stem} ...", flush=True)
                    cell = kept(path, partial(measure, settings, backbone, method, link, number))
                    cells.setdefault((method, mbit), []).append(cell)
        tables += tables_of(settings, backbone, cells)
        draw(settings, backbone, cells)
    record(*tables)


def measure(settings: Settings, backbone: str, method: str, mbit: float, number: int) -> dict[str, Any]:
    folder = settings.out / "now"
    folder.mkdir(exist_ok=True)
    match method:
        case "robot":
            return alone(settings, backbone, folder, number)
        case "ours":
            return ours(settings, backbone, mbit, folder, number)
        case _:
            return in_the_cloud(settings, backbone, method.lower(), mbit, folder, number)


def alone(settings: Settings, backbone: str, folder: Path, number: int) -> dict[str, Any]:
    file = folder / "alone.json"
    finish(script(settings, backbone, number, ["--mode", "alone", "--out", str(file)], core=0))
    found = json.loads(file.read_text())
    return {"seconds": found["end"] - found["begin"], "accuracy": found["accuracy"], "robot_memory": found["memory"]}


def in_the_cloud(
    settings: Settings, backbone: str, form: str, mbit: float, folder: Path, number: int
) -> dict[str, Any]:
    cloud_file, robot_file = folder / "cloud.json", folder / "robot.json"
    with start_local_broker(bind="0.0.0.0") as broker, shaped_link(broker.port, mbit) as link:
        near = ["--broker", f"mqtt://127.0.0.1:{broker.port}", "--out", str(cloud_file)]
        cloud = script(settings, backbone, number, ["--mode", "train", *near], core=1)
        far = ["--broker", link.url, "--form", form, "--out", str(robot_file)]
        robot = script(settings, backbone, number, ["--mode", "send", *far], core=0, prefix=link.prefix)
        finish(robot, cloud)
        kind = link.kind
    trained, sent = json.loads(cloud_file.read_text()), json.loads(robot_file.read_text())
    return {
        "seconds": trained["end"] - sent["begin"],
        "accuracy": trained["accuracy"],
        "bytes": sent["bytes"] / settings.images,
        "link": kind,
    }


def ours(settings: Settings, backbone: str, mbit: float, folder: Path, number: int) -> dict[str, Any]:
    flags = f"--source folder:{settings.data}/train --held-out folder:{settings.data}/test --backbone {backbone}"
    flags += f" --cut {CUTS[backbone]} --image-size 32 --bits {BITS} --bottleneck {CHANNELS} --epochs 1000"
    flags += f" --images {settings.images} --seed {number}"
    summary = run_main_job(
        folder / "ours", flags.split(), ["--seed", str(number), "--practice", "0"], cores=settings.cores, mbit=mbit
    )
    robot, cloud = (metrics_of(folder / "ours" / end) for end in ("robot", "cloud"))
    config = RobotConfig.from_flags(
        source="sim:", backbone=backbone, cut=CUTS[backbone], bits=BITS, bottleneck=CHANNELS
    )
    return {
        "seconds": learned_at(cloud, settings.images) - begin_of(robot),
        "accuracy": summary["cloud_accuracy"],
        "exit_accuracy": summary["exit_accuracy"],
        "bytes": summary["bytes_per_image"],
        "robot_memory": memory_of(config),
    }


def finish(*processes: subprocess.Popen[bytes]) -> None:
    """Wait for all; where one fails the others are stopped. Raises RuntimeError."""
    try:
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                break
            time.sleep(0.2)
    finally:
        for process in processes:
            process.terminate()
            process.wait()
    if any(process.returncode for process in processes):
        raise RuntimeError("a process failed")


def script(
    settings: Settings, backbone: str, number: int, flags: Sequence[str], *, core: int, prefix: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    common = f"--backbone {backbone} --images {settings.images} --seed {number} --source folder:{settings.data}/train"
    common += f" --held-out folder:{settings.data}/test"
    pinned = ["taskset", "-c", str(settings.cores[core]), sys.executable, str(HERE / "whole_in_one_place.py")]
    return subprocess.Popen([*prefix, *pinned, *common.split(), *flags])


def median(cells: list[dict[str, Any]], name: str) -> float | None:
    values = [cell[name] for cell in cells if cell.get(name) is not None]
    return statistics.median(values) if values else None


def tables_of(
    settings: Settings, backbone: str, cells: dict[tuple[str, float], list[dict[str, Any]]]
) -> tuple[Table, Table]:
    """Return the medians: time over each link, and what was learned and sent meanwhile."""
    of_time = f"Seconds for {settings.images:,} images, {backbone}"
    times = Table(of_time, "link, Mbit/s", "method", "seconds", "against raw, %")
    for (method, mbit), results in sorted(cells.items(), key=lambda item: item[0][1] or 1e9):
        seconds, raw = median(results, "seconds"), median(cells["raw", mbit], "seconds")
        if not (seconds and raw):
            raise RuntimeError(f"{method} at {mbit:g} Mbit/s measured nothing")
        link = f"{mbit:g}" if mbit else "no limit"
        times.row(link, method, round(seconds, 1), round(100 * (seconds / raw - 1)))
    learned = Table(
        f"After {settings.images:,} images, {backbone}",
        *("method", "exit, %", "cloud or whole network, %", "bytes an image", "robot's memory, MB"),
    )
    for method in METHODS:
        results = [one for (of, _), those in cells.items() if of == method for one in those]
        accuracies = [median(results, name) for name in ("exit_accuracy", "accuracy")]
        size, memory = median(results, "bytes"), median(results, "robot_memory")
        shares = [None if one is None else percent(one) for one in accuracies]
        learned.row(method, *shares, round(size) if size else None, round(memory / 1e6) if memory else None)
    return times, learned


def draw(settings: Settings, backbone: str, cells: dict[tuple[str, float], list[dict[str, Any]]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.5))
    links = list(settings.links)
    for place, method in enumerate(METHODS):
        heights = [median(cells[(method, mbit)], "seconds") or 0 for mbit in links]
        bars = axes.bar([number + 0.2 * place for number in range(len(links))], heights, 0.19, label=method)
        axes.bar_label(bars, fmt="%.0f", fontsize=7)
    axes.set_xticks(
        [number + 0.3 for number in range(len(links))], [f"{one:g} Mbit/s" if one else "no limit" for one in links]
    )
    axes.set_ylabel(f"seconds for {settings.images:,} images")
    axes.set_title(backbone)
    axes.legend()
    figure.tight_layout()
    path = settings.figure.with_stem(f"{settings.figure.stem}-{backbone}")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    print(f"drawn: {path}")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
