"""Broker, trainer and robot come and go in any order, and the run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.local.server import start_local_broker
from tests.ports import free_port

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Launcher


@pytest.mark.mosquitto
def test_broker_comes_last_and_is_restarted_in_the_middle(launcher: Launcher, pictures: Path) -> None:
    port = free_port()
    url = f"mqtt://127.0.0.1:{port}"
    robot = launcher.robot(url, "early", f"folder:{pictures}/train", "--held-out", f"folder:{pictures}/test")
    trainer = launcher.trainer(url)
    for program in (robot, trainer):
        program.until_it_says(f"waiting for the broker (no broker at 127.0.0.1:{port}")

    with start_local_broker(port=port, backend="mosquitto"):
        trainer.until_it_says("connected; waiting for robots")
        trainer.until(lambda: trainer.images("early") >= 64, "64 images were trained on")
    for program in (robot, trainer):
        program.until_it_says("(lost the broker at")

    with start_local_broker(port=port, backend="mosquitto"):
        assert robot.wait() == 0, robot.printed
        trainer.until_it_says("robot early has gone")
        assert trainer.interrupt() == 0

    for summary in (robot.summary, trainer.summary):
        assert summary["images"] == 480
        assert summary["messages_sent"] == summary["messages_trained"] == 30
        assert summary["messages_rejected"] == summary["dropped"] == 0
        assert summary["cloud_accuracy"] > 0.6


def test_trainer_comes_late_and_is_killed_in_the_middle(mosquitto_url: str, launcher: Launcher, pictures: Path) -> None:
    robot = launcher.robot(mosquitto_url, "alone", f"folder:{pictures}/train", "--held-out", f"folder:{pictures}/test")
    robot.until_it_says("waiting for a cloud trainer (cloud-trainer run --broker with the same URL)")
    first = launcher.trainer(mosquitto_url)
    first.until(lambda: first.images("alone") >= 64, "64 images were trained on")
    first.kill()
    robot.until(lambda: robot.printed.count("a cloud trainer (") == 2, "it missed the trainer")
    second = launcher.trainer(mosquitto_url, "--run-dir", str(first.run_dir))
    assert robot.wait() == 0, robot.printed
    second.until_it_says("robot alone has gone")
    assert second.interrupt() == 0

    summary, cloud = robot.summary, first.summary
    assert summary["images"] == cloud["images"] == 480
    assert summary["messages_rejected"] == summary["dropped"] == cloud["messages_rejected"] == 0
    assert summary["exit_accuracy"] > 0.6
    assert summary["cloud_accuracy"] > 0.6
