"""The uncut network, trained with the same frames, augmentation, optimizer and schedule as the two halves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hierarchy.augment import augment
from hierarchy.backbone import build_backbone
from hierarchy.device import Compute, fastest, set_threads
from hierarchy.edge import normalise
from hierarchy.evaluation import HeldOut
from hierarchy.head import GrowingHead
from hierarchy.learner import Learner
from robot_edge.learning.batcher import Batcher
from robot_edge.learning.frame_memory import FrameMemory
from robot_edge.learning.framed import Framed
from robot_edge.learning.framing import Framing
from robot_edge.planning.edge_timing import training_memory
from robot_edge.sources.frames import Pixels
from robot_edge.sources.opening import open_source


class WholeTrainer:
    """Trains one network in one place, as fast as this machine can."""

    def __init__(self, backbone: str, *, image_size: int, batch: int, peak_learning_rate: float, seed: int) -> None:
        torch.manual_seed(seed)
        self.image_size = image_size
        features = build_backbone(backbone, image_size=image_size, weights="none")
        self.network = nn.Sequential(features.module, GrowingHead(features.features))
        compute = fastest(torch.device("cpu"), partial(_training_step, self.network, image_size), batch)
        self.learner = _learner(self.network, compute, peak_learning_rate, seed)
        self._rng = np.random.default_rng(seed)

    def step(self, images: Pixels, names: Sequence[str], *, progress: float | None) -> float:
        """Learn from images uint8 (N, H, W, 3) and their class names; return the loss."""
        loss = _step(self.network, self.learner, augment(images, self._rng), names, progress)
        return loss.item()

    @torch.inference_mode()
    def accuracy(self, source: str) -> float:
        """Return the share of a source's frames that it names right."""
        self.network.eval()
        result = HeldOut()
        reader = frames_of(source, self.image_size, batch=256)
        while (taken := reader.next()) is not None:
            with self.learner.compute.autocast():
                logits = self.network(self.learner.compute.tensor(normalise(taken.images)))
            result.add(taken.names, [self.learner.head.classes[index] for index in logits.argmax(1).tolist()])
        assert result.accuracy is not None, "the held-out source is empty"
        return result.accuracy

    def memory(self, batch: int) -> int:
        """Return the bytes that training takes: weights, gradients, momentum, and what the backward pass needs."""
        images = self.learner.compute.tensor(np.zeros((batch, 3, self.image_size, self.image_size), np.float32))
        self.network.train()

        def forward() -> None:
            with self.learner.compute.autocast():
                self.network(images)

        return training_memory(self.network, forward)


def frames_of(source: str, image_size: int, *, batch: int, epochs: int = 1, images: int = 0, seed: int = 0) -> Batcher:
    """Return a reader of a source's frames in batches."""
    shown = open_source(source, image_size=image_size, epochs=epochs, images=images, seed=seed)
    return Batcher(
        source=Framed(shown, Framing(size=image_size).input),
        size=batch,
        image_size=image_size,
        held_out_every=0,
        held_out=FrameMemory(0, image_size, 0),
    )


def train_whole(
    source: str,
    held_out: str,
    *,
    backbone: str = "resnet18",
    image_size: int = 32,
    epochs: int = 1,
    images: int = 0,
    batch: int = 64,
    peak_learning_rate: float = 0.05,
    threads: int = 1,
    seed: int = 0,
) -> float:
    """Train on a source and return the accuracy on the held-out one."""
    set_threads(threads)
    trainer = WholeTrainer(
        backbone, image_size=image_size, batch=batch, peak_learning_rate=peak_learning_rate, seed=seed
    )
    reader = frames_of(source, image_size, batch=batch, epochs=epochs, images=images, seed=seed)
    while (taken := reader.next()) is not None:
        trainer.step(taken.images, taken.names, progress=reader.progress)
    return trainer.accuracy(held_out)


def _learner(network: nn.Sequential, compute: Compute, peak_learning_rate: float, seed: int) -> Learner:
    head = network[-1]
    assert isinstance(head, GrowingHead)
    return Learner(network, head, compute=compute, peak_learning_rate=peak_learning_rate, seed=seed)


def _step(network: nn.Module, learner: Learner, images: Pixels, names: Sequence[str], progress: float | None) -> Tensor:
    with learner.random:
        labels = learner.begin_step(names, progress=progress)
        with learner.compute.autocast():
            logits = network(learner.compute.tensor(normalise(images))).float()
        loss = F.cross_entropy(logits, labels)
        if not learner.descend(loss):
            raise RuntimeError("training has diverged")
    return loss


def _training_step(network: nn.Sequential, image_size: int, compute: Compute, count: int) -> Callable[[], float]:
    network = copy.deepcopy(network)
    learner = _learner(network, compute, 0.0, 0)
    images = np.random.default_rng(0).integers(0, 256, (count, image_size, image_size, 3), np.uint8)
    names = [str(index % 2) for index in range(count)]

    def step() -> float:
        _step(network, learner, images, names, None)
        return learner.gradient_norm

    return step
