"""A robot in a program of its own, with a real trainer: what it is taught, the cloud learns, too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import hierarchy.runtime.curves
import robot_edge as edge
import robot_edge.run.start
from broker.errors import NameTaken
from hierarchy.device import Compute

if TYPE_CHECKING:
    from robot_edge.sources.frames import Pixels
    from tests.end_to_end.conftest import Launcher

SIDE = 16


def test_the_cloud_learns_what_a_program_shows(
    launcher: Launcher, mosquitto_url: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robot_edge.run.start, "fastest_compute", lambda *_, **__: Compute(device=torch.device("cpu")))
    monkeypatch.setattr(hierarchy.runtime.curves, "draw_curves", lambda *_: None)
    settings: dict[str, Any] = {
        "image_size": SIDE,
        "bottleneck": 16,
        "batch": 16,
        "learning_rate": 0.02,
        "broker": mosquitto_url,
    }
    trainer = launcher.trainer(mosquitto_url)
    with edge.Robot("python", run_dir=str(tmp_path / "one"), **settings) as robot:
        steps = list(robot.train(edge.open_source(f"folder:{pictures}/few")))
        assert len(robot.classes) == 4
        assert robot.teach("white", list(white(40))) > 20
        trainer.until(lambda: robot.cloud.images >= steps[-1].images and robot.cloud.accuracy is not None, "it learned")
        assert robot.cloud.online
        assert robot.predict(next(white(1))).confidence > 0
        with (
            pytest.raises(NameTaken, match="'python' is online"),
            edge.Robot("python", run_dir=str(tmp_path / "two"), **settings) as other,
        ):
            trainer.until(lambda: not other.cloud, "the name was refused")
    trainer.until_it_says("robot python has gone")


def white(count: int) -> Iterator[Pixels]:
    noise = np.random.default_rng(1).normal(0, 30, (count, SIDE, SIDE, 3))
    yield from np.clip(225 + noise, 0, 255).astype(np.uint8)
