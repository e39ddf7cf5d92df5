"""Where a pretrained network's exit may be, at the cut or behind all of it: what each costs the robot, and knows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from broker.errors import SourceError
from hierarchy.device import Compute, step_seconds
from hierarchy.edge import normalise, still_encoder
from hierarchy.head import GrowingHead
from hierarchy.head_fit import fit_rows
from robot_edge.learning.framed import framing_for
from robot_edge.learning.segment import build_edge
from robot_edge.planning.edge_timing import FORWARD_SECONDS, still_memory
from robot_edge.run.config import RobotConfig
from robot_edge.sources.opening import open_source

# Labelled frames that are looked at, of each class and in all, and for how long. Half of them teach, half test.
OF_EACH, IN_ALL, READ_SECONDS = 20, 300, 30.0
# Fewer classes, or frames to test on, say nothing of an exit.
LEAST_CLASSES, LEAST_TESTED = 2, 10
# Fits, each from where the last one ended.
FITS = 5
# Points that an exit must know more for what it costs more.
WORTH = 0.01

ExitPlace = Literal["cut", "end"]


@dataclass(frozen=True, kw_only=True)
class ExitCost:
    """An exit. cut: that it is at; empty for one behind the whole network.

    seconds: that the robot takes for a frame. memory: bytes of weights, and of a frame's largest activations. accuracy:
    of a head that was fitted to half of the labelled frames, on the other half; None where there are too few.
    """

    cut: str
    seconds: float
    memory: int
    accuracy: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledFrames:
    """images: uint8 (N, H, W, 3), as the network sees them. names: of their classes."""

    images: NDArray[np.uint8]
    names: Sequence[str]


def labelled_frames(config: RobotConfig) -> LabelledFrames | None:
    """Return some labelled frames of the source, about as many of each class; None where it has too few."""
    see, counts = framing_for(config.network).input, dict[str, int]()
    images, names, give_up = [], list[str](), time.monotonic() + READ_SECONDS
    try:
        source = open_source(
            config.source.source,
            config.source.options,
            image_size=config.network.image_size,
            seed=config.open_seed,
            needs_labels=True,
        )
    except SourceError:
        return None
    with closing(source):
        while len(names) < IN_ALL and (wait := give_up - time.monotonic()) > 0:
            frame = source.next(wait)
            if frame is None:
                break
            if frame.label is not None and counts.get(frame.label, 0) < OF_EACH:
                counts[frame.label] = counts.get(frame.label, 0) + 1
                images.append(see(frame.image))
                names.append(frame.label)
    kept = [place for place, name in enumerate(names) if counts[name] > 1]
    if len({names[place] for place in kept}) < LEAST_CLASSES or len(kept) < 2 * LEAST_TESTED:
        return None
    return LabelledFrames(images=np.stack([images[place] for place in kept]), names=[names[place] for place in kept])


def exit_cost(
    config: RobotConfig, compute: Compute, image: NDArray[np.uint8], known: LabelledFrames | None
) -> ExitCost:
    """Measure the exit of these settings, whose network stands still. image: a frame, uint8 (H, W, 3)."""
    segment, _, _ = build_edge(config.network)
    memory = still_memory(segment, normalise(image[None], segment.spec))
    compute.place(segment)
    encode = still_encoder(segment, compute)
    encode(image[None])  # the first one is slower
    return ExitCost(
        cut=config.network.cut if config.network.exit == "cut" else "",
        seconds=step_seconds(lambda: encode(image[None]), FORWARD_SECONDS),
        memory=memory,
        accuracy=few_shot_accuracy(encode(known.images).features, known.names) if known else None,
    )


def few_shot_accuracy(features: NDArray[np.float16], names: Sequence[str]) -> float:
    """Return how much of every other frame of each class a head names right that was fitted to the rest.

    features: (N, F), of at least two frames of each class.
    """
    seen = dict[str, int]()
    turns = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        turns.append(seen[name] % 2)
    teaches = torch.tensor(turns, dtype=torch.bool)
    values, head = torch.from_numpy(features).float(), GrowingHead(features.shape[1])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head.grow(names, None)
    labels = torch.tensor(head.indices(names))
    for _ in range(FITS):
        fit_rows(head, values[teaches], labels[teaches])
    with torch.inference_mode():
        right = head(values[~teaches]).argmax(1) == labels[~teaches]
    return float(right.float().mean())


def better_exit(at_cut: ExitCost, at_end: ExitCost, most_memory: float) -> ExitPlace:
    """Return which of two exits to take: the one behind all, unless it knows no more or takes too much memory.

    most_memory: bytes, 0 for no bound.
    """
    if most_memory and at_end.memory > most_memory:
        return "cut"
    if at_cut.accuracy is None or at_end.accuracy is None:
        return "end"
    return "end" if at_end.accuracy >= at_cut.accuracy + WORTH else "cut"
