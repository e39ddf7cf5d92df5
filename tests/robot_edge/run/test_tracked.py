"""What a robot that is taught by a program tells its trackers, as TensorBoard reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hierarchy.runtime.curves
import robot_edge as edge
import robot_edge.run.start
from broker.errors import ConfigError
from hierarchy.device import Compute
from tests.event_files import of_tensorboard

pytestmark = pytest.mark.slow

SIZE = 16


def test_figures_and_the_last_test_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robot_edge.run.start, "fastest_compute", lambda *_, **__: Compute(device=torch.device("cpu")))
    monkeypatch.setattr(hierarchy.runtime.curves, "draw_curves", lambda *_: None)
    noise = np.random.default_rng(0).normal(0, 30, (80, SIZE, SIZE, 3))
    colours = np.array([(220, 60, 60), (60, 220, 60)])[np.arange(80) % 2]
    images = np.clip(colours[:, None, None] + noise, 0, 255).astype(np.uint8)
    settings: dict[str, Any] = {
        "cut": "layer1",
        "image_size": SIZE,
        "bottleneck": 4,
        "batch": 16,
        "held_out_every": 3,
        "seed": 0,
    }
    with edge.Robot("r1", run_dir=str(tmp_path), track="tensorboard", **settings) as robot:
        steps = list(robot.train(list(zip(images, 40 * ["red", "green"], strict=True))))
        robot.settle(120.0)
    told = of_tensorboard(tmp_path)
    assert told["exit/loss"][-1][0] == steps[-1].images
    assert told["robot/classes"][-1][1] == 2
    assert set(told) >= {"exit/recent", "exit/accuracy_of/red", "exit/accuracy_of/green"}
    accuracy, table = told["exit/accuracy"][-1][1], told["exit/confusion"][-1][1].decode()
    counts = [[int(cell) for cell in line.strip("| ").split(" | ")[1:]] for line in table.splitlines()[2:]]
    right = sum(row[index] for index, row in enumerate(counts))
    assert right / sum(map(sum, counts)) == pytest.approx(accuracy)


def test_an_unknown_tracker_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--track nothing"):
        edge.Robot("r1", run_dir=str(tmp_path / "run"), track="nothing")
    assert not (tmp_path / "run").exists()
