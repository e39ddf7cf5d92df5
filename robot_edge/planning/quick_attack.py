"""What a quick attack sees in what would cross, before anything does: linear algebra on some of the robot's frames.

The front is that of a run that begins. Attackers with more frames, time or a decoder see more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from broker.errors import ConfigError
from broker.wire.quantize import dequantize, quantize
from hierarchy.attack.leak import Leak, nothing_leaks, quick_leak
from hierarchy.attack.pairs import Pairs, Values, shrunk
from hierarchy.device import Compute
from hierarchy.edge import EdgeSegment, normalise
from robot_edge.learning.framed import framing_for
from robot_edge.learning.segment import build_edge
from robot_edge.planning.config import PlanConfig
from robot_edge.run.config import RobotConfig
from robot_edge.sources.frames import Pixels
from robot_edge.sources.opening import open_source
from robot_edge.sources.passwords import masked

# Frames at most, of which the last fifth is attacked, and the attacker has the rest. With fewer than the least it would
# find little for want of frames, not because there is little to find.
FRAMES, LEAST_FRAMES = 1000, 320
SHARE_ATTACKED = 0.2
# What frames take of memory at most: 425 of 224 pixels. And how long they are waited for.
MOST_FRAME_BYTES, READ_SECONDS = 64_000_000, 30.0
# How long one cut's frames are encoded, once there are the least. What crosses at a cut takes so many bytes at most.
ENCODE_SECONDS, MOST_BYTES = 20.0, 160_000_000
ENCODE_AT_ONCE = 32


class Crossing(NamedTuple):
    """What may cross at a cut. bottleneck, pool: 0 for all channels, and for all places."""

    bottleneck: int
    pool: int
    bits: int


def frames_to_attack(config: RobotConfig) -> Pixels:
    """Return frames of the source, uint8 (N, H, W, 3), as the network sees them. Raises ConfigError for too few."""
    size = config.network.image_size
    see, most = framing_for(config.network).input, max(LEAST_FRAMES, min(FRAMES, MOST_FRAME_BYTES // (3 * size**2)))
    give_up, images = time.monotonic() + READ_SECONDS, list[Pixels]()
    source = open_source(
        config.source.source,
        config.source.options,
        image_size=size,
        seed=config.open_seed,
        live=config.is_live,
    )
    with closing(source):
        while len(images) < most and (wait := give_up - time.monotonic()) > 0:
            if (frame := source.next(wait)) is None:
                break
            images.append(see(frame.image))
    if len(images) < LEAST_FRAMES:
        raise ConfigError(
            f"--most-leak attacks what would cross with {LEAST_FRAMES} frames or more, and --source "
            f"{masked(config.source.source)} showed {len(images)} within {READ_SECONDS:.0f} s: give another, or leave "
            "--most-leak out"
        )
    return np.stack(images)


class QuickAttack:
    """Attacks what would cross with frames of the robot's own.

    blind: how similar to a frame the mean of the attacker's frames is, which needs nothing that crosses.
    """

    def __init__(self, config: PlanConfig, frames: Pixels) -> None:
        """frames: uint8 (N, H, W, 3), in the order in which they came."""
        self._config = config
        self._frames, self._pictures = frames, shrunk(frames)
        nothing = np.zeros((len(frames), 1), np.float32)
        self.blind = nothing_leaks(*_divided(Pairs(values=nothing, pictures=self._pictures))).ssim

    def leaks(self, cut: str, crossings: Sequence[Crossing], compute: Compute) -> Iterator[Leak | None]:
        """Yield what each of these would leak at a cut; None where a frame's values are too many to attack."""
        front, bottlenecks = self._fronts(cut, crossings, compute)
        encoded = iter(self._encoded(front, [one for one in bottlenecks if one is not None], compute))
        for crossing, module in zip(crossings, bottlenecks, strict=True):
            if module is None:
                yield None
                continue
            values = next(encoded)
            batch = self._config.run.learning.batch
            for start in range(0, len(values), batch):  # ranges are those of a message
                part = values[start : start + batch]
                part[:] = dequantize(quantize(part, crossing.bits))
            yield quick_leak(*_divided(Pairs(values=values, pictures=self._pictures[: len(values)])))

    def _fronts(
        self, cut: str, crossings: Sequence[Crossing], compute: Compute
    ) -> tuple[EdgeSegment, list[nn.Module | None]]:
        """Return a new segment, and the bottleneck of each crossing behind its front: None for what is too large."""
        torch.manual_seed(self._config.run.open_seed)
        room = MOST_BYTES // (4 * LEAST_FRAMES)
        segments = [
            build_edge(self._config.run_with(cut, one.bits, one.bottleneck, one.pool, exit_at="cut").network)[0]
            for one in crossings
        ]
        sizes = [math.prod(one.shape) for one in segments]
        fitting = set[int]()
        for place in sorted(range(len(sizes)), key=lambda place: sizes[place]):
            if sum(sizes[one] for one in fitting) + sizes[place] <= room:
                fitting.add(place)
        for one in segments:
            compute.place(one)
            one.eval()
        return segments[0], [one.bottleneck if place in fitting else None for place, one in enumerate(segments)]

    @torch.inference_mode()
    def _encoded(self, segment: EdgeSegment, bottlenecks: Sequence[nn.Module], compute: Compute) -> list[Values]:
        """Return float32 (N, C, ...) behind each bottleneck, of as many frames as there are room and time for."""
        found: list[list[Values]] = [[] for _ in bottlenecks]
        give_up, done, most = time.monotonic() + ENCODE_SECONDS, 0, len(self._frames)
        while bottlenecks and done < most and (done < LEAST_FRAMES or time.monotonic() < give_up):
            images = self._frames[done : done + ENCODE_AT_ONCE]
            with compute.autocast():
                at_cut = segment.front(compute.tensor(normalise(images, segment.spec)))
                for its, module in zip(found, bottlenecks, strict=True):
                    its.append(module(at_cut).float().cpu().contiguous().numpy())
            done += len(images)
            most = min(most, max(LEAST_FRAMES, MOST_BYTES // (4 * sum(one[0][0].size for one in found))))
        return [np.concatenate(its)[:most] for its in found]


def _divided(pairs: Pairs) -> tuple[Pairs, Pairs]:
    """Return the attacker's own pairs, and those that are attacked."""
    own = round((1 - SHARE_ATTACKED) * len(pairs))
    return pairs[:own], pairs[own:]
