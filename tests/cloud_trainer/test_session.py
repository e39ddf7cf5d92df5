from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.errors import MalformedMessage
from broker.messages import ActivationBatch, Receipt, RobotState, SplitSpec
from broker.quantize import dequantize, quantize
from cloud_trainer.session import PREDICT_AT_ONCE, RobotSession
from cloud_trainer.trainer import CloudStep, CloudTrainer

SPLIT = SplitSpec(backbone="resnet18", cut="layer2", image_size=16, bits=8, bottleneck=1, shape=(1, 2))
STATE = RobotState(boot="b" * 16, started=1.0, online=True, split=SPLIT, weights="none", rehearse=0.0)

MakeBatch = Callable[..., ActivationBatch]


@dataclass
class Step:
    """What a step was given."""

    activations: NDArray[np.float32]
    names: list[str]
    fresh: int
    progress: float | None


class Recorder(CloudTrainer):
    """A trainer that learns nothing, notes everything, and finds every second sample right."""

    def __init__(self) -> None:
        self.recorded: list[Step] = []
        self.predicted: list[int] = []
        self.names: dict[str, None] = {}
        self.broken = False

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.names)

    def step(
        self, activations: NDArray[np.float32], names: Sequence[str], *, fresh: int, progress: float | None
    ) -> CloudStep:
        if self.broken:
            raise MalformedMessage("these activations give a loss of inf")
        self.recorded.append(Step(activations, list(names), fresh, progress))
        self.names.update(dict.fromkeys(names))
        return CloudStep(loss=float(len(self.recorded)), correct=np.arange(fresh) % 2 == 0)

    def predict(self, activations: NDArray[np.float32]) -> list[str]:
        self.predicted.append(len(activations))
        return ["cat"] * len(activations)


class Robot:
    """A session and the robot that sends to it."""

    def __init__(self, make_batch: MakeBatch, *, batch: int = 8, memory: int = 100, rehearse: float = 0.0) -> None:
        self.trainer = Recorder()
        self.state = dataclasses.replace(STATE, rehearse=rehearse)
        self.session = RobotSession("r1", self.state, self.trainer, batch=batch, memory=memory, seed=0)
        self._make_batch = make_batch
        self._sequence = 0

    def send(self, count: int, *, evaluation: int = 0, progress: float | None = None, boot: str = STATE.boot) -> str:
        """Send a message of so many samples, cats and dogs in turn; return its outcome."""
        names = [("cat", "dog")[index % 2] for index in range(count)]
        batch = self._make_batch(
            names, SPLIT, boot=boot, sequence=self._sequence, evaluation=evaluation, progress=progress
        )
        self._sequence += 1
        return self.accept(batch)

    def accept(self, batch: ActivationBatch) -> str:
        receipt = self.session.accept(batch)
        if receipt is None:
            return "none"
        assert (receipt.boot, receipt.sequence) == (batch.boot, batch.sequence)
        return receipt.outcome

    @property
    def steps(self) -> list[tuple[int, int]]:
        """How many samples each step had, and how many of them were fresh."""
        return [(len(step.names), step.fresh) for step in self.trainer.recorded]


@pytest.mark.parametrize("sizes", [[3, 3, 3, 3, 4], [16], [1] * 16, [15, 1], [8, 8], [5, 11]])
def test_messages_of_any_size_become_steps_of_its_own_size(make_batch: MakeBatch, sizes: list[int]) -> None:
    robot = Robot(make_batch)
    assert {robot.send(size) for size in sizes} == {"accepted"}
    assert robot.steps == [(8, 8), (8, 8)]
    assert robot.session.waiting == 0
    assert robot.session.figures().messages_trained == len(sizes)
    assert robot.session.figures().images == 16


def test_what_arrives_is_trained_on_in_its_order_as_it_was_quantized(make_batch: MakeBatch) -> None:
    robot = Robot(make_batch, batch=3)
    values = np.arange(12, dtype=np.float32).reshape(6, 1, 2)
    names = ["cat", "dog", "dog", "ant", "cat", "dog"]
    robot.accept(make_batch(names[:4], SPLIT, values[:4], sequence=0))
    robot.accept(make_batch(names[4:], SPLIT, values[4:], sequence=1))
    sent = [dequantize(quantize(part, SPLIT.bits)) for part in (values[:4], values[4:])]
    trained = np.concatenate([step.activations for step in robot.trainer.recorded])
    assert np.array_equal(trained, np.concatenate(sent))
    assert [name for step in robot.trainer.recorded for name in step.names] == names


def test_what_waits_is_trained_on_when_nothing_more_comes(make_batch: MakeBatch) -> None:
    robot = Robot(make_batch)
    robot.send(11)
    assert (robot.steps, robot.session.waiting) == ([(8, 8)], 3)
    robot.session.flush()
    assert (robot.steps, robot.session.waiting) == ([(8, 8), (3, 3)], 0)
    robot.session.flush()
    assert len(robot.steps) == 2


@pytest.mark.parametrize(("rehearse", "fresh"), [(1.0, 4), (3.0, 2), (0.0, 8), (16.0, 1)])
def test_rehearsed_samples_fill_the_step_but_are_not_counted(
    make_batch: MakeBatch, rehearse: float, fresh: int
) -> None:
    robot = Robot(make_batch, rehearse=rehearse)
    robot.send(24)
    assert [one for _, one in robot.steps] == [fresh] * (24 // fresh)
    assert robot.steps[0] == (fresh, fresh)
    assert robot.steps[-1] == (round(fresh * (1 + rehearse)), fresh)
    assert robot.session.figures().images == 24


def test_rehearsed_samples_are_those_of_former_steps(make_batch: MakeBatch) -> None:
    robot = Robot(make_batch, rehearse=1.0)
    robot.send(8)
    first, second = robot.trainer.recorded
    known = {(name, sample.tobytes()) for name, sample in zip(first.names, first.activations, strict=True)}
    again = {(name, one.tobytes()) for name, one in zip(second.names[4:], second.activations[4:], strict=True)}
    assert again == known


def test_memory_is_bounded(make_batch: MakeBatch) -> None:
    robot = Robot(make_batch, rehearse=3.0, memory=3)
    robot.send(24)
    assert robot.steps[-1] == (2 + 3, 2)


def test_progress_is_that_of_the_last_message(make_batch: MakeBatch) -> None:
    robot = Robot(make_batch, batch=2)
    for progress in (0.1, None, 0.9):
        robot.send(2, progress=progress)
    assert [step.progress for step in robot.trainer.recorded] == [0.1, None, 0.9]


def test_figures_are_what_the_trainer_found(make_batch: MakeBatch) -> None:
    robot = Robot(make_batch)
    before = robot.session.figures()
    assert (before.images, before.cloud_loss, before.cloud_prequential, before.cloud_accuracy) == (0, None, None, None)
    robot.send(16)
    after = robot.session.figures()
    assert (after.robot, after.boot, after.classes) == ("r1", STATE.boot, 2)
    assert (after.images, after.cloud_loss, after.cloud_prequential, after.cloud_recent) == (16, 2.0, 0.5, 0.5)


def test_an_evaluation_is_predicted_and_never_trained_on(make_batch: MakeBatch) -> None:
    robot = Robot(make_batch)
    robot.send(11)
    assert robot.send(6, evaluation=1) == "accepted"
    assert robot.steps == [(8, 8), (3, 3)], "what came before is learned before the test, and nothing else"
    assert robot.send(2, evaluation=1) == "accepted"
    figures = robot.session.figures()
    assert (figures.evaluation, figures.evaluated, figures.cloud_accuracy) == (1, 8, 0.5)
    assert (figures.images, figures.messages_trained) == (11, 1)
    assert robot.session.held_out.by_class == {"cat": 1.0, "dog": 0.0}


def test_each_round_of_evaluation_starts_anew(make_batch: MakeBatch) -> None:
    robot = Robot(make_batch)
    robot.send(6, evaluation=1)
    robot.send(1, evaluation=2)
    figures = robot.session.figures()
    assert (figures.evaluation, figures.evaluated, figures.cloud_accuracy) == (2, 1, 1.0)


def test_a_large_evaluation_is_predicted_in_parts(make_batch: MakeBatch) -> None:
    robot = Robot(make_batch)
    robot.send(PREDICT_AT_ONCE + 44, evaluation=1)
    assert robot.trainer.predicted == [PREDICT_AT_ONCE, 44]
    assert robot.session.figures().evaluated == PREDICT_AT_ONCE + 44


def test_a_message_that_comes_twice_is_trained_on_once(make_batch: MakeBatch) -> None:
    robot = Robot(make_batch)
    batch = make_batch(["cat"] * 8, SPLIT)
    assert [robot.accept(batch) for _ in range(3)] == ["accepted", "duplicate", "duplicate"]
    assert robot.steps == [(8, 8)]
    assert robot.session.figures().messages_trained == 1


def lying(batch: ActivationBatch) -> list[ActivationBatch]:
    """Batches that decode, but whose content is not what they say."""
    packed = batch.activations
    other = dataclasses.replace(SPLIT, shape=(2, 1))
    return [
        dataclasses.replace(batch, split=other.fingerprint),
        dataclasses.replace(batch, activations=dataclasses.replace(packed, bits=4)),
        dataclasses.replace(batch, activations=dataclasses.replace(packed, shape=(8, 2, 1))),
        dataclasses.replace(batch, activations=dataclasses.replace(packed, compressed=True, data=b"\xff" * 9)),
        dataclasses.replace(batch, activations=dataclasses.replace(packed, compressed=True, data=b"\x10x")),
    ]


def test_lying_batches_are_rejected_with_a_reason_and_training_goes_on(make_batch: MakeBatch) -> None:
    robot = Robot(make_batch)
    lies = [dataclasses.replace(lie, sequence=number) for number, lie in enumerate(lying(make_batch(["a"] * 8, SPLIT)))]
    receipts = [robot.session.accept(lie) for lie in lies]
    for receipt in receipts:
        assert isinstance(receipt, Receipt)
        assert receipt.outcome == "rejected"
        assert 0 < len(receipt.reason) <= 400
    assert robot.session.figures().messages_rejected == len(lies)
    assert robot.session.figures().messages_trained == 0
    assert (robot.steps, robot.session.waiting) == ([], 0)
    assert robot.accept(make_batch(["cat"] * 8, SPLIT, sequence=10)) == "accepted"
    assert robot.steps == [(8, 8)]


def test_activations_that_cannot_be_trained_on_are_rejected_and_not_kept(make_batch: MakeBatch) -> None:
    robot = Robot(make_batch, rehearse=1.0)
    robot.trainer.broken = True
    assert robot.send(4) == "rejected"
    figures = robot.session.figures()
    assert (figures.messages_rejected, figures.messages_trained, figures.images) == (1, 0, 0)
    robot.trainer.broken = False
    assert robot.send(8) == "accepted"
    assert robot.steps == [(4, 4), (8, 4)]
    assert robot.session.figures().messages_trained == 1


def test_a_boot_that_has_not_said_what_it_is_gets_no_receipt(make_batch: MakeBatch) -> None:
    robot = Robot(make_batch)
    assert robot.send(8, boot="c" * 16) == "none"
    assert robot.steps == []


def test_a_robot_that_comes_back_goes_on_with_what_was_learned(make_batch: MakeBatch) -> None:
    robot = Robot(make_batch, rehearse=1.0)
    robot.send(6)
    robot.send(2, evaluation=1)
    old = make_batch(["cat"] * 4, SPLIT, sequence=9)
    robot.session.rejoin(dataclasses.replace(robot.state, boot="c" * 16))
    assert robot.session.waiting == 0
    assert robot.session.figures().boot == "c" * 16
    assert robot.accept(old) == "none"
    again = make_batch(["cat"] * 4, SPLIT, boot="c" * 16)  # its sequences start again
    assert robot.accept(again) == "accepted"
    assert robot.steps[-1] == (8, 4), "what it had kept to rehearse is gone"
    assert robot.session.figures().images == 10
    assert robot.accept(make_batch(["cat"], SPLIT, boot="c" * 16, sequence=1, evaluation=1)) == "accepted"
    assert robot.session.figures().evaluated == 1, "the former boot's evaluation is mixed in"
