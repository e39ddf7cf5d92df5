from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.errors import MalformedMessage
from broker.wire.codec import pack
from broker.wire.messages import ActivationBatch, ClassEdit, SplitSpec, TrainerMetrics
from broker.wire.quantize import dequantize, quantize
from cloud_trainer.session.figures import figures
from cloud_trainer.session.network import MAX_UNREHEARSED
from cloud_trainer.session.session import Session
from cloud_trainer.store.log import Event, Kind
from hierarchy.cloud import CloudSegment, CloudStep, CloudTrainer
from hierarchy.device import Compute
from hierarchy.schedule import learning_rate
from tests.cloud_trainer.world import CPU, STATE, TinySegment, make_batch
from tests.saved_state import read_again

SPLIT = SplitSpec(backbone="resnet18", cut="layer2", image_size=16, bits=8, bottleneck=1, shape=(1, 2))


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


class LearnerStub:
    """Learns and forgets nothing."""

    def rename(self, old: str, new: str) -> None:
        pass

    def remove(self, name: str) -> None:
        pass


class Robot:
    """A session and the log that it trains on."""

    def __init__(self, *, batch: int = 8, memory: int = 100, rehearse: float = 0.0) -> None:
        self.trainer = Recorder()
        self.state = dataclasses.replace(STATE, split=SPLIT, rehearse=rehearse)
        self.log: list[bytes] = []
        self.session = Session(
            "r1",
            self.state,
            self.trainer,
            batch=batch,
            memory=memory,
            seed=0,
            read=lambda events: [self.log[event - 1] for event in events],
        )

    def send(self, count: int, *, evaluation: int = 0, progress: float | None = None) -> str:
        """Apply a batch of so many samples, cats and dogs in turn; return what was wrong with it."""
        names = [("cat", "dog")[index % 2] for index in range(count)]
        return self.take(make_batch(names, SPLIT, sequence=len(self.log), evaluation=evaluation, progress=progress))

    def take(self, batch: ActivationBatch) -> str:
        return self.apply("batch", pack(batch))

    def apply(self, kind: Kind, payload: bytes = b"") -> str:
        self.log.append(payload)
        self.session.apply(Event(id=len(self.log), robot="r1", kind=kind, payload=payload))
        assert self.session.cursor == len(self.log)
        return self.session.problem

    @property
    def steps(self) -> list[tuple[int, int]]:
        """How many samples each step had, and how many of them were fresh."""
        return [(len(step.names), step.fresh) for step in self.trainer.recorded]

    @property
    def figures(self) -> TrainerMetrics:
        return figures(self.session, "r1")


@pytest.mark.parametrize("sizes", [[3, 3, 3, 3, 4], [16], [1] * 16, [15, 1], [8, 8], [5, 11]])
def test_messages_of_any_size_become_steps_of_its_own_size(sizes: list[int]) -> None:
    robot = Robot()
    assert {robot.send(size) for size in sizes} == {""}
    assert robot.steps == [(8, 8), (8, 8)]
    assert len(robot.session.network.waiting) == 0
    assert robot.figures.messages_trained == len(sizes)
    assert robot.figures.images == 16


def test_what_arrives_is_trained_on_in_its_order_as_it_was_quantized() -> None:
    robot = Robot(batch=3)
    values = np.arange(12, dtype=np.float32).reshape(6, 1, 2)
    names = ["cat", "dog", "dog", "ant", "cat", "dog"]
    robot.take(make_batch(names[:4], SPLIT, values[:4], sequence=0))
    robot.take(make_batch(names[4:], SPLIT, values[4:], sequence=1))
    sent = [dequantize(quantize(part, SPLIT.bits)) for part in (values[:4], values[4:])]
    trained = np.concatenate([step.activations for step in robot.trainer.recorded])
    assert np.array_equal(trained, np.concatenate(sent))
    assert [name for step in robot.trainer.recorded for name in step.names] == names


def test_what_waits_is_trained_on_when_the_log_says_so() -> None:
    robot = Robot()
    robot.send(11)
    assert (robot.steps, len(robot.session.network.waiting)) == ([(8, 8)], 3)
    robot.apply("flush")
    assert (robot.steps, len(robot.session.network.waiting)) == ([(8, 8), (3, 3)], 0)
    robot.apply("flush")
    assert len(robot.steps) == 2


def test_idle_rehearsal_learns_from_what_is_stored_at_a_rate_that_falls_to_nothing() -> None:
    robot = Robot()
    assert robot.session.network.idle_steps_due(0.5) == 0, "nothing is stored"
    robot.send(8, progress=0.2)
    assert robot.session.network.idle_steps_due(0.5) == 4
    robot.apply("rehearse", b"3 4")
    assert robot.session.network.idle_steps_due(0.5) == 1
    robot.apply("rehearse", b"1 1")
    assert robot.session.network.idle_steps_due(0.5) == 0
    assert robot.steps == [(8, 8), (8, 0), (8, 0), (8, 0), (8, 0)]
    rates = [learning_rate(1.0, steps=1000, progress=step.progress) for step in robot.trainer.recorded[1:]]
    assert rates[0] == 1.0
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.2
    assert robot.figures.images == 8
    robot.send(8, progress=0.4)
    assert robot.session.network.idle_steps_due(0.5) == 4
    robot.apply("rehearse", b"1 4")
    assert learning_rate(1.0, steps=1000, progress=robot.trainer.recorded[-1].progress) == 1.0, "it begins anew"


def test_idle_rehearsal_that_is_cut_short_settles_and_the_rest_of_it_stays_due() -> None:
    robot = Robot()
    robot.send(80)
    robot.apply("rehearse", b"4 40")
    robot.apply("settle", b"10 36 1")
    rates = [learning_rate(1.0, steps=1000, progress=step.progress) for step in robot.trainer.recorded[10:]]
    assert len(rates) == 14
    assert rates == sorted(rates, reverse=True)
    assert rates[3] > 0.9
    assert rates[-1] < 0.02
    assert robot.session.network.idle_steps_due(0.5) == 26
    robot.apply("rehearse", b"1 26")
    assert learning_rate(1.0, steps=1000, progress=robot.trainer.recorded[-1].progress) > 0.5, "it goes on"


def test_behind_a_lesson_the_rate_falls_within_the_time_there_is_and_begins_anew_where_more_came() -> None:
    robot = Robot(batch=8)
    robot.send(80)
    robot.apply("rehearse", b"4 10 40 1 0")
    assert robot.session.network.idle_steps_due(0.5) == 6, "of what was due beyond the ten nothing is left"
    robot.apply("rehearse", b"6 6 6 0 0")
    rates = [learning_rate(1.0, steps=1000, progress=step.progress) for step in robot.trainer.recorded[10:]]
    assert rates[0] == 1.0
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.05
    robot.apply("rehearse", b"1 8 8 1 0")
    assert learning_rate(1.0, steps=1000, progress=robot.trainer.recorded[-1].progress) == 1.0


def test_what_idle_rehearsal_is_owed_for_is_bounded() -> None:
    robot = Robot(batch=100)
    for _ in range(MAX_UNREHEARSED // 100 + 3):
        robot.send(100)
    assert robot.session.network.idle_steps_due(0.5) == MAX_UNREHEARSED // 2


@pytest.mark.parametrize(("rehearse", "fresh"), [(0.0, 8), (1.0, 4), (3.0, 2), (16.0, 1)])
def test_a_step_is_shared_between_fresh_and_rehearsed_samples(rehearse: float, fresh: int) -> None:
    robot = Robot(rehearse=rehearse)
    robot.send(24)
    assert [one for _, one in robot.steps] == [fresh] * (24 // fresh)
    assert robot.steps[0] == (fresh, fresh)
    assert robot.steps[-1] == (round(fresh * (1 + rehearse)), fresh)
    assert robot.figures.images == 24


def test_rehearsed_samples_are_those_of_former_steps_read_from_the_log_again() -> None:
    robot = Robot(rehearse=1.0)
    robot.send(3)
    robot.send(5)
    first, second = robot.trainer.recorded
    known = {(name, sample.tobytes()) for name, sample in zip(first.names, first.activations, strict=True)}
    again = {(name, one.tobytes()) for name, one in zip(second.names[4:], second.activations[4:], strict=True)}
    assert again == known


def test_memory_is_bounded() -> None:
    robot = Robot(rehearse=3.0, memory=3)
    robot.send(24)
    assert robot.steps[-1] == (2 + 3, 2)


def test_what_is_forgotten_is_not_rehearsed() -> None:
    robot = Robot(batch=4, rehearse=1.0)
    robot.send(4)
    robot.send(2)
    robot.apply("forget", b"1")
    robot.log[0] = b"gone"
    robot.send(8)
    assert robot.steps[2:4] == [(4, 2), (4, 2)], "those two of the second message are there to rehearse"


def test_what_waits_is_not_to_be_forgotten() -> None:
    robot = Robot()
    robot.send(8)
    assert robot.session.oldest_needed == 2
    robot.send(3)
    robot.send(3)
    assert robot.session.oldest_needed == 2, "its samples wait for a step"
    robot.send(3)
    assert robot.session.oldest_needed == 4


def test_progress_is_that_of_the_last_message() -> None:
    robot = Robot(batch=2)
    for progress in (0.1, None, 0.9):
        robot.send(2, progress=progress)
    assert [step.progress for step in robot.trainer.recorded] == [0.1, None, 0.9]


def test_figures_are_what_the_trainer_found() -> None:
    robot = Robot()
    before = robot.figures
    assert (before.images, before.cloud_loss, before.cloud_prequential, before.cloud_accuracy) == (0, None, None, None)
    robot.send(16)
    after = robot.figures
    assert (after.robot, after.boot, after.classes) == ("r1", STATE.boot, 2)
    assert (after.images, after.cloud_loss, after.cloud_prequential, after.cloud_recent) == (16, 2.0, 0.5, 0.5)
    assert (after.messages_waiting, after.messages_rejected, after.quarantine) == (0, 0, ""), "its caller knows"


def test_an_evaluation_is_predicted_and_never_trained_on() -> None:
    robot = Robot()
    robot.send(11)
    robot.send(6, evaluation=1)
    assert robot.steps == [(8, 8), (3, 3)], "what came before is learned before the test, and nothing else"
    robot.send(2, evaluation=1)
    figures = robot.figures
    assert (figures.evaluation, figures.evaluated, figures.cloud_accuracy) == (1, 8, 0.5)
    assert (figures.images, figures.messages_trained) == (11, 1)
    assert robot.session.members["r1"].rounds.newest.by_class == {"cat": 1.0, "dog": 0.0}


def test_each_round_of_evaluation_starts_anew() -> None:
    robot = Robot()
    robot.send(6, evaluation=1)
    robot.send(1, evaluation=2)
    figures = robot.figures
    assert (figures.evaluation, figures.evaluated, figures.cloud_accuracy) == (2, 1, 1.0)


def test_a_large_evaluation_is_predicted_in_parts() -> None:
    robot = Robot()
    robot.send(30, evaluation=1)
    assert robot.trainer.predicted == [8, 8, 8, 6], "as many at once as a step has"
    assert robot.figures.evaluated == 30


def test_activations_that_cannot_be_trained_on_are_said_and_not_kept() -> None:
    robot = Robot(rehearse=1.0)
    robot.trainer.broken = True
    assert "loss of inf" in robot.send(4)
    assert robot.figures.images == 0
    robot.trainer.broken = False
    assert robot.send(8) == ""
    assert robot.steps == [(4, 4), (8, 4)]


def test_what_no_intake_would_have_let_in_is_an_error() -> None:
    with pytest.raises(MalformedMessage):
        Robot().apply("batch", b"garbage")


def test_a_robot_that_comes_back_goes_on_with_what_was_learned() -> None:
    robot = Robot(rehearse=1.0)
    robot.send(6)
    robot.send(2, evaluation=1)
    robot.apply("rejoin", pack(dataclasses.replace(robot.state, boot="c" * 16, rehearse=0.0)))
    assert len(robot.session.network.waiting) == 0
    assert robot.figures.boot == "c" * 16
    assert robot.figures.images == 6
    assert robot.send(8) == ""
    assert robot.steps[-1] == (8, 8), "how much it rehearses is what it says now"
    robot.send(1, evaluation=1)
    assert robot.figures.evaluated == 0, "the former boot's evaluation comes late"
    robot.take(make_batch(["cat"], SPLIT, boot="c" * 16, evaluation=1))
    assert robot.figures.evaluated == 1, "the former boot's evaluation is mixed in"


def tiny_session(log: list[bytes], **changes: Any) -> Session:
    state = dataclasses.replace(STATE, rehearse=1.0)
    segment = TinySegment(dataclasses.replace(state.split, **changes), weights="none")
    trainer = CloudTrainer(cast("CloudSegment", segment), compute=Compute(device=CPU), peak_learning_rate=0.02)
    return Session(
        "r1", state, trainer, batch=4, memory=9, seed=0, read=lambda events: [log[event - 1] for event in events]
    )


def test_a_checkpoint_is_of_its_own_network_only() -> None:
    saved = tiny_session([]).checkpoint()
    with pytest.raises(RuntimeError):
        tiny_session([], bottleneck=0, shape=(7, 2, 2)).restore(saved)


def again(robot: Robot, names: list[str], samples: list[int], values: float, version: int, **fields: Any) -> str:
    """Send samples that came before as a later segment encodes them."""
    encoded = np.full((len(names), *SPLIT.shape), values, np.float32)
    fields = {"again": True, "sequence": len(robot.log), **fields}
    return robot.take(make_batch(names, SPLIT, encoded, samples=samples, edge_version=version, **fields))


def test_what_the_robot_rehearses_is_rehearsed_here_as_it_is_encoded_now() -> None:
    robot = Robot(rehearse=1.0)
    robot.send(4)
    again(robot, ["dog", "cat"], [2, 1], values=7.0, version=5)
    assert robot.steps == [(4, 4)], "that alone makes no step"
    robot.send(4)
    step = robot.trainer.recorded[-1]
    assert (len(step.names), step.fresh, step.names[4:6]) == (8, 4, ["dog", "cat"])
    assert (step.activations[4:6] == 7).all()
    assert robot.figures.images == 8, "samples that came before count once"


def test_a_sample_that_came_again_is_not_rehearsed_as_it_was_any_more() -> None:
    robot = Robot(rehearse=1.0)
    robot.send(4)
    again(robot, ["cat", "dog", "cat", "dog"], [1, 2, 3, 4], values=7.0, version=5)
    robot.apply("flush")
    robot.apply("rehearse", b"1 1")
    assert len(robot.trainer.recorded[-1].names) == 4
    assert (robot.trainer.recorded[-1].activations == 7).all()


def test_a_memory_that_is_sent_at_once_is_left_to_idle_rehearsal() -> None:
    robot = Robot(rehearse=1.0)
    robot.send(40)
    steps = len(robot.steps)
    robot.apply("rehearse", b"%d %d" % (20, 20))
    assert robot.session.network.idle_steps_due(0.5) == 0
    again(robot, ["cat", "dog"] * 20, list(range(1, 41)), values=7.0, version=50)
    robot.apply("flush")
    assert robot.session.network.idle_steps_due(0.5) == 20
    assert len(robot.steps) == steps + 20, "no step waited for it"
    robot.apply("rehearse", b"1 20")
    assert (robot.trainer.recorded[-1].activations == 7).all()


def test_what_comes_again_belongs_to_the_lesson_that_it_was_taught_in() -> None:
    robot = Robot(rehearse=1.0)
    robot.take(make_batch(["cat"] * 4, SPLIT, session=1, samples=[1, 2, 3, 4]))
    robot.take(make_batch(["dog"] * 4, SPLIT, sequence=1, session=2, samples=[5, 6, 7, 8]))
    again(robot, ["cat", "dog"], [2, 6], values=7.0, version=5)
    undo = ClassEdit(boot=STATE.boot, sequence=9, number=1, change="undo", name="", to="", session=2)
    robot.apply("edit", pack(undo))
    again(robot, ["cat", "dog"], [3, 7], values=8.0, version=6)  # sent before the edit, and late
    robot.apply("flush")
    robot.apply("rehearse", b"1 1")
    assert set(robot.trainer.recorded[-1].names) == {"cat"}


def test_a_lesson_is_gone_although_what_came_again_of_it_arrived_first() -> None:
    robot = Robot(rehearse=1.0)
    robot.take(make_batch(["cat"] * 4, SPLIT, samples=[1, 2, 3, 4], session=1))
    # A link that was down: what is encoded anew, and the edit, go up before the lesson itself.
    again(robot, ["dog", "cat"], [6, 3], values=7.0, version=5)
    again(robot, ["dog"] * 4, [5, 6, 7, 8], values=8.0, version=6)
    robot.apply("flush")
    undo = ClassEdit(boot=STATE.boot, sequence=9, number=1, change="undo", name="", to="", session=2)
    robot.apply("edit", pack(undo))
    again(robot, ["dog"], [8], values=9.0, version=7)
    robot.take(make_batch(["dog"] * 4, SPLIT, sequence=1, session=2, samples=[5, 6, 7, 8]))
    robot.apply("flush")
    robot.apply("rehearse", b"1 1")
    assert set(robot.trainer.recorded[-1].names) == {"cat"}


def test_an_event_that_is_broken_off_leaves_a_torn_session() -> None:
    robot = Robot()

    def out_of_memory(*_: object, **__: object) -> CloudStep:
        raise RuntimeError("out of memory")

    assert not robot.session.is_torn
    robot.trainer.step = out_of_memory  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        robot.send(8)
    assert robot.session.is_torn


def test_the_last_round_is_tested_once_more_when_idle_rehearsal_is_done() -> None:
    robot = Robot()
    robot.send(16)
    robot.send(6, evaluation=1)
    robot.send(2, evaluation=1)
    assert (robot.figures.cloud_accuracy, robot.figures.evaluated) == (0.5, 8)
    robot.trainer.predict = lambda activations: ["dog"] * len(activations)  # type: ignore[method-assign]
    robot.session.members["r1"].rounds.newest.add(["ant"], ["cat"])
    robot.apply("rehearse", b"1 2")
    assert robot.session.members["r1"].rounds.newest.count == 9, "it is not done yet"
    robot.apply("rehearse", b"1 1")
    assert (robot.figures.cloud_accuracy, robot.figures.evaluated, robot.figures.evaluation) == (0.5, 8, 1)
    assert robot.session.members["r1"].rounds.newest.by_class == {"cat": 0.0, "dog": 1.0}
    robot.trainer.predict = lambda activations: ["cat"] * len(activations)  # type: ignore[method-assign]
    for test, right in ((0, {"cat": 0.0, "dog": 1.0}), (1, {"cat": 1.0, "dog": 0.0})):
        robot.send(16)
        robot.apply("settle", b"1 8 %d" % test)
        assert robot.session.members["r1"].rounds.newest.by_class == right, "where there was time for it"


def test_a_round_that_is_larger_than_what_is_tested_again_still_counts_as_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud_trainer.session.evaluation_rounds.MAX_TESTED_AGAIN", 5)
    robot = Robot()
    robot.send(16)
    for _ in range(3):
        robot.send(4, evaluation=1)
    robot.apply("rehearse", b"1 1")  # the robot was silent for a moment
    assert robot.session.members["r1"].rounds.newest.count == 8
    robot.send(4, evaluation=1)
    assert robot.figures.evaluated == 16


def test_the_rest_of_a_round_that_another_has_overtaken_is_nobodys() -> None:
    robot = Robot()
    robot.send(16)
    robot.send(4, evaluation=1)
    robot.send(4, evaluation=2)
    robot.send(4, evaluation=1)
    robot.send(4, evaluation=2)
    assert (robot.figures.evaluation, robot.figures.evaluated) == (2, 8)
    assert len(robot.session.members["r1"].rounds.accuracies().figures("cloud")["cloud_accuracy_matrix"]["rounds"]) == 2


def test_rounds_of_tests_are_kept_with_the_classes_in_them() -> None:
    robot = Robot()
    robot.send(16)
    robot.take(make_batch(["cat"] * 4, SPLIT, sequence=1, evaluation=1))
    robot.take(make_batch(["cat", "dog"], SPLIT, sequence=2, evaluation=2))
    matrix = robot.session.members["r1"].rounds.accuracies().figures("cloud")["cloud_accuracy_matrix"]
    assert matrix == {"classes": ["cat", "dog"], "rounds": [[1.0, None], [1.0, 0.0]], "tests": [1, 2]}


def says(robot: Robot, name: str) -> None:
    """Let the network take everything for a class from now on."""
    robot.trainer.predict = lambda activations: [name] * len(activations)  # type: ignore[method-assign]


def test_a_round_stays_as_it_was_first_tested_although_more_was_learned_in_a_moment_of_silence() -> None:
    robot = Robot(batch=4)
    robot.take(make_batch(["cat"] * 8, SPLIT))
    robot.take(make_batch(["cat"] * 4, SPLIT, sequence=1, evaluation=1))
    robot.take(make_batch(["dog"] * 40, SPLIT, sequence=2))
    says(robot, "dog")
    robot.apply("rehearse", b"2 2")
    assert robot.figures.cloud_accuracy == 0.0, "what people see is the newest test"
    assert robot.session.members["r1"].rounds.accuracies().rows == [{"cat": 1.0}, {"cat": 0.0}], (
        "the last row is how it does now"
    )
    robot.apply("rehearse", b"2 2")
    robot.take(make_batch(["cat", "dog"], SPLIT, sequence=3, evaluation=2))
    assert robot.session.members["r1"].rounds.accuracies().rows == [{"cat": 1.0}, {"cat": 0.0, "dog": 1.0}]


def test_what_idle_rehearsal_made_of_a_round_before_more_was_learned_stays_a_row() -> None:
    robot = Robot(batch=4)
    robot.take(make_batch(["cat"] * 8, SPLIT))
    says(robot, "dog")
    robot.take(make_batch(["cat"] * 4, SPLIT, sequence=1, evaluation=1))
    says(robot, "cat")
    robot.apply("rehearse", b"2 2")
    settled = [{"cat": 0.0}, {"cat": 1.0}]
    assert robot.session.members["r1"].rounds.accuracies().rows == settled
    robot.take(make_batch(["dog"] * 40, SPLIT, sequence=2))
    assert robot.session.members["r1"].rounds.accuracies().rows == settled, "nothing was tested since"
    says(robot, "dog")
    robot.apply("rehearse", b"2 2")
    assert robot.session.members["r1"].rounds.accuracies().rows == [*settled, {"cat": 0.0}]
    robot.take(make_batch(["cat", "dog"], SPLIT, sequence=3, evaluation=2))
    figures = robot.session.members["r1"].rounds.accuracies().figures("cloud")
    assert figures["cloud_accuracy_matrix"]["rounds"] == [[0.0, None], [1.0, None], [0.0, 1.0]]
    assert figures["cloud_accuracy_matrix"]["tests"] == [1, 1, 2]
    assert figures["cloud_forgetting"] == 1.0


def test_the_rest_of_a_round_counts_in_the_first_test_and_in_the_newest() -> None:
    robot = Robot(batch=4)
    robot.take(make_batch(["cat"] * 8, SPLIT))
    robot.take(make_batch(["cat"] * 2, SPLIT, sequence=1, evaluation=1))
    says(robot, "dog")
    robot.apply("rehearse", b"2 2")
    robot.take(make_batch(["cat", "ant"], SPLIT, sequence=2, evaluation=1))
    assert robot.session.members["r1"].rounds.accuracies().rows == [
        {"ant": 0.0, "cat": 2 / 3},
        {"ant": 0.0, "cat": 0.0},
    ]
    assert robot.figures.evaluated == 4


def test_a_round_that_was_tested_twice_is_in_the_checkpoint() -> None:
    log = [pack(make_batch(["cat"] * 8)), pack(make_batch(["cat", "dog"], sequence=1, evaluation=1)), b"2 2"]
    one, other = tiny_session(log), tiny_session(log)
    for number, kind in enumerate(("batch", "batch", "rehearse"), start=1):
        one.apply(Event(id=number, robot="r1", kind=cast("Kind", kind), payload=log[number - 1]))
    other.restore(read_again(one.checkpoint()))
    assert other.members["r1"].rounds.accuracies().rows == one.members["r1"].rounds.accuracies().rows
    assert len(other.members["r1"].rounds.accuracies()) == 2
    log.append(pack(make_batch(["dog"] * 8, sequence=2)))
    one.apply(Event(id=4, robot="r1", kind="batch", payload=log[-1]))
    other.restore(read_again(one.checkpoint()))
    assert other.members["r1"].rounds.accuracies().rows == one.members["r1"].rounds.accuracies().rows
    assert len(other.members["r1"].rounds.accuracies()) == 2


def test_a_class_that_was_undone_is_not_tested_any_more() -> None:
    robot = Robot(batch=4)
    robot.trainer.learner = LearnerStub()  # type: ignore[assignment]
    robot.take(make_batch(["cat"] * 8, SPLIT))
    robot.take(make_batch(["mug"] * 8, SPLIT, sequence=1, session=1))
    robot.take(make_batch(["cat", "mug"], SPLIT, sequence=2, evaluation=1))
    undo = ClassEdit(boot=STATE.boot, sequence=9, number=1, change="undo", name="mug", to="", session=1)
    robot.apply("edit", pack(undo))
    robot.apply("rehearse", b"2 2")
    robot.take(make_batch(["mug"], SPLIT, sequence=3, evaluation=1))  # sent before, and late
    assert robot.session.members["r1"].rounds.newest.by_class == {"cat": 1.0}


def rejoined(robot: Robot, **changes: Any) -> None:
    robot.apply("rejoin", pack(dataclasses.replace(robot.state, boot="d" * 16, **changes)))


def test_a_round_that_a_killed_robot_repeats_counts_once() -> None:
    robot = Robot(batch=4)
    robot.take(make_batch(["cat"] * 4, SPLIT, evaluation=1))
    robot.take(make_batch(["cat"] * 4, SPLIT, sequence=1, evaluation=2))
    rejoined(robot)
    assert robot.figures.evaluated == 0, "nothing of what this process has tested"
    says(robot, "dog")
    robot.take(make_batch(["cat"] * 2, SPLIT, boot="d" * 16, evaluation=2))
    robot.take(make_batch(["dog"] * 2, SPLIT, boot="d" * 16, sequence=1, evaluation=2))
    assert robot.session.members["r1"].rounds.accuracies().rows == [{"cat": 1.0}, {"cat": 0.0, "dog": 1.0}]
    assert (robot.figures.evaluation, robot.figures.evaluated) == (2, 4)


def test_a_round_goes_on_where_only_the_count_of_edits_has_changed() -> None:
    robot = Robot(batch=4)
    robot.take(make_batch(["cat"] * 4, SPLIT, evaluation=1))
    robot.apply("rejoin", pack(dataclasses.replace(robot.state, edits=1)))
    robot.take(make_batch(["dog"] * 2, SPLIT, sequence=1, evaluation=1))
    assert robot.figures.evaluated == 6
    assert robot.session.members["r1"].rounds.accuracies().rows == [{"cat": 1.0, "dog": 0.0}]


def test_a_robot_that_went_back_by_several_rounds_repeats_them_all() -> None:
    robot = Robot(batch=4)
    for number in (1, 2, 4):  # the third while there was no link
        robot.take(make_batch(["cat"] * number, SPLIT, sequence=number, evaluation=number))
    rejoined(robot)
    says(robot, "dog")
    robot.take(make_batch(["cat"], SPLIT, boot="d" * 16, evaluation=2))
    assert robot.session.members["r1"].rounds.accuracies().rows == [{"cat": 1.0}, {"cat": 0.0}]
    robot.take(make_batch(["cat"], SPLIT, boot="d" * 16, sequence=1, evaluation=3))
    assert robot.session.members["r1"].rounds.accuracies().rows == [{"cat": 1.0}, {"cat": 0.0}, {"cat": 0.0}]


def test_rounds_of_a_former_run_stay_before_those_of_the_next() -> None:
    robot = Robot(batch=4)
    for number in (1, 2):
        robot.take(make_batch(["cat"], SPLIT, sequence=number, evaluation=number))
    rejoined(robot, run="e" * 16, former=robot.state.run)
    says(robot, "dog")
    robot.take(make_batch(["cat"], SPLIT, boot="d" * 16, evaluation=1))
    assert robot.session.members["r1"].rounds.accuracies().rows == [{"cat": 1.0}, {"cat": 1.0}, {"cat": 0.0}]


def test_a_class_that_another_is_merged_into_keeps_its_own_rounds() -> None:
    robot = Robot(batch=4)
    robot.trainer.learner = LearnerStub()  # type: ignore[assignment]
    robot.take(make_batch(["cat"] * 8, SPLIT))
    robot.take(make_batch(["cat"] * 2, SPLIT, sequence=1, evaluation=1))
    robot.take(make_batch(["dog"] * 8, SPLIT, sequence=2))
    says(robot, "dog")
    robot.take(make_batch(["cat", "dog"], SPLIT, sequence=3, evaluation=2))
    merge = ClassEdit(boot=STATE.boot, sequence=9, number=1, change="rename", name="cat", to="dog", session=0)
    robot.apply("edit", pack(merge))
    assert robot.session.members["r1"].rounds.accuracies().rows == [{"dog": 1.0}], (
        "the dog was not there in the first round"
    )


def test_new_samples_of_a_robot_that_was_killed_are_rehearsed() -> None:
    robot = Robot(batch=4, rehearse=1.0)
    robot.take(make_batch(["mug"] * 4, SPLIT, edge_version=5000))
    rejoined(robot)
    # What it had not sent before it was killed comes before what it sends by now, or behind it.
    sent = [(STATE.boot, 5010), ("d" * 16, 4820), (STATE.boot, 5010), ("d" * 16, 4830)]
    for sequence, (boot, version) in enumerate(sent, start=1):
        robot.take(make_batch(["mug"] * 4, SPLIT, boot=boot, sequence=sequence, edge_version=version))
    memory = robot.session.network.memory
    assert memory.counts() == {"mug": 20}
    assert {one.version for _, one in memory.draw(20)} == {4820, 4830}
