"""Accuracy of the divided network against the whole one, same budget, over bits, bottleneck and cut.

    python benchmarks/accuracy.py --data PATH/cifar10
    python benchmarks/accuracy.py --data PATH/cifar10 --configurations layer3:1:12 layer3:2:8

PATH/cifar10 holds train/ and test/ with one sub-folder of pictures for each class. Each result is kept in --out, so an
interrupted benchmark goes on where it was. Its figures are in docs/results/accuracy.md.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from recording import Table, percent, record
from three_processes import run_main_job
from whole_network import train_whole

# Cut, bits, channels of the bottleneck (0 for none): those that decide first.
CONFIGURATIONS = tuple(
    f"layer2:{bits}:{channels}"
    for channels, all_bits in ((12, "2"), (16, "4281"), (0, "4821"), (8, "4281"), (4, "21"), (3, "1"))
    for bits in all_bits
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Accuracy over bits, bottleneck and cut."""

    data: Path
    """Folder with train/ and test/."""
    out: Path = Path("runs/benchmarks/accuracy")
    """Where results are kept."""
    epochs: int = 3
    images: int = 0
    """Images in all, to cut a trial short; 0 for all epochs."""
    configurations: tuple[str, ...] = CONFIGURATIONS
    """Which to run: cut, bits and channels of the bottleneck."""
    parallel: int = 1
    """Runs at the same time; each keeps two cores busy, the trainer more than the robot."""
    seed: int = 0


def main(settings: Settings) -> None:
    settings.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(settings.parallel) as pool:
        whole = pool.submit(whole_network, settings)
        divided = [pool.submit(hierarchical, settings, *one.split(":")) for one in settings.configurations]
        usual = settings.configurations == CONFIGURATIONS
        title = "Accuracy by bits and channels" if usual else "Accuracy of chosen configurations"
        report(title, whole.result(), [one.result() for one in divided])


def whole_network(settings: Settings) -> dict[str, Any]:
    return kept(
        settings.out / f"whole-{settings.seed}.json",
        lambda: {
            "accuracy": train_whole(
                f"folder:{settings.data}/train",
                f"folder:{settings.data}/test",
                epochs=settings.epochs,
                images=settings.images,
                seed=settings.seed,
            )
        },
    )


def hierarchical(settings: Settings, cut: str, bits: str, channels: str) -> dict[str, Any]:
    name = f"{cut}-{bits}-bits-{channels}-channels-{settings.seed}"
    flags = f"--source folder:{settings.data}/train --held-out folder:{settings.data}/test --backbone resnet18"
    flags += f" --cut {cut} --image-size 32 --bits {bits} --bottleneck {channels} --epochs {settings.epochs}"
    flags += f" --images {settings.images} --seed {settings.seed} --least-bits 8"
    return kept(
        settings.out / f"{name}.json",
        lambda: {
            "cut": cut,
            "bits": int(bits),
            "channels": int(channels),
            **run_main_job(settings.out / name, flags.split(), ["--seed", str(settings.seed)]),
        },
    )


def kept(path: Path, measure: Any) -> dict[str, Any]:
    """Return what an earlier call left at the path, or measure it and leave it there."""
    if not path.exists():
        result = measure()
        path.write_text(json.dumps(result, indent=2) + "\n")
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def report(title: str, whole: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    table = Table(
        title,
        *("cut", "bits", "channels", "bytes an image", "of raw", "of JPEG"),
        *("exit, %", "cloud, %", "cloud - whole network, points"),
    )
    table.row("whole network, uncut", *[None] * 6, percent(whole["accuracy"]), None)
    for row in rows:
        sent = row["bytes_per_image"]
        table.row(
            *(row["cut"], row["bits"], row["channels"] or "none", round(sent)),
            *(round(sent / row["raw_bytes_per_image"], 2), round(sent / row["jpeg_bytes_per_image"], 2)),
            *(percent(row["exit_accuracy"]), percent(row["cloud_accuracy"])),
            percent(row["cloud_accuracy"] - whole["accuracy"]),
        )
    record(table)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
