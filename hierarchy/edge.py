"""The robot's half: front of the backbone, bottleneck, early exit; and one training step of it. Torch only, no I/O."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from broker.errors import ConfigError, Diverged
from broker.wire.messages import SplitSpec
from broker.wire.quantize import Quantized, dequantize, quantize
from hierarchy.augment import augment
from hierarchy.backbone import Weights, build_backbone
from hierarchy.cut import Divided, split_backbone
from hierarchy.device import Compute, fastest
from hierarchy.encoding import Encoding, EncodingLayout
from hierarchy.exit_rows import crossing_width
from hierarchy.exits import ExitAt, FeatureExit, MapStatistics
from hierarchy.head import GrowingHead
from hierarchy.hiding import Hiding
from hierarchy.input_spec import InputSpec
from hierarchy.layers import (
    Channels,
    EarlyExit,
    bottleneck,
    crossing_shape,
    expansion,
    pool_between,
    pretrained_axes,
)
from hierarchy.learner import Learner, LearnerState
from hierarchy.losses import logit_adjusted_cross_entropy
from hierarchy.schedule import NO_WARM_UP, WARM_UP_STEPS
from hierarchy.still import CrossingEncoder, StillEncoder, fastest_inference
from hierarchy.weights_file import tensors_digest, weights_digest

# Stands for the first convolution and the normalisation behind it, whatever a backbone calls them.
STEM = "stem"
# Stands for all that is in front of the exit's head.
ALL = "all"
# Beyond it a network has diverged. Ranges of values up to it stay within the million that the wire takes; a message
# beyond that no trainer could read, so no receipt would ever free it.
LARGEST_ACTIVATION = 5e5
# Frames in the batch whose encoding is timed.
TIMED_FRAMES = 8


class EdgeSegment(nn.Module):
    """Encodes images to the activations that cross, and predicts from them with an early exit.

    stands_still: whether nothing learns but the exit's head. exit_at: where the exit sits. at_cut: shape of one sample
    at the cut, in front of the bottleneck.
    """

    def __init__(
        self,
        divided: Divided,
        bottleneck_channels: int,
        freeze: tuple[str, ...] = (),
        exit_at: ExitAt = "cut",
        spec: InputSpec = InputSpec(),  # noqa: B008  frozen
        pool: int = 0,
        axes: Tensor | None = None,
    ) -> None:
        """Put the halves' front to work.

        bottleneck_channels, pool: as in `crossing_shape`. axes: that the bottleneck begins as, of a pretrained network.
        freeze: layers to leave as they are, by name, STEM or ALL. spec: what the front wants its input to look like.
        rest_digest: of the pretrained weights that the rest begins with here, empty for random ones. pretrained:
        whether the front began with such.
        Raises CutError for an impossible bottleneck and ConfigError for a layer that the front does not have.
        """
        super().__init__()
        self.stands_still = ALL in freeze
        self.exit_at = exit_at
        self.at_cut = divided.shape
        self.front = divided.front
        self.bottleneck = bottleneck(divided.shape, bottleneck_channels, pool, axes)
        self.shape = crossing_shape(divided.shape, bottleneck_channels, pool)
        self.exit = _exit(divided, self.shape, exit_at, stands_still=self.stands_still)
        if isinstance(self.exit, FeatureExit) and self.stands_still:
            self._frozen = [self.front, self.bottleneck, self.exit.trunk]
        else:
            self._frozen = _layers(self.front, freeze)
        self.spec = spec
        self.rest_digest = ""
        self.pretrained = False
        for layer in self._frozen:
            layer.requires_grad_(False)

    @property
    def encoding(self) -> EncodingLayout | None:
        """What is kept of a frame in place of computing it again; None where that changes with each step."""
        if not self.stands_still:
            return None
        return EncodingLayout(features=self.exit.head.weight.shape[1], crossing=self.shape)

    def encode(self, images: Tensor) -> Tensor:
        """Return activations (N, C, ...) for normalised images (N, 3, H, W)."""
        activations: Tensor = self.bottleneck(self.front(images))
        return activations

    def forward(self, images: Tensor) -> Tensor:
        """Return the exit's logits (N, classes) for normalised images (N, 3, H, W), as if nothing were quantized."""
        at_cut = self.front(images)
        logits: Tensor = self.exit(at_cut if isinstance(self.exit, FeatureExit) else self.bottleneck(at_cut))
        return logits

    def train(self, mode: bool = True) -> EdgeSegment:
        super().train(mode)
        for layer in self._frozen:
            layer.eval()  # its running statistics stay as they are, too
        return self


def _exit(
    divided: Divided, crossing: tuple[int, ...], exit_at: ExitAt, *, stands_still: bool
) -> EarlyExit | FeatureExit:
    """Return the exit at that place. Where all in front of it stands still, it is a head on features."""
    if exit_at == "end":
        return FeatureExit(divided.rest, divided.features)
    if stands_still:
        return FeatureExit(MapStatistics(), MapStatistics.count(divided.shape))
    return EarlyExit(crossing)


def build_edge_segment(
    backbone: str,
    cut: str,
    *,
    image_size: int,
    bits: int,
    bottleneck_channels: int,
    weights: Weights,
    freeze: tuple[str, ...] = (),
    exit_at: ExitAt = "cut",
    pool: int = 0,
) -> tuple[EdgeSegment, SplitSpec]:
    """Return a new edge segment, and the split that tells the other end which half is left to it.

    Raises ConfigError, and CutError where the network cannot be cut there.
    """
    whole = build_backbone(backbone, image_size=image_size, weights=weights)
    divided = split_backbone(whole, cut)
    digest = "" if weights == "none" else weights_digest(divided.rest)
    axes = pretrained_axes(divided.rest, divided.shape, bottleneck_channels, image_size=image_size, weights=weights)
    segment = EdgeSegment(divided, bottleneck_channels, freeze, exit_at, whole.spec, pool, axes)
    segment.rest_digest, segment.pretrained = digest, weights != "none"
    split = SplitSpec(
        backbone=backbone,
        cut=divided.cut,
        image_size=image_size,
        bits=bits,
        bottleneck=bottleneck_channels,
        shape=segment.shape,
    )
    return segment, split


def front_digest(weights: Mapping[str, Tensor], split: SplitSpec) -> str:
    """Return 16 hexadecimal digits of what decides what crosses: front, bottleneck and split.

    weights: of a segment, by the names that it has for them.
    """
    crossing = {name: one for name, one in weights.items() if name.startswith(("front.", "bottleneck."))}
    return hashlib.sha256(f"{split.fingerprint} {tensors_digest(crossing)}".encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class EdgeStep:
    """What one step found.

    loss: of the exit, over fresh and rehearsed frames. correct: bool (fresh,), whether the exit had each fresh frame
    right before it learned from it. quantized: activations of all frames, the fresh ones first.
    """

    loss: float
    correct: NDArray[np.bool_]
    quantized: Quantized


@dataclass(frozen=True, kw_only=True, eq=False)
class EdgeTrainerState:
    """All that training needs to go on. augmentation: of the random numbers that pictures are augmented with."""

    learner: LearnerState
    augmentation: dict[str, Any]


class EdgeTrainer:
    """Trains an edge segment and its exit on the exit's own loss.

    bits: of a value in what it trains with and sends; at first, and always in tests, as many as the split has.
    hiding: an attribute that what crosses must not tell; None for none.
    """

    def __init__(
        self,
        segment: EdgeSegment,
        *,
        bits: int,
        compute: Compute,
        peak_learning_rate: float,
        seed: int = 0,
        hiding: Hiding | None = None,
    ) -> None:
        self.segment = segment
        self._hiding = hiding
        self.bits = self._bits_of_split = bits
        self.learner = Learner(
            segment,
            segment.exit.head,
            compute=compute,
            peak_learning_rate=peak_learning_rate,
            seed=seed,
            warm_up=NO_WARM_UP if segment.pretrained else WARM_UP_STEPS,
            slow=segment.front if segment.pretrained else None,
        )
        self._rng = np.random.default_rng(seed)
        self._encoder: Callable[[NDArray[np.uint8]], Encoding] | None = None  # of the weights as they are

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes learned so far, in the order they came."""
        return self.segment.exit.head.classes

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return self.learner.steps

    @property
    def version(self) -> int:
        """Of the segment as it encodes: the steps taken, or 0 as long as nothing in front of the cut learns."""
        encoder = (*self.segment.front.parameters(), *self.segment.bottleneck.parameters())
        return self.steps if any(parameter.requires_grad for parameter in encoder) else 0

    def step(self, images: NDArray[np.uint8], names: Sequence[str], *, fresh: int, progress: float | None) -> EdgeStep:
        """Learn from images uint8 (N, H, W, 3) and their class names, of which the first ``fresh`` are new.

        A class met for the first time grows the exit. Raises Diverged.
        """
        with self.learner.random:
            labels = self.learner.begin_step(names, progress=progress)
            seen, told = self._shown(augment(images, self._rng))
            loss = logit_adjusted_cross_entropy(seen.logits[: len(names)], labels, fresh)
            if not self.learner.descend(loss if told is None else loss + told):
                raise Diverged("training has diverged (loss or gradient is not finite): use a lower --learning-rate")
        correct = (seen.logits[:fresh].argmax(1) == labels[:fresh]).cpu().numpy()
        return EdgeStep(loss=loss.item(), correct=correct, quantized=seen.quantized[: len(names)])

    def state(self) -> EdgeTrainerState:
        """Return what a checkpoint must hold for training to go on."""
        return EdgeTrainerState(learner=self.learner.state(), augmentation=dict(self._rng.bit_generator.state))

    def restore(self, state: EdgeTrainerState) -> None:
        """Go on from a state. Raises RuntimeError where it is another network's."""
        self.learner.restore(state.learner)
        self._encoder = None
        self._rng.bit_generator.state = state.augmentation

    def encode(self, images: NDArray[np.uint8]) -> Encoding:
        """Return what a segment that stands still makes of images uint8 (N, H, W, 3). Any thread may call it.

        Raises Diverged.
        """
        if self._encoder is None:
            self._encoder = still_encoder(self.segment, self.learner.compute)
        return self._encoder(images)

    @torch.inference_mode()
    def evaluate(self, images: NDArray[np.uint8]) -> tuple[list[str], Quantized]:
        """Return the exit's class name for each of the images uint8 (N, H, W, 3), and their activations.

        Raises Diverged.
        """
        if self.segment.stands_still:
            return self.evaluate_encoded(self.encode(images))
        self.segment.eval()
        seen = self._run(images, self._bits_of_split)
        return self._names(seen.logits), seen.quantized

    @torch.inference_mode()
    def evaluate_encoded(self, encoding: Encoding) -> tuple[list[str], Quantized]:
        """Return the same of images that are encoded."""
        return self._names(head_logits(self.segment.exit.head, encoding)), encoding.quantized(self._bits_of_split)

    def _names(self, logits: Tensor) -> list[str]:
        return [self.classes[index] for index in logits.argmax(1).tolist()]

    def _shown(self, images: NDArray[np.uint8]) -> tuple[SegmentPass, Tensor | None]:
        """Run the segment on images, and behind them on frames of what is to be hidden; return what those tell of it.

        None where nothing is.
        """
        if self._hiding is None:
            return self._run(images, self.bits), None
        others, values = self._hiding.draw(self._rng)
        seen = self._run(np.concatenate([images, augment(others, self._rng)]), self.bits)
        return seen, self._hiding.loss(seen.crossing[len(images) :], values)

    def _run(self, images: NDArray[np.uint8], bits: int) -> SegmentPass:
        return run_segment(self.segment, images, bits=bits, compute=self.learner.compute)


def still_encoder(segment: EdgeSegment, compute: Compute) -> Callable[[NDArray[np.uint8]], Encoding]:
    """Return what encodes images uint8 (N, H, W, 3) with a segment that stands still, on any thread."""
    assert isinstance(segment.exit, FeatureExit)
    prepare = partial(normalise, spec=segment.spec)
    return StillEncoder(segment.front, segment.bottleneck, segment.exit, compute, prepare).encode


def crossing_encoder(segment: EdgeSegment, compute: Compute) -> CrossingEncoder | None:
    """Return what makes of a sample that crossed what the cloud's half makes of it, for an exit that the cloud fits.

    None where the cloud's half is another one than the robot's copy: it learns its way out of the bottleneck.
    """
    if segment.exit_at == "cut":
        return CrossingEncoder(None, compute, features=crossing_width(segment.shape))
    assert isinstance(segment.exit, FeatureExit)
    narrow = next((one for one in segment.bottleneck.modules() if isinstance(one, Channels)), None)
    axes = None if narrow is None else narrow.axes
    if narrow is not None and axes is None:
        return None
    trunk, channels = segment.exit.trunk, segment.shape[0] if narrow else 0
    widen = expansion(segment.at_cut, channels, pool_between(segment.at_cut, segment.shape), trunk, axes)
    return CrossingEncoder(nn.Sequential(widen, trunk), compute, features=segment.exit.head.weight.shape[1])


def head_logits(head: GrowingHead, encoding: Encoding) -> Tensor:
    """Return a head's logits, float32 (N, classes), for frames that are encoded."""
    logits: Tensor = head(torch.from_numpy(encoding.features).to(head.weight.device))
    return logits


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentPass:
    """One pass through a segment.

    crossing: (N, C, ...), to the bit what the cloud receives, with a gradient as if nothing were rounded. quantized:
    the same in codes. logits: the exit's, float32 (N, classes).
    """

    crossing: Tensor
    quantized: Quantized
    logits: Tensor


def run_segment(segment: EdgeSegment, images: NDArray[np.uint8], *, bits: int, compute: Compute) -> SegmentPass:
    """Run a segment on images uint8 (N, H, W, 3). Raises Diverged."""
    with compute.autocast():
        inputs, seen = compute.tensor(normalise(images, segment.spec)), None
        if isinstance(segment.exit, FeatureExit):
            seen = segment.front(inputs)
            activations = segment.bottleneck(seen)
        else:
            activations = segment.encode(inputs)
        values = activations.detach().float().cpu().contiguous().numpy()
        if not (values.max() <= LARGEST_ACTIVATION and values.min() >= -LARGEST_ACTIVATION):  # true for NaN too
            raise Diverged("training has diverged (so have the activations): use a lower --learning-rate")
        quantized = quantize(values, bits)
        received = compute.tensor(dequantize(quantized)).to(activations.dtype)
        crossing: Tensor = _StraightThrough.apply(activations, received)
        # An exit at the cut sees what the cloud will receive, to the bit.
        logits: Tensor = segment.exit(crossing if seen is None else seen)
    return SegmentPass(crossing=crossing, quantized=quantized, logits=logits.float())


class _StraightThrough(torch.autograd.Function):
    """Rounded values in place of the exact ones, whose gradient is as if nothing had been rounded.

    Bengio et al., "Estimating or propagating gradients through stochastic neurons", 2013.
    """

    @staticmethod
    def forward(_context: Any, _exact: Tensor, rounded: Tensor) -> Tensor:
        return rounded

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def normalise(images: NDArray[np.uint8], spec: InputSpec = InputSpec()) -> NDArray[np.float32]:  # noqa: B008  frozen
    """Return float32 (N, 3, H, W), zero mean and unit deviation, for images uint8 (N, H, W, 3)."""
    mean, deviation = np.array(spec.mean, np.float32), np.array(spec.deviation, np.float32)
    scaled = images.astype(np.float32)
    rows = scaled.reshape(-1, images.shape[2] * 3)  # numpy is slow at arrays whose innermost run is three long
    rows *= np.tile(1 / (255 * deviation), images.shape[2])
    rows -= np.tile(mean / deviation, images.shape[2])
    return np.transpose(scaled, (0, 3, 1, 2))


def fastest_compute(segment: EdgeSegment, *, image_size: int, batch: int, device: torch.device) -> Compute:
    """Measure how this machine trains the segment fastest, or encodes with one that stands still.

    The segment stays as it is.
    """
    if segment.stands_still and isinstance(segment.exit, FeatureExit):
        images = np.random.default_rng(0).integers(0, 256, (TIMED_FRAMES, image_size, image_size, 3), np.uint8)
        return fastest_inference(
            segment.front, segment.bottleneck, segment.exit, normalise(images, segment.spec), device
        )

    def training_step(compute: Compute, count: int) -> Callable[[], float]:
        trainer = EdgeTrainer(copy.deepcopy(segment), bits=8, compute=compute, peak_learning_rate=0.0)
        # Not black: a wrong result of nothing but zeros would look right.
        images = np.random.default_rng(0).integers(0, 256, (count, image_size, image_size, 3), np.uint8)
        names = [str(index % 2) for index in range(count)]

        def step() -> float:
            trainer.step(images, names, fresh=count, progress=None)
            return trainer.learner.gradient_norm

        return step

    return fastest(device, training_step, batch)


def _layers(front: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    """Return the layers of those names."""
    # A layer is named as in torchvision: layer1, features.3, ... A name stands for all that is below it.
    # The tracer leaves a module out of the front where only its children are called, hence the prefixes. A module with
    # children may have parameters of its own, as timm's normalisation with its activation inside.
    every = dict(front.named_modules())
    leaves = {name: module for name, module in front.named_modules() if not list(module.children())}
    found: list[nn.Module] = []
    for name in names:
        if name == STEM:
            first = [module for module in every.values() if list(module.parameters(recurse=False))]
            normalised = len(first) > 1 and isinstance(first[1], nn.modules.batchnorm._NormBase)
            found += first[: 2 if normalised else 1]
            continue
        below = [module for one, module in every.items() if one == name or one.startswith(name + ".")]
        if not below:
            known = ", ".join(dict.fromkeys([ALL, STEM, *(leaf.split(".")[0] for leaf in leaves), *leaves]))
            raise ConfigError(f"--freeze {name}: the edge segment has no such layer; it has {known}")
        found += below
    return found
