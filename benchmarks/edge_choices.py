"""How the robot's half learns new classes best: loss, exit, what is remembered and as what, and new rows.

    python benchmarks/edge_choices.py --data PATH/cifar10

Split CIFAR-10 in five phases of two classes, one pass, the edge segment and its exit alone: no cloud, no broker. Each
variant differs from the robot in one thing. Practice at the end as a robot has it. Its figures are in
docs/results/edge-choices.md; --out keeps what was measured, so another version of the robot needs another one.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import tyro
from accuracy import kept
from continual_methods import ALPHA, Stream
from numpy.typing import NDArray
from recording import Table, percent, record
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from hierarchy.edge import EdgeTrainer, fastest_compute, normalise
from hierarchy.evaluation import HeldOut
from hierarchy.head import GrowingHead
from hierarchy.layers import EarlyExit
from hierarchy.losses import logit_adjusted_cross_entropy
from hierarchy.rehearsal import BalancedMemory
from hierarchy.schedule import settling
from robot_edge.learning.frame_memory import FrameMemory, KeptFrame
from robot_edge.learning.practice import practice_steps
from robot_edge.learning.segment import build_edge
from robot_edge.run.config import RobotConfig
from robot_edge.sources.frames import Pixels

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PHASES = [list(CLASSES[index : index + 2]) for index in range(0, 10, 2)]
FRAME_BYTES = 3 * 32**2
FRESH = 32
# Of a cosine exit's logits, which lie between -1 and 1 without.
COSINE_SCALE = 16.0

Loss = Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the robot's half learns with."""

    data: Path
    """Folder with train/ and test/."""
    out: Path = Path("runs/benchmarks/edge-choices")
    seeds: tuple[int, ...] = (0, 1)
    memory: int = 200
    """The memory's size, in raw frames."""
    variants: tuple[str, ...] = ()
    """Which of them, by the names of their classes; all where none is named."""


class Robot:
    """The edge segment as a robot trains it. Variants below change one thing each."""

    def __init__(self, seed: int, frames: int) -> None:
        """frames: the memory's size, in raw frames."""
        torch.manual_seed(seed)
        config = RobotConfig.from_flags(source="sim:", bits=2, bottleneck=16, seed=seed)
        segment, _, _ = build_edge(config.network)
        compute = fastest_compute(segment, image_size=32, batch=config.learning.batch, device=torch.device("cpu"))
        self.edge = EdgeTrainer(
            segment, bits=2, compute=compute, peak_learning_rate=config.learning.learning_rate, seed=seed
        )
        self.limit = self.room(frames)
        self.memory = FrameMemory(self.limit, 32, seed)
        self.rehearsed: list[KeptFrame] = []
        self._position = 0

    def room(self, frames: int) -> int:
        """Return how many frames the memory has room for."""
        return FrameMemory.limit_of(frames * FRAME_BYTES / 1e6, 32)

    def loss(self, logits: Tensor, labels: Tensor, fresh: int) -> Tensor:
        return logit_adjusted_cross_entropy(logits, labels, fresh)

    def learn(self, images: Pixels, names: list[str]) -> None:
        self.rehearsed = self.memory.draw(len(names))
        frames = np.concatenate([images, *(one.image[None] for one in self.rehearsed)])
        self._step(frames, names + [one.name for one in self.rehearsed], fresh=len(names), progress=None)
        for name, image in zip(names, images, strict=True):
            self._position += 1
            self.memory.add(name, image, sample=self._position)

    def end_phase(self, phase: Stream) -> None:
        """Be told that a phase is over."""

    def practise(self) -> None:
        steps = practice_steps(len(self.memory), 2 * FRESH, self.edge.steps)
        for done in range(steps):
            self.rehearsed = self.memory.draw(2 * FRESH)
            images = np.stack([one.image for one in self.rehearsed])
            names = [one.name for one in self.rehearsed]
            self._step(images, names, fresh=0, progress=settling(done, steps - done))

    def _step(self, images: Pixels, names: list[str], *, fresh: int, progress: float | None) -> None:
        with patch("hierarchy.edge.logit_adjusted_cross_entropy", self.loss):
            self.edge.step(images, names, fresh=fresh, progress=progress)

    def test(self, unseen: Stream) -> float:
        result = HeldOut()
        for images, names in unseen.batches(256):
            result.add(names, self.edge.evaluate(images)[0])
        assert result.accuracy is not None
        return result.accuracy

    @torch.inference_mode()
    def features(self, images: Pixels) -> NDArray[np.float32]:
        """Return what the exit's head sees, float32 (N, features)."""
        segment, compute = self.edge.segment.eval(), self.edge.learner.compute
        assert isinstance(segment.exit, EarlyExit)
        with compute.autocast():
            mixed = segment.exit.mix(segment.encode(compute.tensor(normalise(images))))
        features: NDArray[np.float32] = mixed.flatten(2).mean(2).float().numpy()
        return features


class PlainLoss(Robot):
    """Cross-entropy over all classes."""

    def loss(self, logits: Tensor, labels: Tensor, fresh: int) -> Tensor:
        return F.cross_entropy(logits, labels)


class AsymmetricLoss(Robot):
    """New samples compete only with the classes among them (ER-ACE); one class alone is learned as it is rehearsed."""

    def loss(self, logits: Tensor, labels: Tensor, fresh: int) -> Tensor:
        if fresh == len(labels):
            return F.cross_entropy(logits, labels)
        if len(torch.unique(labels[:fresh])) < 2:
            return F.cross_entropy(logits[fresh:], labels[fresh:])
        absent = torch.full_like(logits, -torch.inf)
        absent[fresh:] = 0
        absent[:, torch.unique(labels[:fresh])] = 0
        return F.cross_entropy(logits + absent, labels)


class Distilled(Robot):
    """What is remembered also keeps the logits that it had when it came, as in DER++, beside our loss."""

    def __init__(self, seed: int, frames: int) -> None:
        super().__init__(seed, frames)
        self._logits: dict[int, Tensor] = {}

    def loss(self, logits: Tensor, labels: Tensor, fresh: int) -> Tensor:
        loss = super().loss(logits, labels, fresh)
        for row in range(fresh):
            self._logits[self._position + 1 + row] = logits[row].detach().clone()
        before = [self._logits[one.sample] for one in self.rehearsed]
        moved = [F.mse_loss(now[: len(its)], its) for now, its in zip(logits[fresh:], before, strict=True)]
        return loss + ALPHA * torch.stack(moved).mean() if moved else loss


class CosineHead(GrowingHead):
    """Logits by angle alone, so no class wins by the length of its row."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            angles = F.linear(F.normalize(x.float()), F.normalize(self.weight[: len(self.classes)]))
            return COSINE_SCALE * angles


class CosineExit(Robot):
    def __init__(self, seed: int, frames: int) -> None:
        super().__init__(seed, frames)
        self.edge.segment.exit.head.__class__ = CosineHead


class MeanHead(GrowingHead):
    """New rows begin at the mean feature of their class, as long as the rows that are there."""

    means: dict[str, Tensor]

    def grow(self, names: Iterable[str], optimizer: Optimizer | None) -> None:
        known = len(self.classes)
        super().grow(names, optimizer)
        with torch.no_grad():
            length = self.weight[:known].norm(dim=1).mean() if known else torch.tensor(1.0)
            for name in self.classes[known:]:
                self.weight[self.indices([name])[0]] = length * F.normalize(self.means[name], dim=0)
                self.bias[self.indices([name])[0]] = 0


class MeanRows(Robot):
    def __init__(self, seed: int, frames: int) -> None:
        super().__init__(seed, frames)
        self.edge.segment.exit.head.__class__ = MeanHead

    def learn(self, images: Pixels, names: list[str]) -> None:
        if new := set(names) - set(self.edge.classes):
            features = self.features(images)
            rows = {name: [row for row, its in enumerate(names) if its == name] for name in new}
            means = {name: torch.from_numpy(features[its].mean(axis=0)) for name, its in rows.items()}
            self.edge.segment.exit.head.means = means  # type: ignore[assignment]
        super().learn(images, names)


class Herding(Robot):
    """After a phase each class keeps the frames whose mean feature follows its own (iCaRL; Rebuffi et al., 2017).

    Chosen from all that the phase showed, which a robot does not have any more.
    """

    def end_phase(self, phase: Stream) -> None:
        kept: dict[str, list[Pixels]] = {}
        for one in self.memory.all():
            kept.setdefault(one.name, []).append(one.image)
        share = self.limit // len(self.edge.classes)
        for name in set(phase.names):
            images = phase.only([name]).images
            chosen = herd(self.features(images), share)
            kept[name] = list(images[chosen])
        memory = FrameMemory(self.limit, 32, seed=len(kept))
        for name, frames in kept.items():
            for frame in frames[:share]:
                memory.add(name, frame)
        self.memory = memory


class Reservoir(Robot):
    """Every frame of the stream is as likely as any other to be remembered (Vitter, 1985)."""

    def __init__(self, seed: int, frames: int) -> None:
        super().__init__(seed, frames)
        self.memory._slots = ReservoirMemory(self.limit, seed)


class ReservoirMemory(BalancedMemory[int]):
    def __init__(self, limit: int, seed: int) -> None:
        super().__init__(limit, seed)
        self._seen = 0

    def add(self, name: str, sample: int) -> int | None:
        self._seen += 1
        if len(self) < self.limit:
            return super().add(name, sample)
        place = self._random.randrange(self._seen)
        if place >= self.limit:
            return sample
        _, gone = self.all()[place]
        self.forget(lambda one: one == gone)
        super().add(name, sample)
        return gone


class RawFrames(Robot):
    """Frames as they are, a twelfth as many."""

    def __init__(self, seed: int, frames: int) -> None:
        super().__init__(seed, frames)
        self.memory = FrameMemory(self.limit, 32, seed, exact=True)

    def room(self, frames: int) -> int:
        return frames


class SqueezedRobot(Robot):
    """JPEGs in another share of a raw frame's bytes than the robot's twelfth."""

    squeezed: int

    def __init__(self, seed: int, frames: int) -> None:
        least = FRAME_BYTES // self.squeezed
        with patch.multiple("robot_edge.learning.frame_codec", SQUEEZED=self.squeezed, MIN_ROOM=least):
            super().__init__(seed, frames)


class SixthOfTheBytes(SqueezedRobot):
    squeezed = 6


class EighteenthOfTheBytes(SqueezedRobot):
    squeezed = 18


VARIANTS: dict[str, type[Robot]] = {
    "as the robot is": Robot,
    "raw frames, a twelfth as many": RawFrames,
    "JPEGs in a sixth of the bytes": SixthOfTheBytes,
    "JPEGs in an eighteenth of the bytes": EighteenthOfTheBytes,
    "reservoir": Reservoir,
    "herding": Herding,
    "plain cross-entropy": PlainLoss,
    "new samples compete with each other (ER-ACE)": AsymmetricLoss,
    "with the logits of before (DER++)": Distilled,
    "cosine exit": CosineExit,
    "new rows at class means": MeanRows,
}


def main(settings: Settings) -> None:
    settings.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    title = f"What the robot's half learns with, bytes of {settings.memory:,} raw frames"
    table = Table(title, "", "exit, end of stream, %", "after practice, %")
    by_seed = Table(f"{title}, by seed", "", "seed", "exit, end of stream, %", "after practice, %")
    for name, robot in VARIANTS.items():
        if settings.variants and robot.__name__ not in settings.variants:
            continue
        results = []
        for seed in settings.seeds:
            path = settings.out / f"{robot.__name__}-{settings.memory}-seed{seed}.json"
            results.append(kept(path, lambda robot=robot, seed=seed: measure(settings, robot, seed)))
        for seed, one in zip(settings.seeds, results, strict=True):
            by_seed.row(name, seed, percent(one["stream"]), percent(one["practised"]))
        mean = [statistics.mean(one[what] for one in results) for what in ("stream", "practised")]
        table.row(name, *map(percent, mean))
    record(table, by_seed)


def measure(settings: Settings, kind: type[Robot], seed: int) -> dict[str, Any]:
    robot = kind(seed, settings.memory)
    unseen = Stream.read(f"folder:{settings.data}/test")
    for number, phase in enumerate(PHASES):
        stream = Stream.read(f"folder:{settings.data}/train", phases=[phase], seed=seed + number)
        for images, names in stream.batches(FRESH):
            robot.learn(images, names)
        robot.end_phase(stream)
    at_the_end = robot.test(unseen)
    robot.practise()
    return {"stream": at_the_end, "practised": robot.test(unseen)}


def herd(features: NDArray[np.float32], count: int) -> list[int]:
    """Return which of features (N, F) to take, in turn, so that their mean stays nearest to that of all."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    mean, total, chosen = unit.mean(axis=0), np.zeros(unit.shape[1], np.float32), []
    left = np.ones(len(unit), bool)
    for number in range(1, min(count, len(unit)) + 1):
        distances = np.where(left, np.linalg.norm(mean - (total + unit) / number, axis=1), np.inf)
        best = int(distances.argmin())
        chosen.append(best)
        left[best] = False
        total += unit[best]
    return chosen


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
