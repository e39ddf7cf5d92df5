"""Runs of a robot that learned to tell two kinds of pictures, in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import hierarchy.runtime.curves
import robot_edge as edge
import robot_edge.run.start
from hierarchy.device import Compute

SIZE, NAMES = 16, ("warm", "cold")
CPU = Compute(device=torch.device("cpu"))


def pictures(name: str, count: int, seed: int) -> NDArray[np.uint8]:
    """Return pictures, (count, SIZE, SIZE, 3), warm ones with more red."""
    found = np.random.default_rng(seed).integers(0, 190, (count, SIZE, SIZE, 3), np.uint8)
    found[..., 0 if name == "warm" else 2] += 60
    return found


def learned(folder: Path, each: int = 70, robot: str = "r1", **settings: Any) -> Path:
    """Let a robot learn so many pictures of each kind, half of them held out, and return the folder of its run."""
    small = {"image_size": SIZE, "bottleneck": 4, "batch": 16, "held_out_every": 2, "seed": 0, **settings}
    pairs = [(one, name) for name in NAMES for one in pictures(name, each, seed=1)]
    mixed = [pairs[place] for place in np.random.default_rng(0).permutation(len(pairs))]
    with edge.Robot(robot, run_dir=str(folder), **small) as one:
        for _ in one.train(mixed):
            pass
    return folder


@contextmanager
def quick_start() -> Iterator[None]:
    """Let robots measure nothing before they begin, and draw nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robot_edge.run.start, "fastest_compute", lambda *_, **__: CPU)
        patch.setattr(hierarchy.runtime.curves, "draw_curves", lambda *_: None)
        yield
