"""A robot that is killed in the middle of a replay, again and again: every sample reaches the cloud once."""

from __future__ import annotations

import random
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as mqtt
import pytest

from broker.wire.codec import pack, unpack
from broker.wire.messages import HEARTBEAT_SECONDS, ActivationBatch, Receipt, RobotState, TrainerMetrics, TrainerState
from hierarchy.runtime.checkpoint import load_checkpoint
from robot_edge.run.checkpoint import LAYOUT
from tests.messages import trainer_metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.conftest import Launcher, Recorder

ROBOT = "reflexarc/1/robot/mortal"
EPOCHS, OF_EACH = 3, 120
COLOURS = ("red", "green", "blue", "yellow")
# The robot dies once the cloud has so many messages; the last ones are of the last epoch.
DEATHS = (4, 25, 60)


class FakeTrainer:
    """Takes every message, forgets some receipts until it tests, and learns nothing."""

    def __init__(self, recorder: Recorder) -> None:
        self.batches: dict[tuple[str, int], ActivationBatch] = {}
        self.copies = 0
        self.altered = 0
        self.states: list[RobotState] = []
        self.tests = False
        self._recorder = recorder
        self._client: mqtt.Client = recorder._client
        self._rng = random.Random(0)
        self._client.on_message = self._take
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat)
        self._heart.start()

    def trained(self) -> dict[tuple[str, int], ActivationBatch]:
        return {name: batch for name, batch in list(self.batches.items()) if not batch.evaluation}

    def has(self, count: int) -> bool:
        return len(self.trained()) >= count

    def end(self) -> None:
        self._ended.set()
        self._heart.join()

    def _beat(self) -> None:
        state = pack(TrainerState(boot="1" * 16, started=1.0, online=True, trouble=""))
        while True:
            self._client.publish("reflexarc/1/trainer/fake/state", state, qos=1, retain=True)
            if self.tests and self.states:
                self._client.publish("reflexarc/1/trainer/fake/metrics", pack(self._figures(self.states[-1].boot)))
            if self._ended.wait(HEARTBEAT_SECONDS / 5):
                return

    def _take(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        if message.topic == f"{ROBOT}/state" and not message.retain:
            state = unpack(bytes(message.payload))
            assert isinstance(state, RobotState)
            if state.online and state not in self.states:
                self.states.append(state)
        if message.topic != f"{ROBOT}/activations":
            return
        batch = unpack(bytes(message.payload))
        assert isinstance(batch, ActivationBatch)
        name = (batch.boot, batch.sequence)
        if name in self.batches:
            self.copies += 1
            self.altered += pack(self.batches[name]) != pack(batch)
        elif self._rng.random() < 0.2 and not self.tests:
            self.batches[name] = batch
            return  # the robot dies before it gets this receipt
        self.batches[name] = batch
        receipt = Receipt(boot=batch.boot, sequence=batch.sequence, outcome="accepted", reason="", held=0.0)
        self._client.publish(f"{ROBOT}/receipt", pack(receipt), qos=1)

    def _figures(self, boot: str) -> TrainerMetrics:
        return trainer_metrics(
            boot,
            robot="mortal",
            images=sum(len(batch.labels) for batch in self.trained().values()),
            evaluated=sum(
                len(one.labels) for name, one in list(self.batches.items()) if one.evaluation and name[0] == boot
            ),
            messages_trained=len(self.trained()),
        )


@pytest.fixture(name="trainer")
def _trainer(mosquitto_url: str, record: type[Recorder]) -> Iterator[FakeTrainer]:
    recorder = record(mosquitto_url)
    trainer = FakeTrainer(recorder)
    yield trainer
    trainer.end()
    recorder.publish("reflexarc/1/trainer/fake/state", b"", retain=True)  # or other tests' robots would speak to it
    recorder.close()


def test_a_robot_that_is_killed_sends_every_sample_once(
    trainer: FakeTrainer, mosquitto_url: str, launcher: Launcher, pictures: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "mortal"
    flags = ["--run-dir", str(run_dir), "--epochs", str(EPOCHS), "--checkpoint-every", "7"]
    flags += ["--held-out", f"folder:{pictures}/test"]
    for deaths, count in enumerate(DEATHS):
        robot = launcher.robot(mosquitto_url, "mortal", f"folder:{pictures}/train", *flags)
        robot.until(partial(trainer.has, count), f"message {count}")
        robot.kill()
        assert not (run_dir / "summary.json").exists(), f"death {deaths} came too late"

    trainer.tests = True
    robot = launcher.robot(mosquitto_url, "mortal", f"folder:{pictures}/train", *flags)
    robot.run_dir = run_dir
    assert robot.wait() == 0, robot.printed

    samples = Counter(name for batch in trainer.trained().values() for name in batch.names)
    assert samples == dict.fromkeys(COLOURS, EPOCHS * OF_EACH)
    assert trainer.altered == 0
    assert trainer.copies > 0, "no message was ever without its receipt, so this shows little"
    assert len({state.boot for state in trainer.states}) == len(DEATHS) + 1
    assert [state.weights for state in trainer.states] == ["none", *["checkpoint"] * len(DEATHS)]

    summary = robot.summary
    assert summary["starts"] == len(DEATHS) + 1
    assert summary["images"] == 4 * EPOCHS * OF_EACH
    assert summary["dropped"] == summary["messages_rejected"] == 0
    assert summary["messages_sent"] == len(trainer.trained())
    for name in COLOURS:
        assert summary["samples_by_class"][name] == {
            "taken": EPOCHS * OF_EACH,
            "queued": 0,
            "receipted": EPOCHS * OF_EACH,
            "rejected": 0,
            "dropped": 0,
        }
    assert load_checkpoint(run_dir / "checkpoint", LAYOUT).trainer.learner.steps == 4 * EPOCHS * OF_EACH // 16
    assert summary["exit_accuracy"] > 0.6
    images = [line["images"] for line in robot.metrics]
    assert images == sorted(images)
