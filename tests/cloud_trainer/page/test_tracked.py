"""What a trainer tells its trackers of each robot, as TensorBoard reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud_trainer.page.tracked import RobotsTracking
from hierarchy.runtime.tracking.options import TrackOptions
from hierarchy.runtime.tracking.trackers import Trackers
from tests.cloud_trainer.world import STATE, Cloud, batches, make_batch
from tests.event_files import of_tensorboard

pytestmark = pytest.mark.slow


def test_each_robots_figures_and_tests_are_told_once(cloud: Cloud, tmp_path: Path) -> None:
    trackers = Trackers(TrackOptions(track="tensorboard"), tmp_path, name="t1", settings={})
    tracking = RobotsTracking(trackers=trackers)
    for robot in ("r1", "r2"):
        cloud.say(robot, STATE, *batches(4))
    cloud.say("r1", make_batch(["cat", "dog", "cat"], sequence=4, evaluation=1))
    cloud.work(2.0)
    for second in range(4):
        tracking.post(cloud.known.values(), cloud.clock.monotonic() + second)
    figures = cloud.figures()
    trackers.close()
    told = of_tensorboard(tmp_path)
    assert told["r1/cloud/loss"] == [(figures.images, pytest.approx(figures.cloud_loss))]
    assert len(told["r2/cloud/loss"]) == 1
    assert told["r1/cloud/accuracy"] == [(figures.images, pytest.approx(figures.cloud_accuracy))]
    assert len(told["r1/cloud/confusion"]) == 1
    assert {"r1/cloud/accuracy_of/cat", "r1/cloud/accuracy_of/dog"} <= set(told)
    assert "r2/cloud/confusion" not in told
