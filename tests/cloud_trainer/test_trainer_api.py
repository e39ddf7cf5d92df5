from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cloud_trainer as cloud
from broker.errors import ConfigError, NameTaken
from broker.link.mqtt import MqttLink
from broker.wire import topics
from broker.wire.codec import pack
from broker.wire.messages import ActivationBatch, RobotState
from cloud_trainer.messages.incoming import Incoming
from cloud_trainer.session.session import Session
from cloud_trainer.session.session_state import LAYOUT
from hierarchy.runtime.checkpoint import load_checkpoint
from tests.cloud_trainer.world import CHANNELS, STATE, batches, make_batch

pytestmark = pytest.mark.usefixtures("tiny")

SECONDS = 120


class ThinRobot:
    """A robot's end of the broker, without a robot behind it."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self.link = MqttLink(url, name)

    def say(self, *messages: RobotState | ActivationBatch) -> None:
        for message in messages:
            topic = topics.topic("robot", self.name, CHANNELS[type(message)])
            while not self.link.publish(topic, pack(message), qos=1, retain=isinstance(message, RobotState)):
                self.link.receive(0.05)


@pytest.fixture
def robot(amqtt_url: str, request: pytest.FixtureRequest) -> Iterator[ThinRobot]:
    robot = ThinRobot(amqtt_url, f"api-{abs(hash(request.node.name) % 10**9)}")
    yield robot
    robot.link.publish(topics.topic("robot", robot.name, "state"), b"", qos=1, retain=True)
    robot.link.close()


def trainer_for(robot: ThinRobot, url: str, folder: Path, **settings: Any) -> cloud.Trainer:
    return cloud.Trainer(
        **{"broker": url, "trainer": f"{robot.name}-t", "run_dir": str(folder), "batch": 4, "device": "cpu", **settings}
    )


def feed(robot: ThinRobot, trainer: cloud.Trainer, samples: int, *messages: ActivationBatch) -> cloud.RobotView:
    """Let a robot send messages until the trainer has learned from so many samples; return what it knows then."""

    def learned(its: cloud.Trainer) -> bool:
        robot.say(*messages)  # once more, as a robot does without a receipt: a first one may come before its network
        return robot.name in its.robots and its.robots[robot.name].samples >= samples

    robot.say(STATE)
    assert trainer.wait(until=learned, timeout=SECONDS)
    return trainer.robots[robot.name]


def test_it_trains_beside_its_caller_and_goes_on_from_its_run(robot: ThinRobot, amqtt_url: str, tmp_path: Path) -> None:
    with trainer_for(robot, amqtt_url, tmp_path, practice=0.0) as trainer:
        assert robot.name not in trainer.robots
        assert not trainer.wait(timeout=0.01)
        seen = feed(robot, trainer, 16, *batches(4))
        assert (seen.state, seen.reason, seen.online, seen.samples) == ("training", "", True, 16)
        assert set(seen.classes) == {"cat", "dog"}
        assert seen.loss is not None
        assert seen.accuracy is None
        trainer.save()
        assert load_checkpoint(tmp_path / "checkpoint" / robot.name, LAYOUT).learner.steps == 4
    assert (tmp_path / "summary.json").exists()
    with trainer_for(robot, amqtt_url, tmp_path, practice=0.0) as trainer:
        before = trainer.robots[robot.name]
        assert (before.samples, before.classes) == (16, seen.classes)
        seen = feed(robot, trainer, 24, *batches(2, first=4), make_batch(["cat"], sequence=9, evaluation=1))
        assert trainer.wait(until=lambda its: its.robots[robot.name].accuracy is not None, timeout=SECONDS)


def test_a_robot_that_is_not_let_in_is_there_with_the_reason(robot: ThinRobot, amqtt_url: str, tmp_path: Path) -> None:
    with trainer_for(robot, amqtt_url, tmp_path, networks_gb=0.001) as trainer:
        robot.say(STATE)
        assert trainer.wait(until=lambda its: any(one.reason for one in its.robots.values()), timeout=SECONDS)
        seen = trainer.robots[robot.name]
        assert seen.state == "refused"
        assert "(--networks-gb)" in seen.reason


def test_what_ends_training_is_raised_at_the_next_call_and_at_the_end(
    robot: ThinRobot, amqtt_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Session, *_: object) -> None:
        raise MemoryError("of the test")

    monkeypatch.setattr(Session, "work", fail)
    with (
        pytest.raises(MemoryError, match="of the test"),  # at the end
        trainer_for(robot, amqtt_url, tmp_path) as trainer,
        pytest.raises(MemoryError, match="of the test"),
    ):
        feed(robot, trainer, 1, *batches(1))


def test_a_fault_of_the_thread_that_takes_messages_in_is_raised(
    robot: ThinRobot, amqtt_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("planted in take_in")

    monkeypatch.setattr(Incoming, "take_in", fail)
    with (
        pytest.raises(RuntimeError, match="planted"),  # at the end
        trainer_for(robot, amqtt_url, tmp_path) as trainer,
        pytest.raises(RuntimeError, match="planted"),
    ):
        trainer.wait(until=lambda _: False, timeout=SECONDS)


def test_a_second_trainer_of_the_name_is_refused(robot: ThinRobot, amqtt_url: str, tmp_path: Path) -> None:
    with trainer_for(robot, amqtt_url, tmp_path / "1") as first:
        assert first.wait(until=lambda its: its._node._others._has_spoken, timeout=SECONDS)
        with pytest.raises(NameTaken), trainer_for(robot, amqtt_url, tmp_path / "2") as second:
            second.wait(timeout=SECONDS)
        assert first.robots == {}
    with pytest.raises(ConfigError, match="opens once"):
        first.open()


def test_a_run_with_other_settings_is_refused_and_keeps_its_own(
    robot: ThinRobot, amqtt_url: str, tmp_path: Path
) -> None:
    with trainer_for(robot, amqtt_url, tmp_path):
        pass
    before = (tmp_path / "config.toml").read_bytes()
    with pytest.raises(ConfigError, match="made with --batch 4, now it is 8"):
        trainer_for(robot, amqtt_url, tmp_path, batch=8).open()
    assert (tmp_path / "config.toml").read_bytes() == before


def test_settings_that_cannot_work_are_said_before_anything_is_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--batch"):
        cloud.Trainer(batch=1, run_dir=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="--batch '64': use a number"):
        cloud.Trainer(batch="64")
    with pytest.raises(ConfigError, match="did you mean broker"):
        cloud.Trainer(brokr="mqtt://localhost")
    with pytest.raises(ConfigError, match="--page-host"):
        cloud.Trainer(page=8000, page_host="0.0.0.0", run_dir=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="as a context manager"):
        cloud.Trainer(run_dir=str(tmp_path / "run")).wait(timeout=0)
    assert not (tmp_path / "run").exists()


def test_the_package_alone_does_not_import_torch() -> None:
    code = "import sys, cloud_trainer; sys.exit('torch' in sys.modules or not cloud_trainer.__all__)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
