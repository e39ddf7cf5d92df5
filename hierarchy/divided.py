"""Both halves of a network in one process: what a robot and its trainer learn, without broker, clock or threads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from broker.errors import ConfigError, Diverged, MalformedMessage
from broker.program.machine import refused
from broker.wire.bounds import check_class_name
from broker.wire.messages import SplitSpec
from broker.wire.quantize import MAX_BITS, MIN_BITS, Quantized, dequantize, pack_activations
from hierarchy.backbone import Weights, build_backbone
from hierarchy.cloud import CloudSegment, CloudTrainer
from hierarchy.cut import CutPoint, find_cut_points
from hierarchy.device import Compute, choose_device
from hierarchy.edge import EdgeSegment, EdgeTrainer, EdgeTrainerState, build_edge_segment, run_segment
from hierarchy.layers import pool_of
from hierarchy.learner import LearnerState
from hierarchy.random_state import TorchRandom
from hierarchy.runtime.checkpoint import damaged, load_checkpoint, save_checkpoint
from hierarchy.runtime.state import Layout

# Images in one forward pass, as a thousand would take gigabytes. They share the range of each channel, as in a message.
PREDICTED_AT_ONCE = 256

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one training step found.

    exit_loss, cloud_loss: mean over the images. exit_correct, cloud_correct: bool (fresh,), whether each fresh image
    was right before it was learned from. quantized: what crossed the cut.
    """

    exit_loss: float
    cloud_loss: float
    exit_correct: NDArray[np.bool_]
    cloud_correct: NDArray[np.bool_]
    quantized: Quantized

    @property
    def crossed_bytes(self) -> int:
        """Bytes that the activations take on the wire, compressed. Computed at each call."""
        packed = pack_activations(self.quantized)
        return len(packed.data) + packed.low.nbytes + packed.step.nbytes


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The most probable class of each image, empty before the first class, and its probability, float32 (N,)."""

    names: list[str]
    confidences: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the early exit says of some images, and what the cloud says of them."""

    exit: Answers
    cloud: Answers


@dataclass(frozen=True, kw_only=True, eq=False)
class DividedState:
    """What `DividedNetwork.save` writes. freeze: as `divide` takes it."""

    split: SplitSpec
    edge: EdgeTrainerState
    cloud: LearnerState
    freeze: tuple[str, ...]
    edge_learning_rate: float
    cloud_learning_rate: float


LAYOUT = Layout(kind=DividedState, migrations=(dict,))
ADVICE = "name one of DividedNetwork.save, not of another program"


class DividedNetwork:
    """An edge segment with its early exit and the cloud segment behind it. `divide` makes one, `load` brings one back.

    edge: the robot's half; ``edge.encode`` is (N, 3, H, W) -> (N, *split.shape). cloud: (N, *split.shape) -> logits.
    split: what both halves agree on. One thread at a time may use a network.
    """

    def __init__(
        self, edge_trainer: EdgeTrainer, cloud_trainer: CloudTrainer, split: SplitSpec, freeze: tuple[str, ...] = ()
    ) -> None:
        self.edge_trainer = edge_trainer
        self.cloud_trainer = cloud_trainer
        self.split = split
        self._freeze = freeze

    @property
    def edge(self) -> EdgeSegment:
        """The robot's half."""
        return self.edge_trainer.segment

    @property
    def cloud(self) -> CloudSegment:
        """The cloud's half."""
        return self.cloud_trainer.segment

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that the exit knows, in the order they came."""
        return self.edge_trainer.classes

    def step(
        self, images: Pixels, names: Sequence[str], *, fresh: int | None = None, progress: float | None = None
    ) -> Step:
        """Let both halves learn from images uint8 (N, H, W, 3) of the split's size, and their class names.

        A name met for the first time becomes a class of both heads.
        fresh: how many of the images, from the first on, are new; the others are rehearsed. None: all are new.
        progress: share of the run that is over, 0 to 1, for a one-cycle learning rate; None where the run has no end.

        Raises Diverged; and, before anything is learned, ConfigError for a name that no class can have and ValueError
        for images of another shape and for ``fresh`` or ``progress`` out of range.
        """
        self._check(images)
        if len(names) != len(images):
            raise ValueError(f"{len(images)} images and {len(names)} class names: give one name for each image")
        fresh = len(names) if fresh is None else fresh
        if fresh not in range(len(names) + 1):
            raise ValueError(f"fresh {fresh}: use 0 to {len(names)}, as many as there are images")
        if progress is not None and not 0 <= progress <= 1:  # true for NaN, too
            raise ValueError(f"progress {progress}: use 0 to 1, or None")
        _check_classes(names)
        edge = self.edge_trainer.step(images, names, fresh=fresh, progress=progress)
        try:
            cloud = self.cloud_trainer.step(dequantize(edge.quantized), names, fresh=fresh, progress=progress)
        except MalformedMessage as error:
            raise Diverged(f"training has diverged ({error}): use a lower cloud_learning_rate") from None
        return Step(
            exit_loss=edge.loss,
            cloud_loss=cloud.loss,
            exit_correct=edge.correct,
            cloud_correct=cloud.correct,
            quantized=edge.quantized,
        )

    @torch.inference_mode()
    def predict(self, images: Pixels) -> Prediction:
        """Return what both ends say of images uint8 (N, H, W, 3) of the split's size.

        Raises Diverged, and ValueError for images of another shape.
        """
        self._check(images)
        self.edge.eval()  # the next step sets both back
        self.cloud.eval()
        exit_logits, cloud_logits = [], []
        for start in range(0, len(images), PREDICTED_AT_ONCE):
            part = images[start : start + PREDICTED_AT_ONCE]
            seen = run_segment(self.edge, part, bits=self.split.bits, compute=self.edge_trainer.learner.compute)
            exit_logits.append(seen.logits)
            cloud_logits.append(self.cloud_trainer.logits(dequantize(seen.quantized)))
        return Prediction(
            exit=_answers(self.edge_trainer.classes, exit_logits),
            cloud=_answers(self.cloud_trainer.classes, cloud_logits),
        )

    def save(self, folder: str | Path) -> None:
        """Write all that training needs to go on into a folder. Raises StorageError for a full disk."""
        state = DividedState(
            edge=self.edge_trainer.state(),
            cloud=self.cloud_trainer.learner.state(),
            split=self.split,
            freeze=self._freeze,
            edge_learning_rate=self.edge_trainer.learner.peak_learning_rate,
            cloud_learning_rate=self.cloud_trainer.learner.peak_learning_rate,
        )
        try:
            save_checkpoint(Path(folder), LAYOUT, state)
        except OSError as error:
            raise refused(f"the network in {folder}", error, path=Path(folder)) from error

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto") -> DividedNetwork:
        """Return the network that `save` wrote. On the same kind of device its training goes on bit for bit.

        device: auto, cpu, cuda or mps. Raises ConfigError where the folder holds no network of `save`.
        """
        choose_device(device)  # what is wrong with it is not the file's fault
        state = load_checkpoint(Path(folder), LAYOUT, ADVICE)
        try:
            return _restored(state, device)
        except (ConfigError, RuntimeError, LookupError, TypeError, ArithmeticError, ValueError) as error:
            raise damaged(Path(folder), error, ADVICE) from error

    def _check(self, images: Pixels) -> None:
        size = self.split.image_size
        if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3) or not len(images):
            raise ValueError(f"images are {images.dtype} {images.shape}: give uint8 (N, {size}, {size}, 3)")


def divide(
    backbone: str,
    cut: str,
    *,
    image_size: int = 32,
    bits: int = 4,
    bottleneck: int = 0,
    pool: int = 0,
    weights: Weights = "none",
    freeze: Sequence[str] = (),
    classes: Iterable[str] = (),
    edge_learning_rate: float = 0.05,
    cloud_learning_rate: float = 0.02,
    seed: int = 0,
    device: str = "auto",
) -> DividedNetwork:
    """Cut a classifier of torchvision or timm in two, put an early exit on the front and a growing head on the rest.

    backbone, cut: as torchvision names them, or timm:NAME; `cut_points` lists the cuts. image_size: pixels a side.
    bits: of each value that crosses, 1 to 8. bottleneck: channels that cross; 0 for all that the cut has.
    pool: places a side that cross, each an average of a part of the map; 0 for the map as it is.
    weights: none for random ones, default for the library's pretrained ones, or the path of a state dict.
    freeze: layers of the front that do not learn. classes: to begin with; more come as they are met.
    edge_learning_rate, cloud_learning_rate: at their peak.
    seed: of weights, augmentation and dropout. device: auto, cpu, cuda or mps.

    With the same seed both halves together are the whole network, bit for bit, but for what the quantizer rounds.
    Raises ConfigError for settings that cannot work, CutError where the network cannot be cut there.
    """
    if not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
        raise ConfigError(f"bits {bits}: use {MIN_BITS} to {MAX_BITS}")
    if not isinstance(weights, Path) and weights not in {"none", "default"}:
        raise ConfigError(f"weights {weights}: use none or default, or a Path of a state dict")
    for end, rate in (("edge", edge_learning_rate), ("cloud", cloud_learning_rate)):
        if not 0 <= rate < math.inf:  # true for NaN, too
            raise ConfigError(f"{end}_learning_rate {rate}: use 0 or more")
    if seed not in range(2**63):
        raise ConfigError(f"seed {seed}: use a whole number from 0 on, below 2 ** 63")
    place, names = choose_device(device), list(classes)
    _check_classes(names)
    if len(set(names)) != len(names):
        raise ConfigError(f"classes {names}: name each one once")
    compute = Compute(device=place)
    with TorchRandom(seed, place):
        edge, split = build_edge_segment(
            backbone,
            cut,
            image_size=image_size,
            bits=bits,
            bottleneck_channels=bottleneck,
            weights=weights,
            freeze=tuple(freeze),
            pool=pool,
        )
        edge.exit.head.grow(names, None)
    with TorchRandom(seed, place):  # draws the same backbone once more, as the other end would
        cloud = CloudSegment(split, weights=weights)
        cloud.head.grow(names, None)
    return DividedNetwork(
        EdgeTrainer(edge, bits=bits, compute=compute, peak_learning_rate=edge_learning_rate, seed=seed),
        CloudTrainer(cloud, compute=compute, peak_learning_rate=cloud_learning_rate, seed=seed),
        split,
        tuple(freeze),
    )


def cut_points(backbone: str, *, image_size: int = 32) -> list[CutPoint]:
    """Return where a backbone can be cut, in the order of computation. Raises ConfigError for an unknown backbone."""
    return find_cut_points(build_backbone(backbone, image_size=image_size, weights="none"))


def _restored(state: DividedState, device: str) -> DividedNetwork:
    split = state.split
    network = divide(
        split.backbone,
        split.cut,
        image_size=split.image_size,
        bits=split.bits,
        bottleneck=split.bottleneck,
        pool=pool_of(split.shape),
        freeze=state.freeze,
        edge_learning_rate=state.edge_learning_rate,
        cloud_learning_rate=state.cloud_learning_rate,
        device=device,
    )
    network.edge_trainer.restore(state.edge)
    network.cloud_trainer.learner.restore(state.cloud)
    for learner in (network.edge_trainer.learner, network.cloud_trainer.learner):
        with learner.random:  # PyTorch refuses a damaged state of its generators
            pass
    return network


def _check_classes(names: Sequence[str]) -> None:
    """Raise ConfigError for what no class can be called."""
    for name in names:
        if not isinstance(name, str):
            raise ConfigError(f"the name of a class has to be text, not {name!r}")
        try:
            check_class_name(name)
        except MalformedMessage as error:
            raise ConfigError(str(error)) from None


def _answers(classes: tuple[str, ...], logits: list[Tensor]) -> Answers:
    every = torch.cat(logits)
    if not classes:
        return Answers(names=[""] * len(every), confidences=np.zeros(len(every), np.float32))
    confidences, best = every.softmax(1).max(1)
    return Answers(names=[classes[index] for index in best.tolist()], confidences=confidences.cpu().numpy())
