"""Taught once, known by all: what one robot is taught another names with its exit alone, with nobody to ask."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

import hierarchy.runtime.curves
import robot_edge as edge
import robot_edge.run.start
from hierarchy.device import Compute
from robot_edge.evaluation.evaluate import evaluate
from robot_edge.run.config import EvaluateConfig
from tests.end_to_end.conftest import COLOURS, DEADLINE_S, ROOT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.end_to_end.conftest import Launcher

SIDE = 16
SHOWN = ("red", "green", "blue")


def frames(colour: str, count: int, seed: int) -> list[NDArray[np.uint8]]:
    noise = np.random.default_rng(seed).normal(0, 25, (count, SIDE, SIDE, 3))
    return list(np.clip(200 * np.array(COLOURS[colour]) + 30 + noise, 0, 255).astype(np.uint8))


def names(robot: edge.Robot) -> list[str]:
    """Return what a robot takes new frames of each colour for, in place of nothing where it asks somebody else."""
    seen = [robot.predict(frames(colour, 1, seed=99)[0]) for colour in SHOWN]
    return [one.name for one in seen if one.answered_by == "exit"]


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.1)


def use(which: str, url: str) -> None:
    arguments = ["robot_edge", "use", which, "--robot", "r2", "--broker", url]
    subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, check=True, timeout=DEADLINE_S)


def test_a_robot_names_what_another_was_taught_when_the_trainer_is_gone(
    launcher: Launcher, mosquitto_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robot_edge.run.start, "fastest_compute", lambda *_, **__: Compute(device=torch.device("cpu")))
    monkeypatch.setattr(hierarchy.runtime.curves, "draw_curves", lambda *_: None)
    weights = tmp_path / "weights.pth"
    torch.manual_seed(3)
    torch.save(models.get_model("resnet18", weights=None).state_dict(), weights)
    settings: dict[str, Any] = {
        "image_size": SIDE,
        "bottleneck": 0,
        "weights": str(weights),
        "freeze": "all",
        "exit": "end",
        "fleet": "painters",
        "threshold": 0.0,
        "broker": mosquitto_url,
    }
    trainer = launcher.trainer(mosquitto_url, "--weights", str(weights))
    second = {**settings, "run_dir": str(tmp_path / "r2")}
    with edge.Robot("r1", run_dir=str(tmp_path / "r1"), **settings) as r1, edge.Robot("r2", **second) as r2:
        assert names(r2) == ["", "", ""]
        for colour in SHOWN:
            r1.teach(colour, frames(colour, 30, seed=1))
        until(lambda: names(r2) == list(SHOWN), "what r1 was taught")
        assert r2.classes == ()
        trainer.kill()
        assert names(r2) == list(SHOWN)
        use("own", mosquitto_url)
        until(lambda: names(r2) == ["", "", ""], "its own exit alone")
        use("fleet", mosquitto_url)
        until(lambda: names(r2) == list(SHOWN), "the way back")
    with edge.Robot("r2", **{**second, "broker": None}) as alone:  # started again, and offline
        until(lambda: names(alone) == list(SHOWN), "what it kept")
        alone.teach("red", frames("red", 10, seed=2))
        assert alone.settle(DEADLINE_S)
    is_evaluated_with_it(tmp_path)


def is_evaluated_with_it(path: Path) -> None:
    """Evaluate r2's run, which was taught one of three colours, on new pictures."""
    for colour in SHOWN:
        (path / "pictures" / colour).mkdir(parents=True)
        for number, frame in enumerate(frames(colour, 3, seed=5)):
            Image.fromarray(frame).save(path / "pictures" / colour / f"{number}.png")
    config = EvaluateConfig(source=f"folder:{path / 'pictures'}", checkpoint=str(path / "r2"), threads=1)
    evaluate(config)
    figures = json.loads((path / "r2" / "evaluation.json").read_text())
    assert (figures["frames"], figures["exit_accuracy"], figures["frames_of_other_classes"]) == (9, 1, 0)
    assert (figures["fleet_exit"]["version"] > 0, figures["fleet_exit"]["elsewhere"]) == (True, 2)
    evaluate(replace(config, use="own"))
    figures = json.loads((path / "r2" / "evaluation.json").read_text())
    assert (figures["frames"], figures["frames_of_other_classes"]) == (9, 6)
    assert figures["fleet_exit"]["use"] == "own"
