"""Which score tells best that a frame shows nothing the exit knows: AUROC on toys that it was never taught.

    python benchmarks/unknown.py

Trains the edge segment on six toys of the simulated camera. Known: new scenes of those six. Unknown: two others, drawn
anew for each seed. What a score needs (temperature, class means) comes from frames that were held out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from recording import Table, record

from broker.wire.quantize import dequantize
from hierarchy.calibration import auroc, expected_calibration_error, fit_temperature, softmax
from hierarchy.device import Compute
from hierarchy.edge import EdgeTrainer
from robot_edge.learning.segment import build_edge
from robot_edge.run.config import RobotConfig
from robot_edge.sources.frames import Pixels
from robot_edge.sources.sim import SimulatedCamera
from robot_edge.sources.toys import TOY_CLASSES

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Open-set scores."""

    frames: int = 4000
    """To train on."""
    test: int = 800
    """Frames of known toys to calibrate with, as many to test with, and as many of unknown toys."""
    seeds: int = 3
    threads: int = 1


@dataclass(frozen=True)
class Seen:
    """What the exit makes of frames: features (N, F), logits (N, C), labels (N,), -1 for none."""

    features: Array
    logits: Array
    labels: NDArray[np.int64]


def main(settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    results: dict[str, list[float]] = {}
    for seed in range(settings.seeds):
        shuffled = np.random.default_rng(seed).permutation(TOY_CLASSES).tolist()
        known, unknown = shuffled[:6], shuffled[6:8]
        trainer = train(known, settings.frames, seed)
        held_out, test, strange = (
            look(trainer, *scenes(classes, settings.test, 1000 * number + seed))
            for number, classes in ((1, known), (2, known), (3, unknown))
        )
        temperature = fit_temperature(held_out.logits, held_out.labels)
        right = test.logits.argmax(1) == test.labels
        found = {"accuracy": float(right.mean()), "temperature": temperature}
        for name, degree in (("ECE before", 1.0), ("ECE after", temperature)):
            found[name] = expected_calibration_error(softmax(test.logits, degree).max(1), right)
        for name, score in scores(held_out, temperature).items():
            found[f"AUROC {name}"] = auroc(score(test), score(strange))
            limit = np.quantile(score(held_out), 0.95)
            found[f"found at 5 % false alarms, {name}"] = float((score(strange) > limit).mean())
            found[f"false alarms, {name}"] = float((score(test) > limit).mean())
        for name, value in found.items():
            results.setdefault(name, []).append(value)
        print(json.dumps({"seed": seed, "unknown": unknown, **{k: round(v, 3) for k, v in found.items()}}), flush=True)
    table = Table("Mean over seeds", "", "mean", "each seed")
    for name, values in results.items():
        table.row(name, round(float(np.mean(values)), 3), ", ".join(f"{value:.3f}" for value in values))
    record(table)


def scores(held_out: Seen, temperature: float) -> dict[str, Callable[[Seen], Array]]:
    """Return the scores, higher for what is less known."""
    labels, classes = held_out.labels, held_out.logits.shape[1]
    means = np.stack([held_out.features[labels == one].mean(0) for one in range(classes)])
    centred = held_out.features - means[labels]
    deviation = centred.std(0) + 1e-6
    covariance = centred.T @ centred / len(centred)
    precision = np.linalg.inv(covariance + 0.05 * np.trace(covariance) / len(covariance) * np.eye(len(covariance)))
    unit_means = means / np.linalg.norm(means, axis=1, keepdims=True)

    def maximum(seen: Seen) -> Array:
        return np.asarray(1 - softmax(seen.logits, temperature).max(1))

    def energy(seen: Seen) -> Array:
        result: Array = -np.logaddexp.reduce(seen.logits, axis=1)
        return result

    def largest_logit(seen: Seen) -> Array:
        result: Array = -seen.logits.max(1)
        return result

    def nearest(seen: Seen) -> Array:
        away = (seen.features[:, None] - means) / deviation
        result: Array = np.linalg.norm(away, axis=2).min(1)
        return result

    def cosine(seen: Seen) -> Array:
        unit = seen.features / np.linalg.norm(seen.features, axis=1, keepdims=True)
        result: Array = 1 - (unit @ unit_means.T).max(1)
        return result

    def mahalanobis(seen: Seen) -> Array:
        away = seen.features[:, None] - means
        result: Array = np.einsum("ncf,fg,ncg->nc", away, precision, away).min(1)
        return result

    def ranked(one: Callable[[Seen], Array], other: Callable[[Seen], Array]) -> Callable[[Seen], Array]:
        ordered = [np.sort(score(held_out)) for score in (one, other)]

        def larger(seen: Seen) -> Array:
            ranks = [np.searchsorted(its, score(seen)) for its, score in zip(ordered, (one, other), strict=True)]
            return np.maximum(*ranks) + np.minimum(*ranks) / 1e4

        return larger

    return {
        "1 - calibrated softmax": maximum,
        "energy": energy,
        "largest logit": largest_logit,
        "nearest class mean, standardised": nearest,
        "cosine to class mean": cosine,
        "Mahalanobis": mahalanobis,
        "larger rank of softmax and cosine": ranked(maximum, cosine),
        "larger rank of softmax and Mahalanobis": ranked(maximum, mahalanobis),
    }


def train(classes: Sequence[str], frames: int, seed: int) -> EdgeTrainer:
    config = RobotConfig.from_flags(source="sim:", bits=4, bottleneck=16, seed=seed)
    torch.manual_seed(seed)
    segment, _, _ = build_edge(config.network)
    trainer = EdgeTrainer(
        segment,
        bits=config.network.bits,
        compute=Compute(device=torch.device("cpu")),
        peak_learning_rate=config.learning.learning_rate,
        seed=seed,
    )
    images, names = scenes(classes, frames, seed)
    for start in range(0, frames, config.learning.batch):
        part = slice(start, start + config.learning.batch)
        trainer.step(images[part], names[part], fresh=len(names[part]), progress=start / frames)
    return trainer


def scenes(classes: Sequence[str], frames: int, seed: int) -> tuple[Pixels, list[str]]:
    camera = SimulatedCamera(classes=classes, frames=frames, size=32, seed=seed)
    shown = [frame for _ in range(frames) if (frame := camera.next())]
    return np.stack([frame.image for frame in shown]), [str(frame.label) for frame in shown]


def look(trainer: EdgeTrainer, images: Pixels, names: Sequence[str]) -> Seen:
    head = trainer.segment.exit.head
    features: list[torch.Tensor] = []
    handle = head.register_forward_hook(lambda _module, inputs, _output: features.append(inputs[0]))
    logits = []
    for image in images:  # one at a time, as live: an image's own ranges of quantization
        _, quantized = trainer.evaluate(image[None])
        features.pop()
        with torch.inference_mode():
            logits.append(trainer.segment.exit(torch.from_numpy(dequantize(quantized))))
    handle.remove()
    places = dict(zip(trainer.classes, range(len(trainer.classes)), strict=True))
    return Seen(
        torch.cat(features).double().numpy(),
        torch.cat(logits).double().numpy(),
        np.array([places.get(name, -1) for name in names]),
    )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
