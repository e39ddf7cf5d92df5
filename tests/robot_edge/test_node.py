from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import hierarchy.run_folder
import robot_edge.node
from broker import topics
from broker.codec import pack, unpack_as
from broker.link import Delivery, MemoryBroker, MemoryLink
from broker.messages import ActivationBatch, Receipt, RobotState, TrainerMetrics, TrainerState
from hierarchy.checkpoint import load_checkpoint
from hierarchy.command_line import StopRequest
from hierarchy.device import Compute
from hierarchy.run_folder import RunFolder
from robot_edge.config import RobotConfig
from robot_edge.frames import FrameSource
from robot_edge.node import RobotNode
from robot_edge.segment import build_edge
from robot_edge.sources import open_source
from robot_edge.trainer import EdgeStep, EdgeTrainer
from robot_edge.uplink import Uplink

BOOT = "b" * 16
TRAINER = TrainerState(boot="1" * 16, started=1.0, online=True, trouble="")


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than most of what these tests train."""
    monkeypatch.setattr(hierarchy.run_folder, "draw_curves", lambda *_arguments: None)


class AnsweringLink(MemoryLink):
    """A link to a trainer that takes in everything at once."""

    def __init__(self) -> None:
        super().__init__(MemoryBroker())
        self.batches: list[ActivationBatch] = []
        self.offer_trainer = True

    def receive(self, timeout: float) -> Delivery | None:
        if self.offer_trainer:
            self.offer_trainer = False
            self.offer(Delivery(topics.topic("trainer", "t1", "state"), pack(TRAINER), retained=True))
        return super().receive(0)

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        if topics.parse(topic).channel == "activations":
            self._take(unpack_as(ActivationBatch, payload))
        return super().publish(topic, payload, qos=qos, retain=retain)

    def _take(self, batch: ActivationBatch) -> None:
        self.batches.append(batch)
        receipt = Receipt(boot=BOOT, sequence=batch.sequence, outcome="accepted", reason="")
        self.offer(Delivery(topics.topic("robot", "r1", "receipt"), pack(receipt), retained=False))
        figures = TrainerMetrics(
            robot="r1",
            boot=BOOT,
            images=len(self.names(evaluation=0)),
            classes=3,
            cloud_loss=0.5,
            cloud_prequential=0.6,
            cloud_recent=0.7,
            cloud_accuracy=0.8,
            evaluation=batch.evaluation,
            evaluated=len(self.names(evaluation=1)),
            messages_trained=len(self.batches),
            messages_waiting=0,
            quarantine="",
            messages_rejected=0,
        )
        self.offer(Delivery(topics.topic("trainer", "t1", "metrics"), pack(figures), retained=False))

    def names(self, evaluation: int) -> list[str]:
        """The classes of all samples for training (0) or of an evaluation."""
        return [name for batch in self.batches if batch.evaluation == evaluation for name in batch.names]


class WatchedTrainer(EdgeTrainer):
    """Notes how many frames each step had, and how many of them were fresh."""

    def __init__(self, segment: Any, **settings: Any) -> None:
        super().__init__(segment, **settings)
        self.frames: list[tuple[int, int]] = []

    def step(self, images: NDArray[np.uint8], names: Sequence[str], *, fresh: int, progress: float | None) -> EdgeStep:
        self.frames.append((len(names), fresh))
        return super().step(images, names, fresh=fresh, progress=progress)


@dataclass
class Run:
    """A robot's node with all that it works with."""

    path: Path
    settings: dict[str, Any] = field(default_factory=dict)
    link: AnsweringLink = field(default_factory=AnsweringLink)
    stop: StopRequest = field(default_factory=StopRequest)

    def __post_init__(self) -> None:
        given = {"source": "sim:", "cut": "layer1", "image_size": 16, "bottleneck": 2, "batch": 8, **self.settings}
        self.config = RobotConfig(**given)
        segment, split, start = build_edge(self.config)
        compute = Compute(device=torch.device("cpu"))
        self.trainer = WatchedTrainer(segment, bits=4, compute=compute, peak_learning_rate=0.05)
        state = RobotState(boot=BOOT, started=1.0, online=True, split=split, weights=start, rehearse=1.0)
        held_out = self._source(self.config.held_out, 6) if self.config.held_out else None
        self.node = RobotNode(
            self.config,
            self.trainer,
            Uplink(self.link, "r1", state),
            self._source(self.config.source, self.config.images),
            held_out,
            RunFolder(self.path, {}),
            self.stop,
        )

    def all(self) -> dict[str, Any]:
        """Go through the whole run; return its summary."""
        self.node.wait_for_trainer()
        self.node.train()
        self.node.test()
        return self.finish()

    def finish(self) -> dict[str, Any]:
        """End the run and return its summary."""
        self.node.finish()
        summary: dict[str, Any] = json.loads((self.path / "summary.json").read_text())
        return summary

    def metrics(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]

    def _source(self, text: str, images: int) -> FrameSource:
        return open_source(text, image_size=16, images=images, phases=self.config.phase_classes)


def test_a_run_trains_on_all_but_the_held_out_frames_and_tests_on_those(tmp_path: Path) -> None:
    run = Run(tmp_path, {"images": 48, "held_out_every": 3, "phases": "mug,car|star"})
    summary = run.all()
    trained, tested = run.link.names(evaluation=0), run.link.names(evaluation=1)
    assert len(trained) + len(tested) == 48
    assert len(tested) >= 12
    assert summary["images"] == len(trained)
    assert summary["held_out_images"] == len(tested)
    assert set(summary["classes"]) == set(trained)
    assert "star" not in trained[: len(trained) // 3]
    assert summary["exit_accuracy"] == pytest.approx(np.mean([*by_weight(summary, tested)]))
    assert (summary["cloud_accuracy"], summary["cloud_prequential"]) == (0.8, 0.6)
    sent = [batch for batch in run.link.batches if not batch.evaluation]
    assert summary["messages_sent"] == len(sent)
    assert summary["bytes_per_image"] == pytest.approx(sum(len(pack(batch)) for batch in sent) / len(trained))
    assert summary["raw_bytes_per_image"] == 3 * 16 * 16
    assert (summary["dropped"], summary["messages_rejected"], summary["interrupted"]) == (0, 0, False)
    progress = [batch.progress or 0 for batch in sent]
    assert progress == sorted(progress)
    assert progress[-1] == 1
    _, about = load_checkpoint(tmp_path / "checkpoint")
    assert about["classes"] == summary["classes"]
    assert [line["classes"] for line in run.metrics()][-1] == len(summary["classes"])


def by_weight(summary: dict[str, Any], names: Sequence[str]) -> list[float]:
    """The exit's accuracy on the class of each sample."""
    return [summary["exit_accuracy_by_class"][name] for name in names]


@pytest.mark.parametrize(("rehearse", "fresh"), [(0.0, 8), (1.0, 4), (3.0, 2)])
def test_rehearsed_frames_are_learned_from_and_never_sent(tmp_path: Path, rehearse: float, fresh: int) -> None:
    run = Run(tmp_path, {"images": 24, "rehearse": rehearse, "held_out": "sim:"})
    run.node.wait_for_trainer()
    run.node.train()
    run.finish()
    assert [one for _, one in run.trainer.frames] == [fresh] * (24 // fresh)
    assert run.trainer.frames[0] == (fresh, fresh), "there is nothing to rehearse yet"
    assert run.trainer.frames[-1] == (round(fresh * (1 + rehearse)), fresh)
    assert len(run.link.names(evaluation=0)) == 24


def test_a_source_of_its_own_for_testing_leaves_all_others_to_train_on(tmp_path: Path) -> None:
    run = Run(tmp_path, {"images": 16, "held_out": "sim:"})
    summary = run.all()
    assert summary["images"] == len(run.link.names(evaluation=0)) == 16
    assert summary["held_out_images"] == len(run.link.names(evaluation=1)) == 6


def test_a_simulated_test_shows_other_scenes_than_the_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened: list[FrameSource] = []

    def keep(*arguments: Any, **settings: Any) -> FrameSource:
        opened.append(open_source(*arguments, **settings))
        return opened[-1]

    def stop_here(*_arguments: Any, **_settings: Any) -> None:
        raise InterruptedError

    monkeypatch.setattr(robot_edge.node, "open_source", keep)
    monkeypatch.setattr(robot_edge.node, "fastest_compute", stop_here)
    config = RobotConfig(source="sim:", held_out="sim:", cut="layer1", image_size=16, phases="mug|mug", images=80)
    with pytest.raises(InterruptedError):
        robot_edge.node.run(config)
    training, test = ([frame.image.tobytes() for frame in islice(iter(one.next, None), 80)] for one in opened)
    assert len(training) == len(test) == 80
    assert not set(training) & set(test)


def test_what_the_cloud_has_not_said_is_not_made_up(tmp_path: Path) -> None:
    run = Run(tmp_path, {"images": 8})
    run.node.wait_for_trainer()
    run.node.train()
    summary = run.finish()
    assert summary["exit_accuracy"] is None
    assert summary["cloud_accuracy"] is None, "the cloud's figures are of no evaluation yet"


def test_a_stop_ends_every_part_of_a_run_and_the_summary_says_so(tmp_path: Path) -> None:
    run = Run(tmp_path, {"images": 800})
    run.link.offer_trainer = False  # nobody is there to wait for
    run.stop.made = True
    summary = run.all()
    assert run.trainer.frames == []
    assert summary["interrupted"] is True
    assert summary["images"] == 0
    assert summary["classes"] == []


def test_a_stop_in_the_middle_tests_the_exit_and_keeps_what_was_learned(tmp_path: Path) -> None:
    run = Run(tmp_path, {"images": 800, "held_out_every": 2})

    def stop_later(*_arguments: Any) -> None:
        run.stop.made = len(run.trainer.frames) >= 3

    run.trainer.segment.exit.register_forward_hook(stop_later)
    summary = run.all()
    assert len(run.trainer.frames) == 3
    assert summary["interrupted"] is True
    assert summary["exit_accuracy"] is not None
    assert run.link.names(evaluation=1) == [], "it waits for the cloud after Ctrl-C"
    assert load_checkpoint(tmp_path / "checkpoint")[1]["steps"] == 3
