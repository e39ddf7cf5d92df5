"""New classes without forgetting: the divided network against continual learning on the whole one.

    python benchmarks/incremental.py --data PATH/cifar10

Split CIFAR-10, or the simulated camera's toys one at a time, class-incremental: no hint at test of the phase that a
picture is from, and one pass. PATH/cifar10 holds train/ and test/ with one sub-folder of pictures for each class.
Robot, trainer and broker are processes, as a user has them; the whole network is trained in this one, by the methods
of continual_methods.py, on the same pictures, with a memory of as many bytes: it keeps raw frames, the robot JPEGs.
Each result is kept in --out, so an interrupted benchmark goes on where it was.
Its figures are in docs/results/new-classes.md.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from accuracy import kept
from continual_methods import Method, Stream, WholeNetwork, fastest_whole
from recording import Table, percent, record
from three_processes import run_main_job

from hierarchy.continual import AccuracyRounds
from hierarchy.device import set_threads
from robot_edge.learning.held_out import HELD_OUT_SEED
from robot_edge.sources.toys import TOY_CLASSES

Scenario = Literal["5x2", "10x1", "warm", "toys"]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PHASES: dict[str, list[list[str]]] = {
    "5x2": [list(CLASSES[index : index + 2]) for index in range(0, 10, 2)],
    "10x1": [[name] for name in CLASSES],
    "warm": [[name] for name in CLASSES[5:]],
    "toys": [[name] for name in TOY_CLASSES],
}
# Frames of all toys together, to learn from and to test on.
TOY_FRAMES, TOY_TESTS = 300 * len(TOY_CLASSES), 80 * len(TOY_CLASSES)
# What a warm start has learned before, in so many epochs.
KNOWN, KNOWN_EPOCHS = list(CLASSES[:5]), 3
METHODS: tuple[Method, ...] = ("joint", "fine-tuning", "ER", "ER-ACE", "DER++")
# Of a frame, uint8 (32, 32, 3).
FRAME_BYTES = 3 * 32**2
# Fresh frames in a step; as many are rehearsed.
FRESH = 32
BITS, CHANNELS = 2, 16
# Of a network that practises on its raw frames, as a robot does at least.
PRACTICE_STEPS = 200

TITLES = {
    "5x2": "Five phases of two classes",
    "10x1": "Ten phases of one class",
    "warm": "Five classes known before, then five of one",
    "toys": "Twenty phases of one toy",
}
# What a result calls the columns of shares: ours, and a method's on the whole network.
OURS = (
    "exit_stream_final_average_accuracy",
    "cloud_stream_final_average_accuracy",
    "exit_stream_forgetting",
    "exit_final_average_accuracy",
    "cloud_final_average_accuracy",
    "exit_forgetting",
)
OTHERS = (
    "",
    "stream_final_average_accuracy",
    "stream_forgetting",
    "",
    "practised_final_average_accuracy",
    "practised_forgetting",
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """New classes without forgetting."""

    data: Path
    """Folder with train/ and test/."""
    out: Path = Path("runs/benchmarks/incremental")
    """Where results are kept."""
    scenarios: tuple[Scenario, ...] = ("5x2",)
    """5x2: five phases of two classes. 10x1: ten of one. warm: five classes known before, then five of one. toys: 20
    phases of one toy."""
    memories: tuple[int, ...] = (1000, 200)
    """The memory's size, in raw frames."""
    methods: tuple[Method, ...] = METHODS
    """Methods on the whole network."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of weights, order and memory."""
    ours: bool = True
    """Whether to run the divided network as well."""
    privacy: Literal["off", "low", "medium", "high"] = "off"
    """Of the divided network: how little of a frame what crosses tells."""
    only_kept: bool = False
    """Print the table of what is there already, and run nothing."""


def main(settings: Settings) -> None:
    settings.out.mkdir(parents=True, exist_ok=True)
    set_threads(1)
    tables: list[Table] = []
    for scenario in settings.scenarios:
        rows: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for seed in settings.seeds:
            for memory in settings.memories:
                if settings.ours:
                    add(rows, ("ours", memory), settings, scenario, seed)
                for method in settings.methods:
                    without = method in {"joint", "fine-tuning"}
                    if not without or memory == settings.memories[0]:
                        add(rows, (method, 0 if without else memory), settings, scenario, seed)
        tables += tables_of(
            scenario, rows, "" if settings.privacy == "off" else f", ours with --privacy {settings.privacy}"
        )
    record(*tables)


def add(
    rows: dict[tuple[str, int], list[dict[str, Any]]],
    key: tuple[str, int],
    settings: Settings,
    scenario: str,
    seed: int,
) -> None:
    """Add one result to the rows, if it is there or may be measured."""
    method, memory = key
    level = "" if settings.privacy == "off" or method != "ours" else f"-{settings.privacy}"
    path = settings.out / f"{scenario}-{method}{level}-{memory}-seed{seed}.json"
    if settings.only_kept and not path.exists():
        return
    print(f"{path.stem} ...", flush=True)
    measure = divided if method == "ours" else whole
    rows.setdefault(key, []).append(kept(path, lambda: measure(settings, scenario, method, memory, seed)))


def whole(settings: Settings, scenario: str, method: Any, memory: int, seed: int) -> dict[str, Any]:
    """Train the whole network by one of the methods."""
    phases = PHASES[scenario]
    if scenario == "toys":
        train, images = "sim:", TOY_FRAMES // len(phases)
        test = Stream.read("sim:", phases=[list(TOY_CLASSES)], images=TOY_TESTS, seed=seed + HELD_OUT_SEED)
    else:
        train, images = f"folder:{settings.data}/train", 0
        test = Stream.read(f"folder:{settings.data}/test")
    known: list[str] = list(KNOWN) if scenario == "warm" else []
    classes = [*known, *(name for phase in phases for name in phase)]
    network = WholeNetwork(method, classes, memory=memory, compute=fastest_whole(), rate=0.05, seed=seed)
    rounds = AccuracyRounds()
    if known:
        network.start_knowing(Stream.read(train, phases=[KNOWN], epochs=KNOWN_EPOCHS, seed=seed), 2 * FRESH)
        rounds.add(network.test(test.only(known)).by_class)
    if method == "joint":
        images *= len(phases)
        phases = [classes]
    for number, phase in enumerate(phases):
        stream = Stream.read(train, phases=[phase], images=images, seed=seed + number)
        if method == "joint":
            stream = stream.mixed(seed)
        for step, (frames, names) in enumerate(stream.batches(FRESH)):
            # Who shows all classes from the start may know, too, when it will end.
            network.learn(frames, names, step * FRESH / len(stream) if method == "joint" else None)
        known += [name for name in phase if name not in known]
        rounds.add(network.test(test.only(known)).by_class)
    result = {"images": len(test), **rounds.figures("stream")}
    if method not in {"joint", "fine-tuning"}:
        network.practise(PRACTICE_STEPS)
        rounds.add(network.test(test).by_class)
        result |= rounds.figures("practised")
    return result


def divided(settings: Settings, scenario: str, _method: str, memory: int, seed: int) -> dict[str, Any]:
    """Train robot and cloud as a user does, through a real broker."""
    folder = settings.out / f"{scenario}-ours-{settings.privacy}-{memory}-seed{seed}"
    crosses = f"--privacy {settings.privacy}" if settings.privacy != "off" else f"--bits {BITS} --bottleneck {CHANNELS}"
    common = f"--backbone resnet18 --cut layer2 --image-size 32 {crosses} --seed {seed}"
    common += f" --rehearsal-mb {memory * FRAME_BYTES / 1e6}"
    if scenario == "toys":
        common += f" --source sim: --images {TOY_FRAMES} --held-out sim:"
    else:
        common += f" --source folder:{settings.data}/train --held-out folder:{settings.data}/test"
    trainer = ["--seed", str(seed)]
    flags = ["--phases", "|".join(",".join(phase) for phase in PHASES[scenario])]
    former = ["--phases", ",".join(KNOWN), "--epochs", str(KNOWN_EPOCHS)] if scenario == "warm" else []
    summary = run_main_job(
        folder,
        [*common.split(), *flags],
        trainer,
        former=[*common.split(), *former] if former else (),
        until="rehearsed while idle",
    )
    cloud = json.loads((folder / "cloud" / "summary.json").read_text())["robots"]["robot"]
    result = {**summary, **{name: value for name, value in cloud.items() if name.startswith("cloud_")}}
    # A test behind each phase, and one before the first where classes were known; then some behind practice.
    last = len(PHASES[scenario]) + bool(former)
    for end in ("exit", "cloud"):
        result |= up_to(result[f"{end}_accuracy_matrix"], last, f"{end}_stream")
    return result


def up_to(matrix: dict[str, Any], test: int, name: str) -> dict[str, Any]:
    """Return figures of the rounds of an accuracy matrix up to the first of that test."""
    rounds = AccuracyRounds()
    for row in matrix["rounds"][: matrix["tests"].index(test) + 1]:
        rounds.add({name: its for name, its in zip(matrix["classes"], row, strict=True) if its is not None})
    return rounds.figures(name)


def tables_of(scenario: str, rows: dict[tuple[str, int], list[dict[str, Any]]], how: str) -> list[Table]:
    """Return the mean over seeds of the average accuracy over all classes in the end, and ours beside the others."""
    table = Table(
        TITLES[scenario] + how,
        *("method", "memory, raw frames", "seeds", "exit, end of stream, %"),
        *("cloud or whole network, end of stream, %", "forgetting, end of stream, %", "exit after practice, %"),
        *("cloud or whole network after practice, %", "forgetting after practice, %", "bytes an image"),
    )
    for (method, memory), results in rows.items():
        names = OURS if method == "ours" else OTHERS
        sent = [one["bytes_per_image"] for one in results if "bytes_per_image" in one]
        shares = [mean(results, name) for name in names]
        table.row(method, memory or None, len(results), *shares, round(statistics.mean(sent)) if sent else None)
    return [table, *against_the_others(scenario, rows)]


def against_the_others(scenario: str, rows: dict[tuple[str, int], list[dict[str, Any]]]) -> list[Table]:
    """Return how far ours is ahead; nothing where ours or joint was not measured."""
    joint = mean(rows.get(("joint", 0), []), "stream_final_average_accuracy")
    memories = [memory for method, memory in rows if method == "ours"]
    if not joint or not memories:
        return []
    table = Table(
        f"{TITLES[scenario]}, against the others",
        *("memory, raw frames", "cloud / joint", "best other method after practice", "cloud - it, points"),
        *("exit - it, points", "cloud - best without practice, points"),
    )
    for memory in memories:
        ours = {name: mean(rows["ours", memory], name) or 0.0 for name in OURS if name}
        others = {method: results for (method, at), results in rows.items() if at == memory and method != "ours"}
        practised = {
            method: mean(results, "practised_final_average_accuracy") or 0.0 for method, results in others.items()
        }
        best = max(practised, key=practised.__getitem__, default="")
        streamed = max((mean(one, "stream_final_average_accuracy") or 0.0 for one in others.values()), default=0.0)
        cloud, at_exit = ours["cloud_final_average_accuracy"], ours["exit_final_average_accuracy"]
        lead = [cloud - practised.get(best, 0.0), at_exit - practised.get(best, 0.0), cloud - streamed]
        table.row(memory, round(cloud / joint, 2), best, *(round(one, 1) for one in lead))
    return [table]


def mean(results: Sequence[dict[str, Any]], name: str) -> float | None:
    """Return the mean of a share, in per cent; None where none was measured."""
    values = [one[name] for one in results if one.get(name) is not None]
    return percent(statistics.mean(values)) if values else None


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
