"""The part of a segment that stands still: what it makes of a frame never changes. Torch only, no I/O."""

from __future__ import annotations

import copy
import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from broker.errors import Diverged
from hierarchy.device import WORTH_CHANGING, Compute, ways_to_compute
from hierarchy.encoding import Encoding, half, joined
from hierarchy.exit_rows import crossing_features
from hierarchy.exits import FeatureExit, of_one_length

# Frames in one forward pass: on a processor, and elsewhere. There more take longer each, as their maps outgrow its
# caches (13 ms of four, 15 of sixteen, 20 of thirty-two), and at 224 pixels 20 MB each.
ENCODED_AT_ONCE, ENCODED_AT_ONCE_ELSEWHERE = 4, 16
# Rounds in which each way to compute encodes one frame and a batch, and how long all of it may take: a busy machine has
# time for the first ones.
TIMED_ROUNDS, MAX_SECONDS = 4, 8.0
# Features may differ from float32's by this share of their length. Right bfloat16 was off by 2.4 %, which moved no
# accuracy; a wrong kernel's are another picture's.
MAX_OFF = 0.08

log = logging.getLogger(__name__)


class StillEncoder:
    """Encodes frames with front, bottleneck and trunk; any thread may call it.

    prepare: makes float32 (N, 3, H, W) of images, a few at a time: at 224 pixels a batch of them takes 40 MB.
    """

    def __init__(
        self,
        front: nn.Module,
        bottleneck: nn.Module,
        exit_: FeatureExit,
        compute: Compute,
        prepare: Callable[[NDArray[Any]], NDArray[np.float32]] = lambda inputs: inputs,
    ) -> None:
        self._compute, self._prepare = compute, prepare
        self._network = _Encoder(front, bottleneck, exit_).eval()
        self._folded: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
        self._lock = Lock()

    @torch.inference_mode()
    def encode(self, images: NDArray[Any]) -> Encoding:
        """Return the encoding of N > 0 images.

        Raises Diverged where the network makes infinities of them.
        """
        most = ENCODED_AT_ONCE if self._compute.device.type == "cpu" else ENCODED_AT_ONCE_ELSEWHERE
        parts = [images[start : start + most] for start in range(0, len(images), most)]
        return joined([self._encode(self._prepare(part)) for part in parts])

    def _encode(self, inputs: NDArray[np.float32]) -> Encoding:
        with self._compute.autocast():
            features, crossing = self._run(self._compute.tensor(inputs))
        values = features.float().cpu().numpy(), crossing.float().cpu().contiguous().numpy()
        if not all(np.isfinite(one).all() for one in values):
            raise Diverged("the network makes infinities of a frame: begin with other --weights")
        return Encoding(features=half(values[0]), crossing=half(values[1]))

    def _run(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        if not self._compute.folded:
            found: tuple[Tensor, Tensor] = self._network(inputs)
            return found
        with self._lock:
            if self._folded is None:
                self._folded = _folded(self._network, inputs[:1])
        # The executor would otherwise compile anew for each number of frames.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return self._folded(inputs)


class CrossingEncoder:
    """What the cloud makes of a sample that crossed, computed of the same codes here; any thread may use it.

    features: how many numbers that is.
    """

    def __init__(self, network: nn.Module | None, compute: Compute, *, features: int) -> None:
        """network: from a sample that crossed (N, C, ...) to features (N, F); None for statistics of its map."""
        self.features = features
        self._network = network.eval() if network is not None else None
        self._compute = compute
        if self._network is not None:
            compute.place(self._network)

    @torch.inference_mode()
    def encode(self, values: NDArray[np.float32]) -> NDArray[np.float16]:
        """Return float16 (N, features), each sample of one length, for the values (N, C, ...) that codes stand for.

        Raises Diverged where they are not finite.
        """
        if self._network is None:
            return crossing_features(values)
        with self._compute.autocast():
            features = of_one_length(self._network(self._compute.tensor(values)))
        found: NDArray[np.float32] = features.float().cpu().numpy()
        if not np.isfinite(found).all():
            raise Diverged("the network makes infinities of a frame: begin with other --weights")
        return found.astype(np.float16)


def fastest_inference(
    front: nn.Module, bottleneck: nn.Module, exit_: FeatureExit, inputs: NDArray[np.float32], device: torch.device
) -> Compute:
    """Return the way that encodes frames in the least time here, one by one and many, and encodes them right.

    inputs: normalised images, float32 (N, 3, H, W), N > 1; the same ones for all ways.
    """
    plain, *others = [way for way in ways_to_compute(device) if not way.small_maps]
    ways = [plain, *(replace(way, folded=True) for way in [*others, plain]), *others]
    end = time.perf_counter() + MAX_SECONDS
    encoders, right, best = dict[Compute, StillEncoder](), None, dict[Compute, float]()
    for way in ways:
        if encoders and time.perf_counter() > end:
            break
        try:
            encoder = _placed(front, bottleneck, exit_, way)
            found = encoder.encode(inputs)
        except (
            RuntimeError,
            AttributeError,
            Diverged,
        ) as error:  # this device has no kernel, or this network cannot be traced
            if way is plain:  # which no other way mends
                raise
            log.debug("not computed as %s: %s", way, error)
            continue
        right = right or found
        if _off(found, right) > MAX_OFF:
            log.info("left out: %s changes a picture's features too much here", way)
            continue
        encoders[way] = encoder
    for _ in range(TIMED_ROUNDS):
        for way, encoder in encoders.items():
            if way in best and time.perf_counter() > end:
                break
            seconds = _seconds(encoder, inputs)
            best[way] = min(seconds, best.get(way, seconds))
    fastest = min(best, key=best.__getitem__)
    return fastest if best[fastest] < WORTH_CHANGING * best[plain] else plain


def _placed(front: nn.Module, bottleneck: nn.Module, exit_: FeatureExit, way: Compute) -> StillEncoder:
    """Return an encoder of copies, whose weights lie as that way has them."""
    front, bottleneck, exit_ = copy.deepcopy((front, bottleneck, exit_))
    for module in (front, bottleneck, exit_):
        way.place(module)
    return StillEncoder(front, bottleneck, exit_, way)


def _seconds(encoder: StillEncoder, inputs: NDArray[np.float32]) -> float:
    """Return the seconds for one frame that comes alone, and one of many."""
    start = time.perf_counter()
    encoder.encode(inputs[:1])
    alone = time.perf_counter()
    encoder.encode(inputs)
    return alone - start + (time.perf_counter() - alone) / len(inputs)


def _off(found: Encoding, right: Encoding) -> float:
    """Return by which share of its length the features of a frame are off, at most."""
    gap = found.features.astype(np.float32) - right.features
    lengths = np.linalg.norm(right.features.astype(np.float32), axis=1)
    return float((np.linalg.norm(gap, axis=1) / np.maximum(lengths, 1e-6)).max())


def _folded(network: nn.Module, example: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    with warnings.catch_warnings():
        # What is to replace it needs a C compiler, or takes no other number of frames than it has seen.
        warnings.simplefilter("ignore", FutureWarning)
        traced = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
        frozen: Callable[[Tensor], tuple[Tensor, Tensor]] = torch.jit.freeze(traced)
    return frozen


class _Encoder(nn.Module):
    """(N, 3, H, W) -> features (N, F) of the exit, and what crosses the cut (N, C, ...)."""

    def __init__(self, front: nn.Module, bottleneck: nn.Module, exit_: FeatureExit) -> None:
        super().__init__()
        self.front, self.bottleneck, self.exit = front, bottleneck, exit_

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        at_cut = self.front(images)
        return self.exit.features(at_cut), self.bottleneck(at_cut)
