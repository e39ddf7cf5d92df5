from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

import cloud_trainer.node
import hierarchy.run_folder
from broker import topics
from broker.codec import pack, unpack
from broker.link import Delivery, MemoryBroker, MemoryLink
from broker.messages import (
    ActivationBatch,
    Message,
    Receipt,
    RobotMetrics,
    RobotState,
    SplitSpec,
    TrainerMetrics,
    TrainerState,
)
from cloud_trainer.config import TrainerConfig
from cloud_trainer.node import TrainerNode
from hierarchy.checkpoint import load_checkpoint
from hierarchy.command_line import SparseLog
from hierarchy.device import Compute
from hierarchy.run_folder import RunFolder

AnyMessage = TypeVar("AnyMessage")
MakeBatch = Callable[..., ActivationBatch]

SPLIT = SplitSpec(backbone="shufflenet_v2_x0_5", cut="stage3", image_size=16, bits=4, bottleneck=6, shape=(6, 2, 2))
STATE = RobotState(boot="b" * 16, started=1.0, online=True, split=SPLIT, weights="none", rehearse=0.0)
TRAINER = TrainerState(boot="1" * 16, started=1.0, online=True, trouble="")
IMPOSSIBLE = dataclasses.replace(STATE, split=dataclasses.replace(SPLIT, shape=(7, 2, 2)))


class Cloud:
    """A trainer at a broker in memory, and the robots' end of that broker."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.path = folder
        self.config = TrainerConfig(trainer="t1", batch=4, **settings)
        broker = MemoryBroker()
        self.robots = MemoryLink(broker)
        for filter_ in (
            topics.topic("robot", topics.ANYONE, "receipt"),
            topics.topic("trainer", "t1", "state"),
            topics.topic("trainer", "t1", "metrics"),
        ):
            self.robots.subscribe(filter_)
        self.link = MemoryLink(broker)
        self.folder = RunFolder(folder, {})
        self.node = TrainerNode(self.config, TRAINER, self.link, self.folder)
        self._sent = 0

    def publish(self, robot: str, channel: topics.Channel, payload: bytes) -> None:
        """Let a robot send bytes."""
        self.robots.publish(topics.topic("robot", robot, channel), payload)
        self._sent += 1

    def say(self, robot: str, *messages: RobotState | ActivationBatch | RobotMetrics) -> list[Receipt]:
        """Let a robot send messages, and return the receipts that it got."""
        channels: dict[type, topics.Channel] = {
            RobotState: "state",
            ActivationBatch: "activations",
            RobotMetrics: "metrics",
        }
        for message in messages:
            self.publish(robot, channels[type(message)], pack(message))
        return of(Receipt, [one for one in self.work() if topics.parse(one.topic).name == robot])

    def work(self) -> list[Delivery]:
        """Let the node take in all that was sent; return what it says."""
        for _ in range(self._sent + 1):
            self.node.turn(timeout=0)
        self._sent = 0
        return list(self._answers())

    def finish(self) -> dict[str, Any]:
        """End the run and return its summary."""
        self.node.finish()
        summary: dict[str, Any] = json.loads((self.path / "summary.json").read_text())
        return summary

    def _answers(self) -> Iterator[Delivery]:
        while (delivery := self.robots.receive(0)) is not None:
            yield delivery


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out measuring and drawing, which take longer than all that these tests train."""
    plain = Compute(device=torch.device("cpu"))
    monkeypatch.setattr(cloud_trainer.node, "fastest_compute", lambda *_arguments: plain)
    monkeypatch.setattr(hierarchy.run_folder, "draw_curves", lambda *_arguments: None)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Cloud]]:
    """Return a function that starts a cloud with a run folder of that name; in the end their files are closed."""
    clouds: list[Cloud] = []

    def start_one(name: str, **settings: Any) -> Cloud:
        clouds.append(Cloud(tmp_path / name, **settings))
        return clouds[-1]

    yield start_one
    for one in clouds:
        one.folder.finish({})


@pytest.fixture
def cloud(start: Callable[..., Cloud]) -> Cloud:
    return start("cloud")


def of(kind: type[AnyMessage], deliveries: list[Delivery]) -> list[AnyMessage]:
    messages: list[Message] = [unpack(delivery.payload) for delivery in deliveries]
    return [message for message in messages if isinstance(message, kind)]


def batches(make_batch: MakeBatch, count: int, **settings: Any) -> list[ActivationBatch]:
    """So many messages of four samples."""
    names = ["cat", "dog", "cat", "dog"]
    return [make_batch(names, SPLIT, sequence=number, **settings) for number in range(count)]


def outcomes(receipts: list[Receipt]) -> list[str]:
    return [receipt.outcome for receipt in receipts]


def test_it_says_its_state_at_once_and_on_every_connection(cloud: Cloud) -> None:
    assert of(TrainerState, cloud.work()) == [TRAINER]
    assert of(TrainerState, cloud.work()) == []
    cloud.link.connections += 1
    assert of(TrainerState, cloud.work()) == [TRAINER]


def test_a_robots_batches_are_trained_on_and_receipted(cloud: Cloud, make_batch: MakeBatch) -> None:
    receipts = cloud.say("r1", STATE, *batches(make_batch, 3), batches(make_batch, 1)[0])
    assert outcomes(receipts) == ["accepted"] * 3 + ["duplicate"]
    assert [receipt.sequence for receipt in receipts] == [0, 1, 2, 0]
    assert {receipt.boot for receipt in receipts} == {STATE.boot}
    evaluated = make_batch(["cat", "dog", "cat"], SPLIT, sequence=3, evaluation=1)
    assert outcomes(cloud.say("r1", evaluated)) == ["accepted"]
    summary = cloud.finish()
    assert (summary["images"], summary["messages_trained"], summary["messages_rejected"]) == (12, 3, 0)
    assert summary["classes"] == ["cat", "dog"]
    assert summary["cloud_accuracy"] in {0, 1 / 3, 2 / 3, 1}
    (figures,) = {one.messages_trained: one for one in of(TrainerMetrics, cloud.work())}.values()
    assert (figures.robot, figures.boot, figures.evaluated) == ("r1", STATE.boot, 3)
    lines = [json.loads(line) for line in (cloud.path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["robot"], line["images"], line["classes"]) for line in lines] == [
        *(("r1", 4, 2), ("r1", 8, 2), ("r1", 12, 2)),
    ]
    parts, about = load_checkpoint(cloud.path / "checkpoint" / "r1")
    assert about["classes"] == ["cat", "dog"]
    assert about["steps"] == 3
    assert parts["weights"]["head.weight"][:2].any()


def test_several_robots_get_a_segment_each(cloud: Cloud, make_batch: MakeBatch) -> None:
    other = dataclasses.replace(STATE, boot="c" * 16, split=dataclasses.replace(SPLIT, bottleneck=0, shape=(96, 2, 2)))
    cloud.say("r1", STATE)
    cloud.say("r2", other)
    for number in range(2):
        mine = make_batch(["cat", "dog"] * 2, SPLIT, sequence=number)
        its = make_batch(["ant"] * 4, other.split, sequence=number, boot=other.boot)
        assert outcomes(cloud.say("r1", mine)) == outcomes(cloud.say("r2", its)) == ["accepted"]
    assert outcomes(cloud.say("r2", make_batch(["ant"], SPLIT, sequence=9, boot=other.boot))) == ["rejected"]
    summary = cloud.finish()
    assert summary["robots"]["r1"]["classes"] == ["cat", "dog"]
    assert summary["robots"]["r2"]["classes"] == ["ant"]
    assert (summary["images"], summary["messages_rejected"]) == (16, 1)
    assert (
        load_checkpoint(cloud.path / "checkpoint" / "r1")[0]["weights"].keys()
        != load_checkpoint(cloud.path / "checkpoint" / "r2")[0]["weights"].keys()
    )


def test_garbage_on_any_topic_is_counted_and_stops_nothing(
    cloud: Cloud, make_batch: MakeBatch, caplog: pytest.LogCaptureFixture
) -> None:
    good = batches(make_batch, 2)
    cloud.say("r1", STATE, good[0])
    garbage = [b"", b"garbage", b"\xff" * 100, b"{}", b"[1]", pack(good[1])[:-3], pack(STATE)[:50], pack(TRAINER)]
    channels: tuple[topics.Channel, ...] = ("state", "activations", "metrics")
    for robot in ("r1", "stranger"):
        for channel in channels:
            for payload in garbage:
                cloud.publish(robot, channel, payload)
    cloud.robots.publish("reflexarc/1/robot/no name!/state", pack(STATE))
    cloud.work()
    assert outcomes(cloud.say("r1", good[1])) == ["accepted"]
    assert caplog.text.count("robot stranger: message rejected") > 10
    summary = cloud.finish()
    assert summary["messages_rejected"] == len(garbage) * 6
    assert (summary["images"], list(summary["robots"])) == (8, ["r1"])


def test_garbage_all_day_does_not_fill_the_log(cloud: Cloud, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3 * SparseLog.LOGGED):
        cloud.publish("r1", "activations", b"garbage")
    cloud.work()
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == SparseLog.LOGGED + 2
    assert cloud.finish()["messages_rejected"] == 3 * SparseLog.LOGGED


def test_a_batch_before_its_state_gets_no_receipt_so_that_it_comes_again(cloud: Cloud, make_batch: MakeBatch) -> None:
    (batch,) = batches(make_batch, 1)
    assert cloud.say("r1", batch) == []
    assert outcomes(cloud.say("r1", STATE, batch)) == ["accepted"]


def test_an_impossible_split_is_refused_with_its_reason_and_others_go_on(
    cloud: Cloud, make_batch: MakeBatch, caplog: pytest.LogCaptureFixture
) -> None:
    batch = make_batch(["cat"] * 4, IMPOSSIBLE.split)
    (receipt,) = cloud.say("r1", IMPOSSIBLE, batch)
    assert receipt.outcome == "rejected"
    assert "says that (7, 2, 2) crosses, stage3 gives (6, 2, 2)" in receipt.reason
    cloud.say("r1", IMPOSSIBLE)  # its heartbeat
    assert caplog.text.count("robot r1 cannot be trained for") == 1
    assert outcomes(cloud.say("r2", STATE, *batches(make_batch, 1))) == ["accepted"]
    better = dataclasses.replace(STATE, boot="d" * 16)
    assert outcomes(cloud.say("r1", better, *batches(make_batch, 1, boot=better.boot))) == ["accepted"]
    summary = cloud.finish()
    assert (summary["images"], summary["messages_rejected"]) == (8, 1)


def test_samples_too_few_for_a_step_are_trained_on_when_a_robot_falls_silent(
    cloud: Cloud, start: Callable[..., Cloud], make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.say("r1", STATE, make_batch(["cat", "dog"], SPLIT))
    assert cloud.finish()["images"] == 2, "what waits at the end is lost"
    monkeypatch.setattr(cloud_trainer.node, "SILENCE_SECONDS", -1.0)
    other = start("other")
    other.say("r1", STATE, make_batch(["cat", "dog"], SPLIT))
    other.work()
    monkeypatch.setattr(other.node, "_flush", lambda _robot: pytest.fail("something waits still"))
    other.work()


def test_a_robot_that_leaves_has_its_segment_saved(cloud: Cloud, make_batch: MakeBatch) -> None:
    cloud.say("r1", STATE, make_batch(["cat", "dog"], SPLIT))
    cloud.say("r1", dataclasses.replace(STATE, boot="e" * 16, online=False))  # of another start
    assert not (cloud.path / "checkpoint").exists()
    cloud.say("r1", dataclasses.replace(STATE, online=False))
    _, about = load_checkpoint(cloud.path / "checkpoint" / "r1")
    assert (about["classes"], about["steps"]) == (["cat", "dog"], 1)


@pytest.mark.parametrize(("weights", "images"), [("checkpoint", 8), ("none", 4)])
def test_only_a_robot_that_goes_on_from_its_checkpoint_finds_its_segment(
    cloud: Cloud, make_batch: MakeBatch, weights: str, images: int
) -> None:
    cloud.say("r1", STATE, *batches(make_batch, 1))
    back = dataclasses.replace(STATE, boot="c" * 16, weights=weights)  # type: ignore[arg-type]
    assert outcomes(cloud.say("r1", back, make_batch(["ant"] * 4, SPLIT, boot=back.boot))) == ["accepted"]
    summary = cloud.finish()
    assert summary["images"] == images
    assert summary["classes"] == (["ant", "cat", "dog"] if weights == "checkpoint" else ["ant"])


def test_a_former_run_is_gone_on_from_robot_by_robot(
    cloud: Cloud, start: Callable[..., Cloud], make_batch: MakeBatch
) -> None:
    cloud.say("r1", STATE, *batches(make_batch, 1))
    cloud.finish()
    later = start("later", weights=str(cloud.path))
    later.say("r1", STATE)
    later.finish()
    before, about = load_checkpoint(cloud.path / "checkpoint" / "r1")
    after, about_after = load_checkpoint(later.path / "checkpoint" / "r1")
    assert about_after["classes"] == about["classes"]
    assert all(torch.equal(value, before["weights"][name]) for name, value in after["weights"].items())


def test_a_former_run_without_this_robot_or_of_another_split_is_a_reason(
    cloud: Cloud, start: Callable[..., Cloud], make_batch: MakeBatch
) -> None:
    cloud.say("r1", STATE, *batches(make_batch, 1))
    cloud.finish()
    later = start("later", weights=str(cloud.path))
    (receipt,) = later.say("r2", STATE, *batches(make_batch, 1))
    assert "r2 holds no checkpoint" in receipt.reason
    other = dataclasses.replace(STATE, split=dataclasses.replace(SPLIT, bottleneck=5, shape=(5, 2, 2)))
    (receipt,) = later.say("r1", other, make_batch(["cat"], other.split))
    assert receipt.outcome == "rejected"
    assert "not of this split" in receipt.reason


def robot_metrics(**figures: Any) -> RobotMetrics:
    values: dict[str, Any] = {
        "boot": STATE.boot,
        "images": 4,
        "classes": 2,
        "exit_loss": 0.5,
        "exit_prequential": 0.25,
        "exit_accuracy": 0.75,
        "images_per_second": 50.0,
        "bytes_per_image": 500.0,
        "raw_bytes_per_image": 768.0,
        "jpeg_bytes_per_image": 400.0,
        "messages_sent": 9,
        "messages_rejected": 0,
        "queued": 0,
        "dropped": 0,
    }
    return RobotMetrics(**{**values, **figures})


def test_what_a_robot_says_of_itself_is_in_the_summary(cloud: Cloud, make_batch: MakeBatch) -> None:
    cloud.say("r1", STATE, *batches(make_batch, 1), robot_metrics())
    cloud.say("r1", robot_metrics(boot="e" * 16, exit_accuracy=0.1))  # left over from a former start
    cloud.say("stranger", robot_metrics(exit_accuracy=0.2))
    summary = cloud.finish()
    assert (summary["exit_accuracy"], summary["messages_sent"], summary["bytes_per_image"]) == (0.75, 9, 500)
    assert list(summary["robots"]) == ["r1"]


def test_a_trainer_that_no_robot_came_to_writes_its_summary_too(cloud: Cloud, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cloud.work()
    cloud.link.connected, cloud.link.trouble = False, "gone"
    cloud.work()
    assert caplog.messages == ["connected; waiting for robots", "waiting for the broker (gone)"]
    assert cloud.finish()["images"] == 0
