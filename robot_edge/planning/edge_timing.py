"""What each way to divide costs this robot: time, memory and bytes, measured on a few of its own frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from broker.errors import ConfigError
from broker.wire.quantize import MAX_BITS, pack_activations, packed_size, quantize
from hierarchy.backbone import build_backbone
from hierarchy.cut import CutPoint, deepest_cut, find_cut_points, split_backbone
from hierarchy.default_cut import cross_at
from hierarchy.device import Compute, choose_device, step_seconds, ways_to_compute
from hierarchy.edge import EdgeSegment, EdgeTrainer, fastest_compute, normalise
from hierarchy.hiding import IN_STEP, Hiding
from robot_edge.learning.automatic import STILL_BITS
from robot_edge.learning.segment import build_edge
from robot_edge.run.config import RobotConfig

# The bottleneck that is measured, beside none. Others take as long within what can be measured here: a convolution to
# 64 channels is a hundredth of what is before and behind it.
NARROW = 16
# An exit behind layers that have not yet made the image so many times narrower sees edges and colours.
NARROWED = 4
# A network with fewer sizes than these has most of its layers at one.
FEW_SIZES = 3
# One bit is for --privacy and --hide alone.
MIN_BITS = 2
# How long a forward pass is timed, and a step at least.
FORWARD_SECONDS, STEP_SECONDS = 0.5, 2.0
# Float32 weights, gradients and momentum.
BYTES_PER_PARAMETER = 12


class SplitCandidate(NamedTuple):
    """A cut, the channels that it has, and those of the bottleneck behind it, 0 for none.

    pool, bits: what crosses of a network that stands still, or is private; bits is 0 where several are to be looked at,
    and another number where that alone hides an attribute.
    """

    cut: str
    channels: int
    bottleneck: int
    pool: int = 0
    bits: int = 0


@dataclass(frozen=True, kw_only=True)
class EdgeCost:
    """What a training step takes: seconds of its forward pass and of all of it, bytes of memory.

    compute: how it is computed. compressed: what is left of a byte of codes as it goes up, by bits.
    """

    compute: Compute

    forward: float
    step: float
    memory: int
    compressed: dict[int, float]


def candidates(config: RobotConfig, cuts: Sequence[str]) -> list[SplitCandidate]:
    """Return the cuts to look at, by name, without a bottleneck and with one.

    cuts: names, or none for all that make sense. Raises CutError where a name is no cut, and ConfigError
    where none makes sense.
    """
    backbone = build_backbone(config.network.backbone, image_size=config.network.image_size, weights="none")
    if cuts:
        shapes = {cut: split_backbone(backbone, cut).shape for cut in cuts}
    else:
        points = [
            point for point in find_cut_points(backbone) if _width(point.shape) * NARROWED <= config.network.image_size
        ]
        modules = [point for point in points if point.module]
        chosen = _stages(modules, deepest_cut(backbone)) if config.network.stands_still else _chosen(modules)
        # Behind the last map the cloud would have nothing but a classifier.
        shapes = {point.module or point.name: point.shape for point in chosen if _width(point.shape) > 1}
    if not shapes:
        raise ConfigError(
            f"{config.network.backbone} has no map at most a quarter as wide as the image: name some --cuts"
        )
    if config.network.stands_still:
        return [_as_default(config, cut, shape) for cut, shape in shapes.items()]
    if config.network.privacy != "off":
        return [_as_private(config, cut, shape) for cut, shape in shapes.items()]
    bits = config.network.bits if config.network.hidden_path else 0
    return [
        SplitCandidate(cut, shape[0], bottleneck, bits=bits)
        for cut, shape in shapes.items()
        for bottleneck in (0, NARROW)
        if bottleneck < shape[0]
    ]


def _as_default(config: RobotConfig, cut: str, shape: tuple[int, ...]) -> SplitCandidate:
    """Return what a network that stands still lets cross there where nobody says."""
    point = CutPoint(name=cut, module=cut, shape=shape, channel_axis=1)
    found = cross_at(point, image_size=config.network.image_size)
    bits = min(max(MIN_BITS, found.bits), STILL_BITS[config.network.privacy])
    return SplitCandidate(cut, shape[0], found.bottleneck, found.pool, bits)


def _as_private(config: RobotConfig, cut: str, shape: tuple[int, ...]) -> SplitCandidate:
    """Return what a network that learns lets cross there for its --privacy."""
    network = config.network
    channels = network.bottleneck if network.bottleneck <= shape[0] else 0
    return SplitCandidate(cut, shape[0], channels, network.pool, network.bits)


def _width(shape: tuple[int, ...]) -> int:
    """Return how many columns a sample (C, ...) has; of a transformer's tokens, those of the square that they are."""
    return math.isqrt(shape[1]) if len(shape) == 2 else max(shape[1:], default=1)


def _chosen(points: list[CutPoint]) -> list[CutPoint]:
    """Return the last cut of each size, and some more where nearly all are of one size, as a transformer's."""
    last = {point.shape: point for point in points}
    spread = points[len(points) // 4 :: max(1, len(points) // 4)] if len(last) < FEW_SIZES else []
    return list({point.name: point for point in [*spread, *last.values()]}.values())


def _stages(points: list[CutPoint], deepest: CutPoint) -> list[CutPoint]:
    """Return the ends of the outermost modules, the last of each width, and the deepest cut; none behind that.

    What is inside of a block is as good a cut only by chance. A transformer has one width, and is cut as others are.
    """
    names = [point.name for point in points]
    points = points[: names.index(deepest.name)] if deepest.name in names else points
    by_width: dict[int, list[CutPoint]] = {}
    for point in points:
        by_width.setdefault(_width(point.shape), []).append(point)
    if len(by_width) < FEW_SIZES:
        return [*_chosen(points), deepest]
    outermost = []
    for its in by_width.values():
        depth = min((point.module or "").count(".") for point in its)
        outermost.append([point for point in its if (point.module or "").count(".") == depth][-1])
    return [*outermost, deepest]


class EdgeTiming:
    """The robot's half of one way to divide, ready to be timed."""

    def __init__(self, config: RobotConfig, compute: Compute | None = None, hiding: Hiding | None = None) -> None:
        """compute: how, where that is known already; else the fastest way is measured. hiding: what a step takes more
        for an attribute that is to be hidden.
        """
        torch.manual_seed(config.open_seed)
        self._compute = compute
        self._hiding = hiding
        self._config = config
        self._segment, self.split, _ = build_edge(config.network)

    def least_memory(self, images: NDArray[np.uint8]) -> int:
        """Return the bytes that training on such images takes, in whatever precision takes least."""
        known = [self._compute] if self._compute else ways_to_compute(choose_device(self._config.device))
        images = self._in_step(images)
        return min(_memory(self._segment, compute, images) for compute in {one.dtype: one for one in known}.values())

    def measure(
        self, images: NDArray[np.uint8], names: Sequence[str], begin: Callable[[], Callable[[], bool]]
    ) -> EdgeCost:
        """Take steps on images uint8 (N, H, W, 3) of those classes.

        begin: called when steps are about to be timed, to let the trainer's begin, too: on one machine each slows the
        other down. Returns what says whether these may end.
        """
        config, segment = self._config, self._segment
        compute = self._compute or fastest_compute(
            segment, image_size=config.network.image_size, batch=len(names), device=choose_device(config.device)
        )
        trainer = EdgeTrainer(
            segment,
            bits=config.network.bits,
            compute=compute,
            peak_learning_rate=config.learning.learning_rate,
            hiding=self._hiding,
        )

        def step() -> None:
            pack_activations(trainer.step(images, names, fresh=len(names), progress=None).quantized)

        step()
        forward = step_seconds(lambda: trainer.evaluate(images), FORWARD_SECONDS)
        seconds = step_seconds(step, STEP_SECONDS, begin())
        memory = _memory(segment, compute, self._in_step(images))
        compressed = _compressed(segment, compute, images, config.network.bits)
        return EdgeCost(compute=compute, forward=forward, step=seconds, memory=memory, compressed=compressed)

    def _in_step(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return as many images as a step that learns from these encodes."""
        return (
            images
            if self._hiding is None
            else np.concatenate([images, np.resize(images, (IN_STEP, *images.shape[1:]))])
        )


@torch.inference_mode()
def _compressed(segment: EdgeSegment, compute: Compute, images: NDArray[np.uint8], sent_bits: int) -> dict[int, float]:
    segment.eval()
    with compute.autocast():
        values = segment.encode(compute.tensor(normalise(images, segment.spec))).float().cpu().contiguous().numpy()
    return {
        bits: len(pack_activations(quantize(values, bits)).data) / packed_size(values.size, bits)
        for bits in sorted({sent_bits, *range(MIN_BITS, MAX_BITS + 1)})
    }


def memory_of(config: RobotConfig) -> int:
    """Return the bytes that training the robot's half takes, in float32."""
    segment, _, _ = build_edge(config.network)
    images = np.zeros((config.learning.batch, config.network.image_size, config.network.image_size, 3), np.uint8)
    return _memory(segment, Compute(device=torch.device("cpu")), images)


def _memory(segment: EdgeSegment, compute: Compute, images: NDArray[np.uint8]) -> int:
    if segment.stands_still:
        return still_memory(segment, normalise(images[:1], segment.spec))

    def forward() -> None:
        with compute.autocast():
            segment(compute.tensor(normalise(images, segment.spec)))

    segment.train()
    return training_memory(segment, forward)


@torch.inference_mode()
def still_memory(segment: EdgeSegment, image: NDArray[np.float32]) -> int:
    """Return the bytes of a segment's weights, and of the largest input and output of a layer for one image."""
    largest = 0

    def note(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal largest
        tensors = [one for one in (*inputs, output) if isinstance(one, Tensor)]
        largest = max(largest, sum(one.numel() * one.element_size() for one in tensors))

    hooks = [one.register_forward_hook(note) for one in segment.modules() if not list(one.children())]
    segment.eval()
    segment(torch.from_numpy(image))
    for hook in hooks:
        hook.remove()
    weights = (*segment.parameters(), *segment.buffers())
    return sum(one.numel() * one.element_size() for one in weights) + largest


def training_memory(module: nn.Module, forward: Callable[[], object]) -> int:
    """Return the bytes of weights, gradients and momentum, and of what a forward pass keeps for its backward pass."""
    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()  # of which several views may be kept
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward()
    parameters = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    return BYTES_PER_PARAMETER * parameters + sum(kept.values())
