from __future__ import annotations

import errno
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from numpy.typing import NDArray
from PIL import Image

import hierarchy.evaluation
import hierarchy.runtime.curves
import hierarchy.runtime.run_folder
import robot_edge.learning.held_out
import robot_edge.learning.practice
import robot_edge.run.edge_learning
import robot_edge.run.replay
import robot_edge.run.saving
import robot_edge.run.start
import robot_edge.run.testing
import robot_edge.uplink.rate_control
import robot_edge.uplink.uplink
from broker.errors import EXIT_MACHINE, ConfigError, Diverged, NameTaken, StorageError, exit_status
from broker.link.inbox import Delivery
from broker.link.memory import MemoryBroker, MemoryLink
from broker.wire import topics
from broker.wire.codec import pack, unpack
from broker.wire.messages import ActivationBatch, ClassEdit, RobotState, TrainerMetrics, TrainerState
from hierarchy.device import Compute
from hierarchy.edge import EdgeStep, EdgeTrainer
from hierarchy.runtime.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from hierarchy.runtime.command_line import StopRequest
from hierarchy.runtime.run_folder import RunFolder
from robot_edge.learning.segment import build_edge
from robot_edge.run.checkpoint import LAYOUT, inherit
from robot_edge.run.config import RobotConfig
from robot_edge.run.ending import finish, go_through
from robot_edge.run.outcome import verdict
from robot_edge.run.replay import replay, settle, train, wait_for_trainer
from robot_edge.run.robot_run import assemble
from robot_edge.run.start import open_outbox
from robot_edge.sources.frames import FrameSource
from robot_edge.sources.opening import open_source
from robot_edge.sources.paced import Paced
from robot_edge.uplink.presence import Presence
from robot_edge.uplink.uplink import Uplink
from tests.fleet_exits import member_of
from tests.messages import accepted, robot_state, trainer_metrics

pytestmark = pytest.mark.slow

BOOT = "b" * 16
LATER = "c" * 16
TRAINER = TrainerState(boot="1" * 16, started=1.0, online=True, trouble="")


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than most of what these tests train."""
    monkeypatch.setattr(hierarchy.runtime.curves, "draw_curves", lambda *_arguments: None)


OPEN: list[Run] = []


@pytest.fixture(autouse=True)
def _close_files() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().end()


class AnsweringLink(MemoryLink):
    """A link to a trainer that takes in everything at once."""

    def __init__(self) -> None:
        super().__init__(MemoryBroker())
        self.batches: list[ActivationBatch] = []
        self.offer_trainer = True
        self.boot = BOOT

    def receive(self, timeout: float) -> Delivery | None:
        if self.offer_trainer:
            self.offer_trainer = False
            self.offer(Delivery(topics.topic("trainer", "t1", "state"), pack(TRAINER), retained=True))
        return super().receive(0)

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        if topics.parse(topic).channel == "activations":
            match unpack(payload):
                case ActivationBatch() as batch:
                    self._take(batch)
                case ClassEdit() as edit:
                    self._receipt(edit)
        return super().publish(topic, payload, qos=qos, retain=retain)

    def _take(self, batch: ActivationBatch) -> None:
        self.batches.append(batch)
        self._receipt(batch)
        figures = trainer_metrics(
            self.boot,
            images=len(self.names(evaluation=0)),
            classes=len({name for one in self.batches if not one.evaluation for name in one.classes}),
            evaluation=batch.evaluation,
            evaluated=len(self.names(batch.evaluation)) if batch.evaluation else 0,
            messages_trained=len(self.batches),
        )
        self.offer(Delivery(topics.topic("trainer", "t1", "metrics"), pack(figures), retained=False))

    def _receipt(self, message: ActivationBatch | ClassEdit) -> None:
        self.offer(Delivery(topics.topic("robot", "r1", "receipt"), pack(accepted(message)), retained=False))

    def names(self, evaluation: int) -> list[str]:
        """The classes of all samples for training (0) or of an evaluation."""
        chosen = [batch for batch in self.batches if batch.evaluation == evaluation and not batch.again]
        return [name for batch in chosen for name in batch.names]


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
    """A robot's run with all that it works with."""

    path: Path
    settings: dict[str, Any] = field(default_factory=dict)
    link: AnsweringLink = field(default_factory=AnsweringLink)
    stop: StopRequest = field(default_factory=StopRequest)
    boot: str = BOOT

    def __post_init__(self) -> None:
        given = {
            "source": "sim:",
            "cut": "layer1",
            "image_size": 16,
            "bottleneck": 2,
            "batch": 8,
            "seed": 0,
            **self.settings,
        }
        self.config = RobotConfig.from_flags(**{"run_dir": str(self.path), **given}).resolved()
        self.link.boot = self.boot
        torch.manual_seed(0)
        segment, split, start = build_edge(self.config.network)
        compute = Compute(device=torch.device("cpu"))
        self.trainer = WatchedTrainer(segment, bits=4, compute=compute, peak_learning_rate=0.05)
        of_fleet = member_of(self.config.fleet, segment, split)
        state = robot_state(split, boot=self.boot, weights=start, rehearse=1.0, **of_fleet)
        held_out = partial(self._held_out, 6) if self.config.source.held_out else None
        self.folder = RunFolder(self.path, {})
        has_checkpoint = (self.folder.checkpoint / CHECKPOINT).exists()
        saved = load_checkpoint(self.folder.checkpoint, LAYOUT) if has_checkpoint else None
        self.outbox = open_outbox(self.config, self.path, self.boot)
        OPEN.append(self)
        self.robot = assemble(
            self.config,
            link=self.link,
            trainer=self.trainer,
            uplink=Uplink(self.link, "r1", state, self.outbox),
            outbox=self.outbox,
            source=self._source(self.config.source.source, self.config.source.images),
            held_out=held_out,
            folder=self.folder,
            stop=self.stop,
            saved=saved,
        )

    def all(self) -> dict[str, Any]:
        """Go through the whole run; return its summary."""
        go_through(self.robot, replay)
        return self.summary()

    def finish(self) -> dict[str, Any]:
        """End the run and return its summary."""
        finish(self.robot)
        return self.summary()

    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.path / "summary.json").read_text())
        return summary

    def stop_after(self, steps: int) -> None:
        """Ask to stop once so many steps were taken."""

        def look(*_arguments: Any) -> None:
            self.stop.made |= len(self.trainer.frames) >= steps

        self.trainer.segment.exit.register_forward_hook(look)

    def end(self) -> None:
        """Let go of all files, as the end of a process does, whatever was not written."""
        self.outbox.close()
        self.folder.close()

    def weights(self) -> dict[str, torch.Tensor]:
        return dict(self.trainer.segment.state_dict())

    def metrics(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]

    def _held_out(self, images: int, _known: Sequence[str]) -> Paced:
        return self._source(self.config.source.held_out, images)

    def _source(self, text: str, images: int) -> Paced:
        return open_source(text, image_size=16, images=images, phases=self.config.source.phase_classes)


def test_a_run_trains_on_all_but_the_held_out_frames_and_tests_on_those(tmp_path: Path) -> None:
    run = Run(tmp_path, {"images": 48, "held_out_every": 3, "phases": "mug,car|mug,car,star"})
    summary = run.all()
    trained, tested = run.link.names(evaluation=0), run.link.names(evaluation=2)
    assert len(trained) + len(tested) == 48
    assert set(run.link.names(evaluation=1)) <= {"mug", "car"}, "tested where the second phase began"
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
    saved = load_checkpoint(tmp_path / "checkpoint", LAYOUT)
    assert saved.trainer.learner.classes == summary["classes"]
    assert [line["classes"] for line in run.metrics()][-1] == len(summary["classes"])


class SlowLink(AnsweringLink):
    """Carries nothing back until values come with two bits."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[ActivationBatch] = []

    def _take(self, batch: ActivationBatch) -> None:
        self._held.append(batch)
        if min(one.activations.bits for one in [*self.batches, *self._held]) == 2:
            for one in self._held:
                super()._take(one)
            self._held.clear()


def test_where_the_link_is_behind_values_go_up_with_fewer_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robot_edge.uplink.uplink, "MESSAGES_OF_A_LINK_THAT_KEEPS_UP", 3)
    monkeypatch.setattr(robot_edge.uplink.rate_control, "REVIEW_SECONDS", 0.0)
    run = Run(tmp_path, {"images": 100, "least_bits": 2, "when_full": "block"}, link=SlowLink())
    run.all()
    bits = [batch.activations.bits for batch in run.link.batches if not batch.evaluation]
    assert bits[0] == 4
    assert {after - before for before, after in pairwise(bits)} <= {0, -1, 1}
    assert min(bits) == 2
    assert {batch.activations.bits for batch in run.link.batches if batch.evaluation} == {4}
    assert min(line["bits"] for line in run.metrics()) == 2


def test_a_killed_robot_goes_on_with_the_bits_that_the_link_could_carry(tmp_path: Path) -> None:
    settings = {"images": 48, "held_out": "sim:", "least_bits": 1, "checkpoint_every": 4}
    first = Run(tmp_path, settings)
    first.stop_after(8)
    first.robot.state.rate_control.go_on(2)
    first.trainer.bits = 2
    wait_for_trainer(first.robot)
    train(first.robot)
    first.end()
    second = Run(tmp_path, settings, boot=LATER)
    second.all()
    bits = [batch.activations.bits for batch in second.link.batches if not batch.evaluation and batch.boot == LATER]
    assert set(bits) == {2}
    assert {batch.activations.bits for batch in second.link.batches if batch.evaluation} == {4}


def test_in_an_outage_values_are_given_no_bits_and_lose_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robot_edge.uplink.uplink, "MESSAGES_OF_A_LINK_THAT_KEEPS_UP", 3)
    monkeypatch.setattr(robot_edge.uplink.rate_control, "REVIEW_SECONDS", 0.0)
    monkeypatch.setattr(robot_edge.uplink.rate_control, "CALM_SECONDS", 0.0)
    run = Run(tmp_path, {"images": 100, "least_bits": 2, "when_full": "block"})
    wait_for_trainer(run.robot)
    run.robot.state.rate_control.go_on(3)
    run.trainer.bits = 3
    run.link.connected = False
    train(run.robot)
    assert len(run.outbox) > 10
    assert {line["bits"] for line in run.metrics()} == {3}
    run.stop.made = True
    run.finish()


def by_weight(summary: dict[str, Any], names: Sequence[str]) -> list[float]:
    """The exit's accuracy on the class of each sample."""
    return [summary["exit_accuracy_by_class"][name] for name in names]


@pytest.mark.parametrize(("rehearse", "fresh"), [(0.0, 8), (1.0, 4), (3.0, 2)])
def test_rehearsed_frames_are_learned_from_and_never_sent(tmp_path: Path, rehearse: float, fresh: int) -> None:
    run = Run(tmp_path, {"images": 24, "rehearse": rehearse, "held_out": "sim:"})
    run.all()
    assert [one for _, one in run.trainer.frames] == [fresh] * (24 // fresh)
    assert run.trainer.frames[0] == (fresh, fresh), "there is nothing to rehearse yet"
    assert run.trainer.frames[-1] == (round(fresh * (1 + rehearse)), fresh)
    assert len(run.link.names(evaluation=0)) == 24


ONE_BY_ONE = {"images": 48, "held_out": "sim:", "phases": "mug|car|star"}


def test_what_is_rehearsed_goes_up_again_as_it_is_encoded_now(tmp_path: Path) -> None:
    run = Run(tmp_path, {"images": 24, "rehearse": 1.0, "held_out": "sim:"})
    run.all()
    fresh = [batch for batch in run.link.batches if not batch.evaluation and not batch.again]
    again = [batch for batch in run.link.batches if batch.again]
    assert [number for batch in fresh for number in batch.samples.tolist()] == list(range(1, 25))
    assert sum(len(batch.labels) for batch in again) == 24 - 4, "but for the first step, which had nothing to rehearse"
    name_of = {
        number: name for batch in fresh for number, name in zip(batch.samples.tolist(), batch.names, strict=True)
    }
    for batch in again:
        assert [name_of[number] for number in batch.samples.tolist()] == batch.names
        assert (batch.session, batch.edge_version > 0) == (0, True)
    assert sum(one.taken for one in run.outbox.counts().values()) == 24, "a sample counts once"


def test_nothing_goes_up_again_where_that_is_switched_off_or_the_link_is_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    off = Run(tmp_path / "off", {**ONE_BY_ONE, "encode_anew": False})
    off.all()
    monkeypatch.setattr(robot_edge.uplink.uplink, "MESSAGES_OF_A_LINK_THAT_KEEPS_UP", -1)
    behind = Run(tmp_path / "behind", ONE_BY_ONE)
    behind.all()
    for run in (off, behind):
        assert not [batch for batch in run.link.batches if batch.again]
        assert len(run.link.names(evaluation=0)) == 48


def test_a_replay_that_ended_on_some_of_its_classes_practises_on_all_of_them(tmp_path: Path) -> None:
    run = Run(tmp_path, ONE_BY_ONE)
    summary = run.all()
    stream, practice = run.trainer.frames[:12], run.trainer.frames[12:]
    assert {fresh for _, fresh in stream} == {4}
    assert practice == [(8, 0)] * 24, "half a step for each image"
    assert {batch.progress for batch in run.link.batches} == {None}, "a falling rate would leave the last class nothing"
    last = [batch for batch in run.link.batches if batch.again][-1]
    assert last.edge_version == 36
    assert sorted(last.samples.tolist()) == list(range(1, 49)), "all that is remembered goes up once more"
    rounds = summary["exit_accuracy_matrix"]["rounds"]
    assert [sum(value is not None for value in row) for row in rounds] == [1, 2, 3, 3]
    assert summary["exit_final_average_accuracy"] == pytest.approx(np.mean(rounds[-1]))
    assert {"exit_forgetting", "exit_backward_transfer", "exit_average_incremental_accuracy"} <= set(summary)
    assert (tmp_path / "forgetting.png").read_bytes().startswith(b"\x89PNG")


def test_of_a_long_replay_a_fifth_goes_up_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robot_edge.run.replay, "FRAMES_RE_ENCODED", 4)
    monkeypatch.setattr(robot_edge.run.edge_learning, "PREDICT_AT_ONCE", 4)
    run = Run(tmp_path, ONE_BY_ONE)
    run.all()
    settled = [batch for batch in run.link.batches if batch.again and batch.edge_version == 36]
    assert [len(batch.labels) for batch in settled] == [4, 4, 2]
    assert len({number for batch in settled for number in batch.samples.tolist()}) == 10


def test_what_goes_up_once_more_waits_for_a_link_that_falls_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robot_edge.run.edge_learning, "PREDICT_AT_ONCE", 4)
    run = Run(tmp_path, ONE_BY_ONE)
    drain, sent = run.robot.talk.drain, []

    def drain_then_watch(what: str) -> bool:
        # From the practice on one message that waits is too many, and so nothing would go up beside it.
        monkeypatch.setattr(robot_edge.uplink.uplink, "MESSAGES_OF_A_LINK_THAT_KEEPS_UP", 0)
        sent.append(len(run.outbox))
        return drain(what)

    monkeypatch.setattr(run.robot.talk, "drain", drain_then_watch)
    run.all()
    settled = [batch for batch in run.link.batches if batch.again and batch.edge_version == 36]
    assert sum(len(batch.labels) for batch in settled) == 48
    assert sent.count(1) > 5, "each waited for the one before it"


def test_a_class_that_another_is_merged_into_keeps_its_own_rounds(tmp_path: Path) -> None:
    run = Run(tmp_path, ONE_BY_ONE)
    wait_for_trainer(run.robot)
    train(run.robot)
    first, second, _ = run.trainer.classes
    assert [list(row) for row in run.robot.state.metrics.rounds.rows] == [[first]], (
        "tested where the second phase began"
    )
    run.robot.edit("rename", first, "thing", 0)
    assert [list(row) for row in run.robot.state.metrics.rounds.rows] == [["thing"]]
    run.robot.edit("rename", "thing", second, 0)
    assert run.robot.state.metrics.rounds.rows == [], "there was no second class yet"


def test_a_run_that_was_stopped_while_it_practised_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole", ONE_BY_ONE)
    whole.all()
    first = Run(tmp_path / "stopped", ONE_BY_ONE)
    first.stop_after(20)
    assert first.all()["interrupted"]
    assert len(first.trainer.frames) == 20
    first.end()
    second = Run(tmp_path / "stopped", ONE_BY_ONE)
    summary = second.all()
    assert [fresh for _, fresh in second.trainer.frames] == [0] * 16, "of 24, 8 were taken before"
    assert (summary["images"], len(summary["exit_accuracy_matrix"]["rounds"])) == (48, 4)
    for (name, left), right in zip(whole.weights().items(), second.weights().values(), strict=True):
        assert torch.equal(left, right), name
    assert {one.evaluation for one in second.link.batches} == {0, 4}, "rounds are counted on"


def test_what_is_remembered_goes_up_at_the_next_start_where_a_stop_came_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Run(tmp_path, ONE_BY_ONE)
    drain = first.robot.talk.drain

    def stop_meanwhile(what: str) -> bool:
        first.stop.made = True
        return drain(what)

    monkeypatch.setattr(first.robot.talk, "drain", stop_meanwhile)
    with monkeypatch.context() as patch:
        patch.setattr(robot_edge.uplink.uplink, "MESSAGES_OF_A_LINK_THAT_KEEPS_UP", -1)  # it is behind
        assert first.all()["interrupted"]
    assert len(first.trainer.frames) == 36, "all of the practice is done"
    first.end()
    second = Run(tmp_path, ONE_BY_ONE)
    summary = second.all()
    assert second.trainer.frames == []
    last = [batch for batch in second.link.batches if batch.again][-1]
    assert sorted(last.samples.tolist()) == list(range(1, 49))
    assert (last.edge_version, len(summary["exit_accuracy_matrix"]["rounds"])) == (36, 4)


def test_where_no_frames_are_kept_there_is_nothing_to_practise_on_and_that_is_not_asked_again(tmp_path: Path) -> None:
    settings = {**ONE_BY_ONE, "rehearsal_mb": 0}
    first = Run(tmp_path, settings)
    train(first.robot)
    settle(first.robot)
    first.stop.made = True
    rounds = len(first.finish()["exit_accuracy_matrix"]["rounds"])
    assert len(first.trainer.frames) == 12
    first.end()
    second = Run(tmp_path, settings)
    settle(second.robot)
    assert len(second.finish()["exit_accuracy_matrix"]["rounds"]) == rounds, "it is not tested once more for it"


def test_each_phase_is_tested_also_where_it_only_brings_classes_back_and_after_a_kill(tmp_path: Path) -> None:
    settings = {"images": 40, "held_out": "sim:", "phases": "mug|car|mug|car|mug", "checkpoint_every": 2}
    first = Run(tmp_path, settings)
    first.stop_after(5)  # of two in each phase
    wait_for_trainer(first.robot)
    train(first.robot)
    assert len(first.robot.state.metrics._all_rounds()) == 2
    first.end()
    second = Run(tmp_path, settings, boot=LATER)
    rounds = second.all()["exit_accuracy_matrix"]["rounds"]
    assert len(rounds) == 5 + 1, "after each phase and after practice"


def test_a_class_more_than_a_former_run_knew_is_practised_with_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robot_edge.learning.practice, "REPLAY_PRACTICE", 0)
    settings = {"held_out_every": 3, "images": 48, "practice": 10}
    Run(tmp_path / "one", {**settings, "phases": "mug,car"}).all()
    heir = Run(tmp_path / "two", {**settings, "phases": "star", "weights": str(tmp_path / "one")})
    inherit(heir.robot.state, heir.robot.outbox, tmp_path / "one")
    inherited = len(heir.robot.state.memory.rehearsal)
    summary = heir.all()
    stream = [fresh for _, fresh in heir.trainer.frames if fresh]
    assert heir.trainer.frames[len(stream) :] == [(8, 0)] * (len(stream) + inherited // 4), (
        "as many as all were shown in"
    )
    assert {batch.progress for batch in heir.link.batches} == {None}
    matrix = summary["exit_accuracy_matrix"]
    assert [sum(value is not None for value in row) for row in matrix["rounds"]] == [2, 3, 3]
    assert matrix["tests"] == [1, 2, 3], "before it learned, behind the stream and behind practice"
    assert {batch.evaluation for batch in heir.link.batches} == {0, 2, 3}, "the cloud may have a new network at first"
    assert "exit_forgetting" in summary


def test_whoever_keeps_no_frames_of_a_former_run_learns_at_a_rate_that_falls(tmp_path: Path) -> None:
    heir = {"source": "folder:x", "weights": str(tmp_path / "one")}
    assert RobotConfig.from_flags(**heir).forgets
    assert not RobotConfig.from_flags(**heir, rehearse=0).forgets
    assert not RobotConfig.from_flags(**heir, live=True).forgets, "that practises behind each lesson"


def test_practice_is_saved_now_and_then_and_before_it_waits_for_the_cloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, {**ONE_BY_ONE, "checkpoint_every": 10})
    saved: list[int] = []
    save, drain = run.robot.saving.save, run.robot.talk.drain

    def note_and_save() -> None:
        save()
        saved.append(load_checkpoint(run.folder.checkpoint, LAYOUT).practised)

    def look_and_drain(what: str) -> bool:
        assert saved[-1] == 24
        return drain(what)

    monkeypatch.setattr(run.robot.saving, "save", note_and_save)
    monkeypatch.setattr(run.robot.talk, "drain", look_and_drain)
    run.all()
    assert saved[:3] == [0, 8, 18], "of 12 steps of the stream and 24 of practice"


def test_a_phase_that_ends_while_the_cloud_is_away_is_tested_there_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, ONE_BY_ONE)
    wait_for_trainer(run.robot)
    with monkeypatch.context() as patch:
        patch.setattr(Presence, "trainer_online", property(lambda _: False))
        train(run.robot)
    run.all()
    assert {batch.evaluation for batch in run.link.batches} == {0, 1, 2, 3, 4}


def test_a_stop_behind_a_test_does_not_have_it_repeated(tmp_path: Path) -> None:
    settings = {**ONE_BY_ONE, "practice": 0}
    for _ in range(3):
        run = Run(tmp_path, settings)
        train(run.robot)
        settle(run.robot)
        run.robot.state.settled = False  # as where the cloud has not taken all yet
        run.stop.made = True
        summary = run.finish()
        run.end()
    assert summary["exit_accuracy_matrix"]["tests"] == [1, 2, 3]


def test_classes_that_nothing_was_held_out_of_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = Run(tmp_path, {"images": 60, "held_out_every": 4, "phases": "mug|car|star|ring"}).all()
    tested, untested = set(summary["exit_accuracy_by_class"]), summary["untested_classes"]
    assert tested
    assert untested
    assert tested | set(untested) == set(summary["classes"])
    assert f"Nothing was held out of {untested[0]}" in " ".join(capsys.readouterr().out.split())


def test_a_finished_run_with_phases_is_not_to_be_shown_more(tmp_path: Path) -> None:
    Run(tmp_path, ONE_BY_ONE).all()
    OPEN[-1].end()
    with pytest.raises(ConfigError, match=r"to go on from what it learned$"):
        Run(tmp_path, ONE_BY_ONE)


def test_frames_of_a_former_run_have_numbers_of_their_own(tmp_path: Path) -> None:
    former = Run(tmp_path / "one", {"images": 40})
    former.all()
    heir = Run(tmp_path / "two", {"weights": str(tmp_path / "one"), "images": 40, "held_out": "sim:"})
    inherit(heir.robot.state, heir.robot.outbox, tmp_path / "one")
    inherited = len(heir.robot.state.memory.rehearsal)
    heir.all()
    fresh = [batch for batch in heir.link.batches if not batch.evaluation and not batch.again]
    numbers = [number for batch in fresh for number in batch.samples.tolist()]
    assert numbers == list(range(inherited + 1, inherited + 41))
    again = {number for batch in heir.link.batches if batch.again for number in batch.samples.tolist()}
    assert again & set(range(1, inherited + 1)), "and they go up as they are encoded now"


def test_a_source_of_its_own_for_testing_leaves_all_others_to_train_on(tmp_path: Path) -> None:
    run = Run(tmp_path, {"images": 16, "held_out": "sim:"})
    summary = run.all()
    assert summary["images"] == len(run.link.names(evaluation=0)) == 16
    assert summary["held_out_images"] == len(run.link.names(evaluation=1)) == 6


def test_frames_of_a_source_for_testing_follow_what_became_of_their_classes(tmp_path: Path) -> None:
    settings = {"images": 48, "held_out": "sim:", "phases": "mug,car,star"}
    first = Run(tmp_path, settings)
    wait_for_trainer(first.robot)
    train(first.robot)
    assert set(first.trainer.classes) == {"mug", "car", "star"}
    first.robot.edit("rename", "mug", "cup", 0)
    first.robot.edit("forget", "car", "", 0)
    first.robot.testing.held_out._opener = partial(first._held_out, 40)  # these show all three
    first.robot.testing.test_so_far()
    assert set(first.robot.state.metrics.held_out.by_class) == {"cup", "star"}
    first.end()
    second = Run(tmp_path, settings, boot=LATER)
    second.robot.testing.held_out._opener = partial(first._held_out, 40)
    tested = second.all()["exit_accuracy_by_class"]
    assert set(tested) == set(second.link.names(evaluation=1)) == {"cup", "star"}
    forgotten_before = ClassEdit(boot=BOOT, sequence=0, number=1, change="forget", name="star", to="", session=0)
    assert second.robot.state.memory.called_now("star", [forgotten_before]) == "star", "it was learned anew"


def test_a_simulated_test_shows_other_scenes_than_the_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened: list[FrameSource] = []

    def keep(*arguments: Any, **settings: Any) -> FrameSource:
        opened.append(open_source(*arguments, **settings))
        return opened[-1]

    def stop_here(*_arguments: Any, **_settings: Any) -> None:
        raise InterruptedError

    for module in (robot_edge.run.start, robot_edge.learning.held_out):
        monkeypatch.setattr(module, "open_source", keep)
    monkeypatch.setattr(robot_edge.run.start, "fastest_compute", stop_here)
    config = RobotConfig.from_flags(
        source="sim:",
        held_out="sim:",
        cut="layer1",
        image_size=16,
        phases="mug|mug",
        images=80,
        run_dir=str(tmp_path / "run"),
    ).resolved()
    with pytest.raises(InterruptedError):
        robot_edge.run.start.run(config)
    training, test = ([frame.image.tobytes() for frame in islice(iter(one.next, None), 80)] for one in opened)
    assert len(training) == len(test) == 80
    assert not set(training) & set(test)


def test_where_every_class_has_one_picture_all_are_learned_and_no_test_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(11):
        picture = tmp_path / "pictures" / f"c{number:02}" / "one.png"
        picture.parent.mkdir(parents=True)
        Image.fromarray(np.full((16, 16, 3), 20 * number, np.uint8)).save(picture)
    run = Run(tmp_path / "run", {"source": f"folder:{tmp_path / 'pictures'}"})
    summary = run.all()
    assert len(summary["classes"]) == 11
    assert (summary["held_out_images"], summary["exit_accuracy"], summary["cloud_accuracy"]) == (0, None, None)
    assert "no new figures came" not in caplog.text


def test_what_the_cloud_has_not_said_is_not_made_up(tmp_path: Path) -> None:
    run = Run(tmp_path, {"images": 8})
    wait_for_trainer(run.robot)
    train(run.robot)
    summary = run.finish()
    assert summary["exit_accuracy"] is None
    assert summary["cloud_accuracy"] is None, "the cloud's figures are of no evaluation yet"


def test_a_stop_ends_every_part_of_a_run_and_the_summary_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path, {"images": 800})
    run.link.offer_trainer = False  # nobody is there to wait for
    run.stop.made = True
    summary = run.all()
    assert run.trainer.frames == []
    assert summary["interrupted"] is True
    assert summary["images"] == 0
    assert summary["classes"] == []
    assert "metrics.jsonl\n" in capsys.readouterr().out


def test_a_stop_in_the_middle_tests_the_exit_and_keeps_what_was_learned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path, {"images": 800, "held_out_every": 2, "phases": "mug,car"})
    run.stop_after(6)
    summary = run.all()
    assert len(run.trainer.frames) == 6
    assert summary["interrupted"] is True
    assert summary["exit_accuracy"] is not None
    assert run.link.names(evaluation=1) == [], "it waits for the cloud after Ctrl-C"
    assert load_checkpoint(tmp_path / "checkpoint", LAYOUT).trainer.learner.steps == 6
    assert "metrics.jsonl, checkpoint/\n" in capsys.readouterr().out


STREAM = {"images": 200, "held_out_every": 3, "rehearse": 1.0, "rehearsal_mb": 0.02}


def sent(*runs: Run) -> list[tuple[tuple[str, ...], bytes]]:
    """What was sent to be trained on, in the order it was made; a message that came again counts once."""
    batches = {
        (run_number, batch.sequence): batch
        for run in reversed(runs)
        for batch in run.link.batches
        for run_number in [(BOOT, LATER).index(batch.boot)]
        if not batch.evaluation
    }
    return [(one.classes, one.labels.tobytes() + one.activations.data) for _, one in sorted(batches.items())]


def assert_same(one: Run, other: Run) -> None:
    """Both runs are at the same point, to the bit."""
    for (name, left), right in zip(one.weights().items(), other.weights().values(), strict=True):
        assert torch.equal(left, right), name
    for name in ("images", "exit_prequential", "exit_accuracy", "classes", "held_out_images", "jpeg_bytes_per_image"):
        assert one.summary()[name] == other.summary()[name], name
    assert one.summary()["samples_by_class"] == other.summary()["samples_by_class"]
    assert one.summary()["messages_sent"] == other.summary()["messages_sent"]
    assert one.summary()["bytes_per_image"] == other.summary()["bytes_per_image"]


@pytest.fixture(name="whole", scope="module")
def _whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing interrupts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hierarchy.runtime.curves, "draw_curves", lambda *_arguments: None)
        torch.set_num_threads(1)
        run = Run(tmp_path_factory.mktemp("whole"), STREAM)
        run.all()
        return run


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(whole: Run, tmp_path: Path) -> None:
    first = Run(tmp_path, STREAM)
    first.stop_after(15)
    assert first.all()["interrupted"]
    assert len(first.trainer.frames) == 15
    first.end()
    second = Run(tmp_path, STREAM, boot=LATER)
    second.link.offer_trainer = False  # a run that goes on waits for nobody
    wait_for_trainer(second.robot)
    second.link.offer_trainer = True
    summary = second.all()
    assert len(second.trainer.frames) == len(whole.trainer.frames) - 15
    assert sent(first, second) == sent(whole)
    assert_same(second, whole)
    assert (summary["starts"], summary["interrupted"]) == (2, False)
    images = [line["images"] for line in second.metrics()]
    assert images == sorted(images)
    assert images[-1] == summary["images"]


@pytest.mark.parametrize("checkpoint_every", [4, 1000])
def test_a_run_that_was_killed_learns_again_and_sends_nothing_twice(
    whole: Run, tmp_path: Path, checkpoint_every: int
) -> None:
    settings = {**STREAM, "checkpoint_every": checkpoint_every}
    first = Run(tmp_path, settings)
    first.stop_after(15)
    wait_for_trainer(first.robot)
    train(first.robot)
    first.end()  # nothing since the last commit and the last checkpoint is on the disk
    second = Run(tmp_path, settings, boot=LATER)
    position = second.outbox.position
    assert position > 0
    second.all()
    assert len(second.trainer.frames) == len(whole.trainer.frames) - (12 if checkpoint_every == 4 else 0)
    assert sent(first, second) == sent(whole)
    assert_same(second, whole)
    images = [line["images"] for line in second.metrics()]
    assert images == sorted(images)


def test_what_a_killed_robot_had_in_its_outbox_goes_up_later(whole: Run, tmp_path: Path) -> None:
    first = Run(tmp_path, STREAM)
    wait_for_trainer(first.robot)
    first.link.connected = False
    first.stop_after(15)
    train(first.robot)
    first.robot.saving.save()
    first.end()
    assert first.link.batches == []
    second = Run(tmp_path, STREAM, boot=LATER)
    summary = second.all()
    assert sent(second) == sent(whole)
    assert {batch.boot for batch in second.link.batches} == {BOOT, LATER}
    assert all(one["taken"] == one["receipted"] for one in summary["samples_by_class"].values())


def test_a_killed_run_that_is_shown_more_sends_its_last_small_batch_once(tmp_path: Path) -> None:
    settings = {"held_out": "sim:", "rehearse": 0.0, "checkpoint_every": 1000}
    first = Run(tmp_path, {**settings, "images": 22})
    wait_for_trainer(first.robot)
    train(first.robot)
    assert first.outbox.sync(0.0)
    first.end()
    assert first.trainer.frames[-1] == (6, 6)
    second = Run(tmp_path, {**settings, "images": 44}, boot=LATER)
    second.all()
    assert second.trainer.frames[2] == (8, 8), "it learns from a full batch, of which it sends two samples"
    # What the first one sent without hearing of it comes once more.
    taken = {(one.boot, one.sequence): one for run in (first, second) for one in run.link.batches if not one.evaluation}
    assert sum(len(one.names) for one in taken.values()) == 44


def test_an_outbox_that_is_gone_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = Run(tmp_path, STREAM)
    first.stop_after(3)
    first.all()
    first.robot.state.memory.edits = 3
    first.robot.saving.save()
    first.end()
    for part in tmp_path.glob("outbox.db*"):
        part.unlink()
    second = Run(tmp_path, STREAM, boot=LATER)
    assert second.robot.state.memory.edits == 0, (
        "they are numbered from 1 again, and a kill must not lose the first three"
    )
    second.end()
    assert "the outbox of this run is gone" in caplog.text


def test_bytes_per_image_are_right_while_a_killed_run_learns_again(tmp_path: Path) -> None:
    first = Run(tmp_path, {**STREAM, "checkpoint_every": 1000})
    first.stop_after(15)
    wait_for_trainer(first.robot)
    train(first.robot)
    first.end()
    second = Run(tmp_path, {**STREAM, "checkpoint_every": 1000}, boot=LATER)
    made = second.outbox.bytes_made
    second.stop_after(2)
    summary = second.all()
    taken = sum(one["taken"] for one in summary["samples_by_class"].values())
    assert 0 < summary["images"] < taken, "it learns again from what is in the outbox"
    assert summary["bytes_per_image"] == made / taken


def test_a_run_that_is_over_is_left_alone_but_may_be_shown_more(tmp_path: Path) -> None:
    settings = {"images": 24, "held_out": "sim:"}
    Run(tmp_path, settings).all()
    OPEN[-1].end()
    with pytest.raises(ConfigError, match=r"is over: choose another --run-dir, with --weights .*larger --epochs"):
        Run(tmp_path, settings)
    OPEN[-1].end()
    assert json.loads((tmp_path / "summary.json").read_text())["images"] == 24
    assert Run(tmp_path, {**settings, "images": 48}, boot=LATER).all()["images"] == 48


def test_a_damaged_checkpoint_is_named_with_a_way_out(tmp_path: Path) -> None:
    run = Run(tmp_path, STREAM)
    run.stop_after(3)
    run.all()
    run.end()
    with pytest.raises(ConfigError, match=r"(?s)cannot go on from its checkpoint .*--weights"):
        Run(tmp_path, {**STREAM, "cut": "layer2"}, boot=LATER)


def test_half_a_checkpoint_is_named_with_a_way_out(tmp_path: Path) -> None:
    run = Run(tmp_path, STREAM)
    run.stop_after(3)
    run.all()
    run.end()
    (tmp_path / "config.toml").write_text(tomli_w.dumps(run.config.as_toml()))
    checkpoint = tmp_path / "checkpoint"
    (checkpoint / CHECKPOINT).write_bytes((checkpoint / CHECKPOINT).read_bytes()[:-100])
    with pytest.raises(ConfigError, match=f"{checkpoint} is damaged.* move {checkpoint} away: then the robot learns"):
        robot_edge.run.start.run(run.config)


def test_without_a_cloud_everything_is_counted(tmp_path: Path) -> None:
    settings = {"images": 1600, "when_full": "balanced", "outbox_mb": 1.0, "bottleneck": 0, "image_size": 32}
    run = Run(tmp_path, {**settings, "source": "sim:", "rehearse": 0.0})
    wait_for_trainer(run.robot)
    run.link.connected = False
    train(run.robot)
    run.stop.made = True
    summary = run.finish()
    by_class = summary["samples_by_class"].values()
    assert sum(one["taken"] for one in by_class) == summary["images"] > 600
    assert summary["dropped"] == sum(one["dropped"] for one in by_class) > 0
    for one in by_class:
        assert one["taken"] == one["queued"] + one["dropped"]
        assert one["queued"] > 0


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Diverged("training has diverged"), NameTaken("r1")])
@pytest.mark.parametrize("saved", [0, 1], ids=["behind a step", "behind a checkpoint"])
def test_what_a_step_that_broke_off_was_to_learn_is_learned_and_sent_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, saved: int
) -> None:
    settings = {"images": 48, "held_out": "sim:", "checkpoint_every": 3 if saved else 1000}
    first = Run(tmp_path, settings)
    step = first.trainer.step

    def break_off(*arguments: Any, **more: Any) -> EdgeStep:
        if first.trainer.steps == 3:
            raise error
        return step(*arguments, **more)

    monkeypatch.setattr(first.trainer, "step", break_off)
    with pytest.raises(type(error)):
        go_through(first.robot, replay)
    first.end()
    second = Run(tmp_path, settings, boot=LATER)
    summary = second.all()
    taken = {(one.boot, one.sequence): one for run in (first, second) for one in run.link.batches if not one.evaluation}
    numbers = [number for one in taken.values() if not one.again for number in one.samples.tolist()]
    assert sorted(numbers) == list(range(1, 49))
    assert sum(one["receipted"] for one in summary["samples_by_class"].values()) == summary["images"] == 48


class FullDisk:
    """A disk that takes no checkpoint while it is full."""

    full = True

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(robot_edge.run.saving, "save_checkpoint", self._save)

    def _save(self, *arguments: Any) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "no space left on device")
        save_checkpoint(*arguments)


def test_a_disk_that_takes_no_checkpoint_stops_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FullDisk(monkeypatch)
    caplog.set_level("INFO")
    run = Run(tmp_path, {"images": 64, "checkpoint_every": 2, "held_out": "sim:"})
    wait_for_trainer(run.robot)
    train(run.robot)
    assert len(run.trainer.frames) == 16
    said = [one for one in caplog.messages if "checkpoint" in one]
    assert len(said) == 1
    assert said[0].startswith("the checkpoint cannot be written ([Errno 28] no space left on device), training goes on")
    assert f"make room on the disk of {tmp_path}" in said[0]
    assert run.robot.talk.shown()[0] == "DISK FULL: the checkpoint not written"
    disk.full = False
    run.finish()
    assert load_checkpoint(tmp_path / "checkpoint", LAYOUT).trainer.learner.steps == 16


def test_a_disk_that_stays_full_is_the_runs_last_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FullDisk(monkeypatch)
    monkeypatch.setattr(robot_edge.run.saving, "LAST_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(robot_edge.run.saving, "other_place", lambda *_: None)
    run = Run(tmp_path, {"images": 16, "held_out": "sim:"})
    with pytest.raises(StorageError) as error:
        go_through(run.robot, replay)
    assert str(error.value).startswith(
        "NOT SAVED: the checkpoint ([Errno 28] no space left on device). Please make room on"
    )
    assert str(error.value).endswith("Nothing of what was learned in 4 steps is left")
    assert exit_status(error.value) == EXIT_MACHINE, "which systemd tries again, unlike a wrong setting"
    assert "checkpoint/" not in capsys.readouterr().out
    assert not run.folder.checkpoint.exists(), "an empty folder would look like a checkpoint"
    assert run.summary()["images"] == 16


def test_room_that_is_made_at_the_end_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(monkeypatch)
    monkeypatch.setattr(robot_edge.run.saving, "LAST_RETRY_SECONDS", 0.0)
    run = Run(tmp_path, {"images": 16, "held_out": "sim:"})
    wait_for_trainer(run.robot)
    train(run.robot)
    tries: list[bool] = []
    save = run.robot.saving.save

    def make_room_at_the_third_try() -> bool:
        tries.append(save())
        disk.full = len(tries) < 2
        return tries[-1]

    monkeypatch.setattr(run.robot.saving, "save", make_room_at_the_third_try)
    run.finish()
    assert tries == [False, False, True]
    assert load_checkpoint(tmp_path / "checkpoint", LAYOUT).trainer.learner.steps == 4


def test_where_another_disk_has_room_what_was_learned_is_kept_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setattr(robot_edge.run.saving, "LAST_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(robot_edge.run.saving, "other_place", lambda *_: other)

    def full_here(folder: Path, *arguments: Any) -> None:
        if other not in folder.parents:
            raise OSError(errno.ENOSPC, "no space left on device")
        save_checkpoint(folder, *arguments)

    monkeypatch.setattr(robot_edge.run.saving, "save_checkpoint", full_here)
    run = Run(tmp_path / "run", {"images": 16, "held_out": "sim:"})
    with pytest.raises(StorageError) as error:
        go_through(run.robot, replay)
    (kept,) = other.iterdir()
    assert f"--weights {kept}" in str(error.value)
    assert kept.stat().st_mode & 0o077 == 0, "it has frames in it"
    assert load_checkpoint(kept / "checkpoint", LAYOUT).trainer.learner.steps == 4
    assert (kept / "config.toml").exists()


def test_every_file_that_the_disk_did_not_take_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(hierarchy.runtime.run_folder, "write_json", full)
    run = Run(tmp_path, {"images": 16, "held_out": "sim:"})
    with pytest.raises(
        StorageError, match=r"NOT SAVED: summary.json .*\. What was learned is saved: the same --run-dir"
    ):
        go_through(run.robot, replay)
    assert load_checkpoint(tmp_path / "checkpoint", LAYOUT).trainer.learner.steps == 4


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_run_without_labels_says_so_early_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, interrupted: bool
) -> None:
    monkeypatch.setattr(robot_edge.run.replay, "FRAMES_WITHOUT_LABEL", 8)
    run = Run(tmp_path, {"images": 48})
    monkeypatch.setattr(run.robot.state.batcher, "source", Unlabelled(run.robot.state.batcher.source))
    run.stop.made = interrupted
    summary = go_through(run.robot, replay)
    assert ("none of the first 48 frames has a label" in caplog.text) == (not interrupted)
    assert (summary["images"], summary["exit_accuracy"], summary["exit_accuracy_missing"]) == (
        0,
        None,
        "nothing was learned",
    )
    shown = (
        "it was stopped before it showed a frame"
        if interrupted
        else "none of the 48 frames of sim: has a label; --labels FILE.csv"
    )
    assert verdict(run.config, summary).startswith(f"NOTHING WAS LEARNED: {shown}")


class Unlabelled:
    """A source whose labels are gone."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def next(self, timeout: float | None = None) -> Any:
        frame = self._source.next(timeout)
        return frame and replace(frame, label=None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


def test_where_nothing_is_held_out_it_is_said_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path, {"images": 16, "held_out_every": 1000})
    summary = go_through(run.robot, replay)
    assert summary["images"] == 16
    assert "one scene in 1000 is (--held-out-every)" in summary["exit_accuracy_missing"]
    assert summary["cloud_accuracy_missing"] == summary["exit_accuracy_missing"]
    assert "No held-out accuracy: nothing was held out: " in capsys.readouterr().out
    assert verdict(run.config, summary).startswith("NOTHING WAS TESTED: nothing was held out")


def test_line_table_metrics_and_summary_have_one_figure_by_one_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, {"images": 48, "held_out": "sim:"})
    monkeypatch.setattr(hierarchy.evaluation, "RECENT", 8)  # so that it is another figure than since the start
    summary = go_through(run.robot, replay)
    last = run.metrics()[-1]
    for name in ("exit_prequential", "exit_recent", "cloud_prequential", "cloud_recent"):
        assert summary[name] == last[name], name
    assert summary["exit_prequential"] == run.robot.state.metrics.message().exit_prequential
    assert (summary["cloud_prequential"], summary["cloud_recent"]) == (0.6, 0.7)
    printed = capsys.readouterr().out
    (row,) = (line for line in printed.splitlines() if "last 1,000 images" in line)
    assert f"{100 * summary['exit_recent']:.1f} %" in row
    assert "70.0 %" in row
    (row,) = (line for line in printed.splitlines() if "since the start" in line)
    assert f"{100 * summary['exit_prequential']:.1f} %" in row
    assert f"exit {100 * summary['exit_recent']:.1f} %" in run.robot.state.metrics.live_line()


def test_samples_are_counted_in_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path, {"images": 48, "held_out": "sim:", "phases": "mug,car|mug,car,star"})
    summary = go_through(run.robot, replay)
    assert summary["messages_trained"] > summary["messages_sent"], "it counts tests, and is printed beside no other"
    printed = " ".join(capsys.readouterr().out.split())
    assert f"Samples for the cloud: 48 made, in {summary['messages_sent']} messages; 48 stored by it, 48 of" in printed
    assert "0 wait here, 0 rejected, 0 dropped" in printed
    assert "trained" not in printed


def test_a_namesake_leaves_no_table_and_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path, {"images": 64})
    namesake = RobotState(**{**vars(run.robot.uplink.state), "boot": "a" * 16, "started": 0.5})
    run.link.offer(Delivery(topics.topic("robot", "r1", "state"), pack(namesake), retained=False))
    with pytest.raises(NameTaken):
        go_through(run.robot, replay)
    assert capsys.readouterr().out == ""
    assert not run.folder.checkpoint.exists()
    assert not (tmp_path / "summary.json").exists()


class SlowCloud(AnsweringLink):
    """Gives its receipts at once, and its figures bit by bit, each after some looks."""

    looks = 0
    evaluated = 0

    def receive(self, timeout: float) -> Delivery | None:
        tested = len(self.names(evaluation=1))
        if tested and timeout:
            self.looks += 1
            if self.looks % 5 == 0 and self.evaluated < tested:
                self.evaluated += 1
                self.offer(Delivery(topics.topic("trainer", "t1", "metrics"), self._figures(), retained=False))
            time.sleep(0.01)
        return super().receive(timeout)

    def offer(self, delivery: Delivery) -> None:
        if topics.parse(delivery.topic).channel == "metrics" and delivery.payload != self._figures():
            return  # not before its time
        super().offer(delivery)

    def _figures(self) -> bytes:
        return pack(figures(self.boot, evaluated=self.evaluated))


def figures(boot: str, *, evaluated: int) -> TrainerMetrics:
    return trainer_metrics(boot, evaluated=evaluated, messages_waiting=3)


def test_it_waits_for_a_slow_cloud_as_long_as_that_gets_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robot_edge.run.testing, "FIGURES_SECONDS", 0.5)
    run = Run(tmp_path, {"images": 32, "held_out": "sim:"}, link=SlowCloud())
    begin = time.monotonic()
    assert run.all()["cloud_accuracy"] == 0.8
    assert time.monotonic() - begin > 0.5
    cloud = run.link
    assert isinstance(cloud, SlowCloud)
    assert cloud.evaluated == 6


def test_a_stop_in_the_final_test_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robot_edge.learning.held_out, "PREDICT_AT_ONCE", 2)
    run = Run(tmp_path, {"images": 16, "held_out": "sim:"})
    predict = run.trainer.evaluate

    def stop_at_once(images: NDArray[np.uint8]) -> Any:
        run.stop.made = True
        return predict(images)

    monkeypatch.setattr(run.trainer, "evaluate", stop_at_once)
    assert run.all()["held_out_images"] == 2


def test_a_run_that_begins_with_anothers_weights_remembers_its_frames(tmp_path: Path) -> None:
    former = Run(tmp_path / "one", {"images": 160})
    former.all()
    heir = Run(tmp_path / "two", {"source": "sim:", "weights": str(tmp_path / "one"), "images": 8})
    inherit(heir.robot.state, heir.robot.outbox, tmp_path / "one")
    before, after = former.robot.state.memory, heir.robot.state.memory
    assert before.rehearsal.counts()
    assert after.classes == before.classes
    for left, right in ((before.rehearsal, after.rehearsal), (before.held_out, after.held_out)):
        assert [one.name for one in right.all()] == [one.name for one in left.all()]
        for one, other in zip(left.all(), right.all(), strict=True):
            change = np.abs(one.image.astype(float) - other.image).mean()
            assert change == 0 if left is before.held_out else change < 10, "what is rehearsed is encoded once more"
    assert heir.all()["images"] <= 8  # what is inherited is not counted as learned once more


def test_inherited_frames_are_scaled_and_bounded(tmp_path: Path) -> None:
    former = Run(tmp_path / "one", {"images": 160})
    former.all()
    room_for_ten = {"image_size": 32, "rehearsal_mb": 10 * 3 * 32**2 / 12 / 1e6}
    heir = Run(tmp_path / "two", {"weights": str(tmp_path / "one"), **room_for_ten})
    inherit(heir.robot.state, heir.robot.outbox, tmp_path / "one")
    frames = list(heir.robot.state.memory.rehearsal.all())
    assert len(frames) == 10
    assert frames[0].image.shape == (32, 32, 3)
    assert len({one.name for one in frames}) > 3  # balanced, not the first or last ten


def test_a_former_run_that_kept_no_frames_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Run(tmp_path / "one", {"images": 40, "rehearse": 0}).all()
    heir = Run(tmp_path / "two", {"weights": str(tmp_path / "one")})
    with caplog.at_level("WARNING"):
        inherit(heir.robot.state, heir.robot.outbox, tmp_path / "one")
    assert "kept no frames to rehearse of" in caplog.text


def test_a_class_that_is_forgotten_before_anything_is_learned_stays_forgotten(tmp_path: Path) -> None:
    Run(tmp_path / "one", {"images": 160}).all()
    settings = {"source": "sim:", "weights": str(tmp_path / "one"), "images": 8}
    first = Run(tmp_path / "two", settings)
    inherit(first.robot.state, first.robot.outbox, tmp_path / "one")
    gone = first.robot.state.memory.classes[0]
    first.robot.edit("forget", gone, "", 0)
    first.outbox.sync(0.0)
    first.end()
    second = Run(tmp_path / "two", settings, boot=LATER)
    inherit(second.robot.state, second.robot.outbox, tmp_path / "one")
    memory = second.robot.state.memory
    assert memory.counts().get(gone, 0) == 0
    assert gone not in memory.classes
    second.end()
