from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import hierarchy.runtime.curves
import robot_edge.learning.held_back
import robot_edge.run.release
from broker.errors import ConfigError
from broker.wire.quantize import Quantized
from hierarchy.attack.leak import Leak
from hierarchy.attack.pairs import Pairs
from hierarchy.edge import EdgeStep
from hierarchy.encoding import Encoding
from hierarchy.exits import LENGTH
from hierarchy.novelty import fit_novelty
from hierarchy.runtime.checkpoint import load_checkpoint
from robot_edge.evaluation.saved_predictor import remembering_predictor
from robot_edge.inference.predictor import Predictor
from robot_edge.run.checkpoint import LAYOUT, inherit
from robot_edge.run.perception import Perception
from robot_edge.run.replay import train, wait_for_trainer
from robot_edge.run.still_learning import StillLearning
from tests.robot_edge.run.test_replay import LATER, OPEN, Run

pytestmark = pytest.mark.slow

STILL = {
    "backbone": "resnet18",
    "bits": 4,
    "pool": 0,
    "freeze": "all",
    "exit": "end",
    "phases": "mug|car|star",
    "images": 90,
    "held_out": "sim:",
    "batch": 16,
}


@pytest.fixture(autouse=True)
def _tidy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(hierarchy.runtime.curves, "draw_curves", lambda *_arguments: None)
    yield
    while OPEN:
        OPEN.pop().end()


def counted(run: Run) -> list[int]:
    """Note how many frames each call encodes."""
    counts: list[int] = []
    encode = run.trainer.encode

    def note(images: NDArray[np.uint8]) -> Encoding:
        counts.append(len(images))
        return encode(images)

    run.trainer.encode = note  # type: ignore[method-assign]
    return counts


def test_each_frame_is_encoded_once_and_each_class_is_known_behind_its_phase(tmp_path: Path) -> None:
    run = Run(tmp_path, STILL)
    counts = counted(run)
    before = {name: value.clone() for name, value in run.weights().items()}
    summary = run.all()
    assert sum(counts) <= 90 + 6, "each of the source's frames, and each held-out one, whatever the number of tests"
    assert summary["exit_accuracy"] >= 0.8
    moved = {name for name, value in run.weights().items() if name in before and not torch.equal(value, before[name])}
    assert moved <= {"exit.head.weight", "exit.head.bias"}
    assert not [batch for batch in run.link.batches if batch.again], "the same bytes once more"
    assert len(run.link.names(evaluation=0)) == 90
    assert {batch.edge_version for batch in run.link.batches} == {0}
    assert run.metrics()[-1]["exit_loss"] < 0.5
    assert not run.trainer.frames, "no step is taken"
    _is_judged_by_what_it_remembers(run)


def _is_judged_by_what_it_remembers(run: Run) -> None:
    """What tests a run sees with its features, and its live robot would judge by the same remembered frames."""
    saved = load_checkpoint(run.folder.checkpoint, LAYOUT)
    state = run.robot.state
    predictor = remembering_predictor(run.trainer.segment, state.split, run.trainer.learner.compute, saved)
    live = Predictor(run.trainer.segment, bits=4, compute=run.trainer.learner.compute, encode=run.trainer.encode)
    parts: Any = (None, None, None)
    Perception(predictor=live, sight=parts[0], fleet=None, saw=parts[1], tell=parts[2]).take_over(state)
    names, encoding = state.memory.rehearsal.encodings()
    assert set(names) == {"mug", "car", "star"}
    novelty = fit_novelty(encoding.features, names)
    assert novelty is not None
    for frame in state.memory.rehearsal.draw(4):
        says = predictor.predict(frame.image)
        assert says.novelty == live.predict(frame.image).novelty
        assert says.novelty == novelty.score(run.trainer.encode(frame.image[None]).features)[0]


@pytest.mark.parametrize("leak", [0.0, 1.0])
def test_a_front_that_stands_still_is_attacked_once_and_says_what_it_tells(
    tmp_path: Path, leak: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attacks: list[int] = []

    def attack(own: Pairs, attacked: Pairs) -> Leak:
        attacks.append(len(own) + len(attacked))
        return Leak(psnr=9.0, ssim=leak, found=0.5)

    monkeypatch.setattr(robot_edge.run.release, "quick_leak", attack)
    monkeypatch.setattr(robot_edge.learning.held_back, "LEAST_FRAMES", 40)
    run = Run(tmp_path, {**STILL, "privacy": "high"})
    summary = run.all()
    assert len(attacks) == 1
    assert 40 <= attacks[0] <= 90, "with what it remembers"
    assert len(run.link.names(evaluation=0)) == 90, "it will never tell less, so nothing waits for that"
    assert (summary["leak"], summary["leak_line"], summary["nothing_sent_why"]) == (leak, 0.1, None)
    live = " ".join(run.robot.state.metrics.live_line())
    assert ("PRIVACY: this front tells more than --privacy high lets it: leak 1.00" in live) == (leak > 0.1)
    assert ("with fewer bits, places or channels (--bits, --pool, --bottleneck)" in caplog.text) == (leak > 0.1)


def test_a_batch_that_is_all_of_a_phase_is_learned_by_the_handful(tmp_path: Path) -> None:
    run = Run(tmp_path, {**STILL, "batch": 64})
    quantized = [step.quantized for step in trained(run)]
    assert [len(one.codes) for one in quantized] == [30, 30, 30]
    assert len([batch for batch in run.link.batches if not batch.evaluation]) == 3, (
        "a batch is one message, and waits for no fit"
    )
    state = run.robot.state
    assert state.trainer.steps == 3 * 4
    assert state.metrics.recent is not None
    assert 0.4 <= state.metrics.recent <= 0.8, "8 frames of 30 are of a class that nobody told it"


def trained(run: Run) -> list[EdgeStep]:
    """Return the steps of a replay."""
    steps: list[EdgeStep] = []
    wait_for_trainer(run.robot)
    train(run.robot, steps.append)
    return steps


def test_a_killed_robot_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole", {**STILL, "checkpoint_every": 2})
    whole.all()
    first = Run(tmp_path / "killed", {**STILL, "checkpoint_every": 2})
    learn = first.robot.learning.learn

    def stopped(*arguments: Any, **settings: Any) -> Any:
        first.stop.made |= first.trainer.steps == 4
        return learn(*arguments, **settings)

    first.robot.learning.learn = stopped  # type: ignore[method-assign]
    wait_for_trainer(first.robot)
    train(first.robot)
    first.end()
    second = Run(tmp_path / "killed", {**STILL, "checkpoint_every": 2}, boot=LATER)
    counts = counted(second)
    second.all()
    assert sum(counts) < 90, "what was remembered is not encoded anew"
    assert torch.equal(second.weights()["exit.head.weight"], whole.weights()["exit.head.weight"])


def test_frames_of_a_former_run_are_encoded_by_the_new_network(tmp_path: Path) -> None:
    Run(tmp_path / "former", {**STILL, "phases": "mug|car"}).all()
    run = Run(tmp_path / "new", {**STILL, "phases": "star", "weights": str(tmp_path / "former"), "cut": "layer1"})
    inherit(run.robot.state, run.outbox, tmp_path / "former")
    names, encoding = run.robot.state.memory.rehearsal.encodings()
    kept = run.robot.state.memory.rehearsal.all()
    assert names == [name for name, *_ in run.robot.state.memory.rehearsal.all()]
    again = run.trainer.encode(np.stack([one.image for one in kept]))
    cosines = (encoding.features.astype(float) * again.features).sum(1) / LENGTH**2
    assert cosines.min() > 0.9, "but for what another JPEG changes"
    run.all()
    assert set(run.robot.state.memory.classes) == {"mug", "car", "star"}
    sent = {name for batch in run.link.batches if batch.again for name in batch.classes}
    assert {"mug", "car"} <= sent, "the cloud never got them"


def test_a_live_robot_teaches_a_new_cloud_once_what_it_remembers(tmp_path: Path) -> None:
    run = Run(tmp_path, STILL)
    run.all()
    state, clock, sent = run.robot.state, Clock(), list[str]()
    sending = Cloud(sent)
    learning = StillLearning(state, sending, clock)  # type: ignore[arg-type]

    def taught(**said: Any) -> int:
        """Return how many frames go up within a minute in which the cloud says that."""
        vars(sending).update(said)
        sent.clear()
        for _ in range(60):
            clock.now += 1.0
            list(learning.teach_a_new_cloud())
        return len(sent)

    kept = len(state.memory.rehearsal)
    assert taught(cloud_classes=3, cloud_images=90) == 0
    assert taught(cloud_classes=1, cloud_images=8, cloud_has_all=False) == 0, "it may be about to learn the others"
    assert taught(cloud_classes=1, cloud_images=8, cloud_has_all=True) == kept > 80
    assert set(sent) == {"mug", "car", "star"}
    assert taught(cloud_classes=2, cloud_images=30) == 0, "it was sent all"
    assert taught(cloud_classes=1, cloud_images=4) == kept, "another one"


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Cloud:
    """What a robot knows of its cloud, and sends again."""

    sent: list[str]
    cloud_classes: int = 0
    cloud_images: int = 0
    cloud_has_all: bool = True

    def send_again(self, _quantized: Quantized, names: list[str], _samples: list[int], _version: int) -> None:
        self.sent.extend(names)


def test_without_memory_nothing_could_be_learned(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keeps no frame"):
        Run(tmp_path, {**STILL, "rehearsal_mb": 0.0})
