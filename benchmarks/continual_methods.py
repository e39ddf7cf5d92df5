"""Continual learning on the whole network: what the divided one is measured against.

One pass over a stream, in steps of as many remembered frames as fresh ones, as on our robot:

- joint: every class from the start, mixed, at a rate that falls to nothing by the end. The upper bound of one pass.
- fine-tuning: each phase's frames alone. The lower bound.
- ER: cross-entropy over fresh and remembered frames (Chaudhry et al., "On tiny episodic memories", 2019).
- ER-ACE: fresh frames compete only with the classes among them (Caccia et al., "New insights on reducing abrupt
  representation change in online continual learning", ICLR 2022).
- DER++: remembered frames also keep the logits they were stored with (Buzzega et al., "Dark experience for general
  continual learning", NeurIPS 2020); others, drawn for themselves, keep their labels.

DER++ has an output for every class from the start, as its authors' code has: with a head that grows it is weaker, and
where the first class comes alone it has nothing to distil and collapses. The others have the head that grows, as ours
does; ER is weaker with all outputs. All of them remember class-balanced (the papers draw a reservoir, which is weaker),
and network, augmentation, optimizer and rate are ours. After the stream each may practise on its memory at a falling
rate, as our robot does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hierarchy.augment import augment
from hierarchy.backbone import build_backbone
from hierarchy.device import Compute, fastest
from hierarchy.edge import normalise
from hierarchy.evaluation import HeldOut
from hierarchy.head import GrowingHead
from hierarchy.learner import Learner
from hierarchy.rehearsal import BalancedMemory
from hierarchy.schedule import settling
from robot_edge.learning.batcher import Batcher
from robot_edge.learning.frame_memory import FrameMemory
from robot_edge.learning.framed import Framed
from robot_edge.learning.framing import Framing
from robot_edge.sources.frames import Pixels
from robot_edge.sources.opening import open_source

Method = Literal["joint", "fine-tuning", "ER", "ER-ACE", "DER++"]

# Of the DER++ paper for CIFAR-10 with 500 frames: the weight of the old logits, and of the labels.
ALPHA, BETA = 0.2, 0.5


@dataclass
class Remembered:
    """A frame in memory: uint8 (H, W, 3), and the logits (classes) that it had when it came."""

    image: Pixels
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class Stream:
    """Frames in the order they are shown, and what is tested. images: uint8 (N, H, W, 3)."""

    images: Pixels
    names: list[str]

    @classmethod
    def read(
        cls, source: str, *, phases: list[list[str]] | None = None, epochs: int = 1, images: int = 0, seed: int = 0
    ) -> Stream:
        """Read a source to its end, resized to 32 x 32."""
        shown = open_source(source, image_size=32, phases=phases or [], epochs=epochs, images=images, seed=seed)
        reader = Batcher(
            source=Framed(shown, Framing(size=32).input),
            size=1024,
            image_size=32,
            held_out_every=0,
            held_out=FrameMemory(0, 32, 0),
        )
        batches = list(iter(reader.next, None))
        return cls(np.concatenate([one.images for one in batches]), [name for one in batches for name in one.names])

    def __len__(self) -> int:
        return len(self.names)

    def only(self, names: Collection[str]) -> Stream:
        """Return the frames of those classes."""
        rows = [row for row, name in enumerate(self.names) if name in names]
        return Stream(self.images[rows], [self.names[row] for row in rows])

    def mixed(self, seed: int) -> Stream:
        """Return the same frames in any order: a camera shows several of each scene in a row."""
        rows = np.random.default_rng(seed).permutation(len(self))
        return Stream(self.images[rows], [self.names[row] for row in rows])

    def batches(self, size: int) -> Iterator[tuple[Pixels, list[str]]]:
        """Yield the frames in their order."""
        for start in range(0, len(self), size):
            yield self.images[start : start + size], self.names[start : start + size]


class WholeNetwork:
    """One network, one method, one memory."""

    def __init__(
        self, method: Method, classes: Sequence[str], *, memory: int, compute: Compute, rate: float, seed: int
    ) -> None:
        """Build it. classes: all that will come."""
        torch.manual_seed(seed)
        features = build_backbone("resnet18", image_size=32, weights="none")
        self.method = method
        self.head = GrowingHead(features.features)
        self.network = nn.Sequential(features.module, self.head)
        self.learner = Learner(self.network, self.head, compute=compute, peak_learning_rate=rate, seed=seed)
        if method == "DER++":
            self.head.grow(classes, self.learner.optimizer)
        self.memory: BalancedMemory[Remembered] = BalancedMemory(memory, seed)
        self._rng = np.random.default_rng(seed)

    def start_knowing(self, known: Stream, batch: int) -> None:
        """Learn classes that are known from the start, in any number of epochs, and remember frames of them."""
        for number, (images, names) in enumerate(known.batches(batch)):
            logits = self._step(images, names, [], number * batch / len(known))
            for name, image, its in zip(names, images, logits.detach().numpy(), strict=True):
                self.memory.add(name, Remembered(image, its))

    def learn(self, images: Pixels, names: list[str], progress: float | None = None) -> None:
        """Take one step on fresh frames and as many remembered ones, and remember the fresh ones.

        progress: of the stream, for a rate that falls with it.
        """
        count = len(names) if self.method in {"ER", "ER-ACE", "DER++"} else 0
        remembered = self.memory.draw(count)
        if self.method == "DER++":
            remembered += self.memory.draw(count)
        logits = self._step(images, names, remembered, progress)
        for name, image, its in zip(names, images, logits.detach().numpy(), strict=True):
            self.memory.add(name, Remembered(image, its))

    def practise(self, steps: int, batch: int = 64) -> None:
        """Learn from the memory alone, at a rate that falls to nothing."""
        nothing = np.empty((0, 32, 32, 3), np.uint8)
        for done in range(steps):
            remembered = self.memory.draw(batch)
            if remembered:
                self._step(nothing, [], remembered, settling(done, steps - done))

    def _step(
        self, images: Pixels, names: list[str], remembered: list[tuple[str, Remembered]], progress: float | None
    ) -> Tensor:
        fresh = len(names)
        everything = np.concatenate([images, *(one.image[None] for _, one in remembered)])
        labels = self.learner.begin_step(names + [name for name, _ in remembered], progress=progress)
        with self.learner.compute.autocast():
            logits: Tensor = self.network(
                self.learner.compute.tensor(normalise(augment(everything, self._rng)))
            ).float()
        if not self.learner.descend(self._loss(logits, labels, fresh, [one for _, one in remembered])):
            raise RuntimeError("training has diverged")
        return logits[:fresh]

    def _loss(self, logits: Tensor, labels: Tensor, fresh: int, remembered: list[Remembered]) -> Tensor:
        if self.method == "ER-ACE" and fresh:
            among = torch.full((logits.shape[1],), -torch.inf)
            among[torch.unique(labels[:fresh])] = 0
            loss = F.cross_entropy(logits[:fresh] + among, labels[:fresh])
            return loss + F.cross_entropy(logits[fresh:], labels[fresh:]) if remembered else loss
        if self.method == "DER++" and remembered:
            before = torch.from_numpy(np.stack([one.logits for one in remembered]))
            if not fresh:
                return ALPHA * F.mse_loss(logits, before) + BETA * F.cross_entropy(logits, labels)
            half = len(remembered) // 2
            distilled = F.mse_loss(logits[fresh : fresh + half], before[:half])
            labelled = F.cross_entropy(logits[fresh + half :], labels[fresh + half :])
            return F.cross_entropy(logits[:fresh], labels[:fresh]) + ALPHA * distilled + BETA * labelled
        return F.cross_entropy(logits, labels)

    @torch.inference_mode()
    def test(self, unseen: Stream) -> HeldOut:
        """Predict frames that were never shown."""
        self.network.eval()
        result = HeldOut()
        for images, names in unseen.batches(256):
            with self.learner.compute.autocast():
                guesses = self.network(self.learner.compute.tensor(normalise(images))).argmax(1).tolist()
            result.add(names, [self.head.classes[index] for index in guesses])
        return result


def fastest_whole() -> Compute:
    """Measure how this machine trains the whole network fastest."""

    def training_step(compute: Compute, count: int) -> Callable[[], float]:
        network = WholeNetwork("fine-tuning", (), memory=0, compute=compute, rate=0.0, seed=0)
        images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
        names = ["cat", "dog"] * (count // 2)

        def step() -> float:
            network.learn(images[: len(names)], names)
            return network.learner.gradient_norm

        return step

    return fastest(torch.device("cpu"), training_step, 64)
