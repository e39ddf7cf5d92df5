"""A live robot whose fleet sends it an exit: what others taught it names, what people say of it counts at once."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch

from broker.wire.messages import RobotMetrics
from broker.wire.quantize import dequantize
from hierarchy.exit_rows import ExitRows, crossing_features, rows_of
from hierarchy.head import GrowingHead
from hierarchy.head_fit import fit_rows
from robot_edge.sources.sim import SimulatedCamera
from tests.fleet_exits import publish_to
from tests.robot_edge.run.test_live import SIZE, Robot, share_named
from tests.robot_edge.run.test_live import _no_picture as _no_picture
from tests.robot_edge.run.test_live import start as start
from tests.robot_edge.run.test_replay_fleet import evaluated

pytestmark = pytest.mark.slow

STILL = {"fleet": "dogs", "freeze": "all", "exit": "cut", "bottleneck": 0}
TOYS = ("ball", "star", "mug")


def taught_elsewhere(robot: Robot, names: tuple[str, ...] = TOYS, toys: tuple[str, ...] = TOYS) -> ExitRows:
    """Return an exit that was fitted to what crosses of toys, as a trainer fits it."""
    trainer = robot.state.trainer
    features, labels = [], []
    for place, toy in enumerate(toys):
        camera = SimulatedCamera(classes=[toy], size=SIZE, seed=3)
        frames = [camera.next() for _ in range(900)]  # many looks of it: frames that follow one another are alike
        images = np.stack([frame.image for frame in frames[::6] if frame])
        encoding = trainer.encode(images)
        crossed = [dequantize(encoding[row : row + 1].quantized(robot.state.split.bits)) for row in range(len(images))]
        features.append(crossing_features(np.concatenate(crossed)))
        labels += [place] * len(images)
    head = GrowingHead(features[0].shape[1])
    head.grow(names, None)
    for _ in range(5):
        fit_rows(head, torch.from_numpy(np.concatenate(features)).float(), torch.tensor(labels))
    return rows_of(head)


def send(robot: Robot, rows: ExitRows, version: int) -> None:
    """Publish an exit, and wait until the robot has tried it out."""
    publish_to(robot.run, robot.link._broker, rows, version)
    tried = [f"version {version}: ", f"version {version} refused"]
    robot.wait_for(lambda: any(one in text(robot) for one in tried))


def text(robot: Robot) -> str:
    assert robot.state.fleet
    return robot.state.fleet.status.text


def test_what_others_taught_it_names_until_it_is_told_not_to(
    start: Callable[..., Robot], monkeypatch: pytest.MonkeyPatch
) -> None:
    robot = start(**STILL)
    assert text(robot) == "no exit of fleet dogs so far"
    told: list[RobotMetrics] = []
    monkeypatch.setattr(robot.run.uplink, "publish_metrics", told.append)
    send(robot, taught_elsewhere(robot), 7)
    assert text(robot) == "exit of fleet dogs version 7: 3 classes, 3 taught elsewhere"
    assert min(share_named(robot, toy, toy) for toy in TOYS) > 0.5
    assert robot.classes() == (), "its own exit was taught nothing"
    assert robot.link.sent == []
    robot.wait_for(lambda: told and told[-1].exit_version == 7)  # though it learns nothing
    result = robot.order("use-own")
    assert (result.ok, result.text) == (True, "own exit alone, as was asked for")
    assert share_named(robot, "ball", "") == 1
    assert robot.order("use-fleet").ok
    robot.wait_for(lambda: text(robot) == "exit of fleet dogs version 7: 3 classes, 3 taught elsewhere")
    assert share_named(robot, "ball", "ball") > 0.5
    robot.end()
    again = start(boot="d" * 16, **STILL)
    again.wait_for(lambda: text(again) == "exit of fleet dogs version 7: 3 classes, 3 taught elsewhere")
    assert share_named(again, "star", "star") > 0.5
    again.end()
    summary = json.loads((again.folder.path / "summary.json").read_text())
    assert summary["fleet_exit"] | {"use": "fleet"} == {
        "fleet": "dogs", "version": 7, "coming": 0, "classes": 3, "elsewhere": 3, "refusal": "", "use": "fleet",
    }  # fmt: skip


def test_an_exit_that_is_wrong_about_its_own_classes_is_refused(start: Callable[..., Robot]) -> None:
    robot = start(**STILL)
    robot.teach("ball", "ball")
    robot.teach("star", "star")
    send(robot, taught_elsewhere(robot, ("star", "ball", "mug")), 7)
    assert "refused: with it" in text(robot)
    assert share_named(robot, "star", "star") > 0.5
    assert robot.state.metrics.message().exit_refused.startswith("with it")
    said = robot.state.fleet.status if robot.state.fleet else None
    robot.end()
    predictor, status = evaluated(robot.folder.path, robot.run)
    assert status == said
    assert predictor.second is None
