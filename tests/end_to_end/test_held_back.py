"""A private robot holds frames back at a real broker: what is killed, forgotten or renamed then comes out right."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from broker.wire.codec import pack, unpack
from broker.wire.messages import ActivationBatch, ClassEdit, Receipt
from robot_edge.learning.held_back import LEAST_FRAMES
from robot_edge.teaching.remote import give_command
from tests.end_to_end.test_robot_killed import COLOURS, EPOCHS, OF_EACH, ROBOT, FakeTrainer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import paho.mqtt.client as mqtt

    from tests.end_to_end.conftest import Launcher, Program, Recorder

# Slow enough for somebody to step in before there are LEAST_FRAMES.
PACE = "40"
BATCH = 16
# Within so few steps it tells little enough of frames to be released; the tests' usual network would tell too much.
FRONT = ["--backbone", "resnet18", "--cut", "layer2"]


class Taker(FakeTrainer):
    """Takes class edits, too, and loses no receipt."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder)
        self.tests = True
        self.edits: list[ClassEdit] = []

    def _take(self, client: mqtt.Client, data: Any, message: mqtt.MQTTMessage) -> None:
        edit = unpack(bytes(message.payload)) if message.topic == f"{ROBOT}/activations" else None
        if not isinstance(edit, ClassEdit):
            super()._take(client, data, message)
            return
        self.edits.append(edit)
        receipt = Receipt(boot=edit.boot, sequence=edit.sequence, outcome="accepted", reason="", held=0.0)
        self._client.publish(f"{ROBOT}/receipt", pack(receipt), qos=1)

    def fresh(self) -> list[ActivationBatch]:
        """Return what came to be trained on for the first time."""
        return [one for one in self.trained().values() if not one.again]


@pytest.fixture(name="trainer")
def _trainer(mosquitto_url: str, record: type[Recorder]) -> Iterator[Taker]:
    recorder = record(mosquitto_url)
    trainer = Taker(recorder)
    yield trainer
    trainer.end()
    recorder.publish("reflexarc/1/trainer/fake/state", b"", retain=True)  # or other tests' robots would speak to it
    recorder.close()


def test_a_robot_that_is_killed_while_it_holds_frames_back_loses_none_and_sends_none_early(
    trainer: Taker, mosquitto_url: str, launcher: Launcher, pictures: Path, tmp_path: Path
) -> None:
    flags = ["--run-dir", str(tmp_path / "mortal"), "--epochs", str(EPOCHS), "--checkpoint-every", "3"]
    flags += ["--held-out", f"folder:{pictures}/test", "--privacy", "low"]
    for images in (80, 200):
        robot = started(launcher, mosquitto_url, f"folder:{pictures}/train", tmp_path, *flags, "--rate", PACE)
        robot.until(lambda: robot.images() >= images, f"image {images}")  # noqa: B023
        robot.kill()
        assert not trainer.batches, "it holds all of it back"
    robot = started(launcher, mosquitto_url, f"folder:{pictures}/train", tmp_path, *flags, "--rate", "max")
    assert robot.wait() == 0, robot.printed
    fresh = trainer.fresh()
    assert Counter(name for one in fresh for name in one.names) == dict.fromkeys(COLOURS, EPOCHS * OF_EACH)
    numbers = [number for one in fresh for number in one.samples.tolist()]
    assert len(set(numbers)) == len(numbers)
    assert min(one.edge_version for one in fresh) >= LEAST_FRAMES // BATCH
    summary = robot.summary
    assert (summary["starts"], summary["frames_held_back"], summary["frames_never_sent"]) == (3, 0, 0)
    assert summary["leak"] <= summary["leak_line"] == 0.3


def test_frames_of_a_class_that_is_forgotten_while_they_are_held_back_never_go_up(
    trainer: Taker, mosquitto_url: str, launcher: Launcher, pictures: Path, tmp_path: Path
) -> None:
    flags = ["--run-dir", str(tmp_path / "mortal"), "--phases", "red,green|blue,yellow", "--privacy", "low"]
    flags += ["--held-out", f"folder:{pictures}/test", "--rate", PACE]
    robot = started(launcher, mosquitto_url, f"folder:{pictures}/train", tmp_path, *flags)
    robot.until(lambda: robot.images() >= 2 * OF_EACH + BATCH, "the second phase began")
    asked: dict[str, Any] = {"robot": "mortal", "broker": mosquitto_url, "credentials": "", "names_key": ""}
    assert give_command("forget", **asked, name="red")
    assert give_command("rename", **asked, name="green", to="lime")
    assert not trainer.batches, "it holds all of it back"
    assert robot.wait() == 0, robot.printed
    assert [(one.change, one.name) for one in trainer.edits] == [("forget", "red"), ("rename", "green")]
    fresh = Counter(name for one in trainer.fresh() for name in one.names)
    assert fresh == dict.fromkeys(("lime", "blue", "yellow"), OF_EACH)
    crossed = {name for one in trainer.batches.values() for name in one.names}
    assert crossed == {"lime", "blue", "yellow"}, "not encoded anew, and not tested either"
    assert robot.summary["frames_held_back"] == 0


def started(launcher: Launcher, url: str, source: str, folder: Path, *flags: str) -> Program:
    """Start the robot once more."""
    robot = launcher.robot(url, "mortal", source, *FRONT, *flags)
    robot.run_dir = folder / "mortal"
    return robot
