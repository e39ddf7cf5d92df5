"""The cloud's half: expansion, rest of the backbone, growing head; and one training step of it. Torch only, no I/O."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from broker.errors import ConfigError, MalformedMessage
from broker.wire.messages import SplitSpec
from hierarchy.backbone import Weights, build_backbone
from hierarchy.cut import split_backbone
from hierarchy.device import Compute, fastest
from hierarchy.exits import of_one_length
from hierarchy.head import GrowingHead
from hierarchy.layers import crossing_shape, expansion, pool_between, pretrained_axes
from hierarchy.learner import Learner
from hierarchy.losses import logit_adjusted_cross_entropy
from hierarchy.schedule import WARM_UP_STEPS


class CloudSegment(nn.Module):
    """Predicts classes from the activations that crossed.

    stands_still: whether nothing learns but the head, on features of one length.
    """

    def __init__(self, split: SplitSpec, *, weights: Weights) -> None:
        """Build the half that a split leaves to the cloud.

        Raises ConfigError where the split is impossible, or the weights do not fit.
        """
        super().__init__()
        backbone = build_backbone(split.backbone, image_size=split.image_size, weights=weights)
        divided = split_backbone(backbone, split.cut)
        pool = pool_between(divided.shape, split.shape)
        crossing = crossing_shape(divided.shape, split.bottleneck, pool)
        if crossing != split.shape:
            raise ConfigError(f"the split says that {split.shape} crosses, {split.cut} gives {crossing}")
        axes = pretrained_axes(
            divided.rest, divided.shape, split.bottleneck, image_size=split.image_size, weights=weights
        )
        self.expansion = expansion(divided.shape, split.bottleneck, pool, divided.rest, axes)
        self.rest = divided.rest
        self.head = GrowingHead(backbone.features)
        self.stands_still = False

    def features(self, activations: Tensor) -> Tensor:
        """Return what the head takes, (N, features), for activations (N, C, ...)."""
        features: Tensor = self.rest(self.expansion(activations))
        return of_one_length(features) if self.stands_still else features

    def forward(self, activations: Tensor) -> Tensor:
        """Return logits (N, classes) for activations (N, C, ...)."""
        logits: Tensor = self.head(self.features(activations))
        return logits


@dataclass(frozen=True, kw_only=True)
class CloudStep:
    """What one step found.

    loss: over fresh and rehearsed samples. correct: bool (fresh,), whether each fresh sample was right before it
    was learned from.
    """

    loss: float
    correct: NDArray[np.bool_]


class CloudTrainer:
    """Trains a cloud segment on the final loss."""

    def __init__(
        self,
        segment: CloudSegment,
        *,
        compute: Compute,
        peak_learning_rate: float,
        seed: int = 0,
        warm_up: int = WARM_UP_STEPS,
    ) -> None:
        """warm_up: steps in which the rate rises to its peak where a run has no end."""
        self.segment = segment
        self.learner = Learner(
            segment,
            segment.head,
            compute=compute,
            peak_learning_rate=peak_learning_rate,
            seed=seed,
            warm_up=warm_up,
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes learned so far, in the order they came."""
        return self.segment.head.classes

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return self.learner.steps

    def step(
        self, activations: NDArray[np.float32], names: Sequence[str], *, fresh: int, progress: float | None
    ) -> CloudStep:
        """Learn from activations float32 (N, C, ...) and their class names, of which the first ``fresh`` are new.

        A class met for the first time grows the head. Raises MalformedMessage, and takes no step, where these
        activations make the loss or its gradient infinite.
        """
        with self.learner.random:
            labels = self.learner.begin_step(names, progress=progress)
            logits = self.logits(activations)
            loss = logit_adjusted_cross_entropy(logits, labels, fresh)
            if not self.learner.descend(loss):
                raise MalformedMessage(f"these activations give a loss of {loss.item():g}, or an infinite gradient")
        return CloudStep(loss=loss.item(), correct=(logits[:fresh].argmax(1) == labels[:fresh]).cpu().numpy())

    @torch.inference_mode()
    def features(self, activations: NDArray[np.float32]) -> NDArray[np.float16]:
        """Return what the head takes of activations float32 (N, C, ...), float16 (N, features), as it stands still.

        Raises MalformedMessage where these activations make infinities.
        """
        self.segment.eval()
        with self.learner.compute.autocast():
            features: Tensor = self.segment.features(self.learner.compute.tensor(activations))
        values: NDArray[np.float32] = features.float().cpu().numpy()
        if not np.isfinite(values).all():
            raise MalformedMessage("these activations give infinite features")
        return values.astype(np.float16)  # no value is larger than their length

    @torch.inference_mode()
    def named(self, features: NDArray[np.float16]) -> list[str]:
        """Return the class name for each of the features (N, F); empty names before the first class."""
        if not self.classes:
            return [""] * len(features)
        logits: Tensor = self.segment.head(torch.from_numpy(features).to(self.learner.compute.device).float())
        return [self.classes[index] for index in logits.argmax(1).tolist()]

    @torch.inference_mode()
    def predict(self, activations: NDArray[np.float32]) -> list[str]:
        """Return the class name for each of the activations float32 (N, C, ...); empty names before the first class."""
        if not self.classes:
            return [""] * len(activations)
        self.segment.eval()
        return [self.classes[index] for index in self.logits(activations).argmax(1).tolist()]

    def logits(self, activations: NDArray[np.float32]) -> Tensor:
        """Return the head's logits, float32 (N, classes), for activations float32 (N, C, ...)."""
        with self.learner.compute.autocast():
            logits: Tensor = self.segment(self.learner.compute.tensor(activations))
        return logits.float()


def fastest_compute(segment: CloudSegment, shape: tuple[int, ...], batch: int, device: torch.device) -> Compute:
    """Measure how this machine trains the segment fastest on batches of samples of that shape (C, ...)."""

    def training_step(compute: Compute, count: int) -> Callable[[], float]:
        trainer = CloudTrainer(copy.deepcopy(segment), compute=compute, peak_learning_rate=0.0)
        # Not zeros: all alike, they have no variance, and normalisation behind normalisation makes that infinite.
        activations = np.random.default_rng(0).standard_normal((count, *shape), np.float32)
        names = [str(index % 2) for index in range(count)]

        def step() -> float:
            trainer.step(activations, names, fresh=count, progress=None)
            return trainer.learner.gradient_norm

        return step

    return fastest(device, training_step, batch)
