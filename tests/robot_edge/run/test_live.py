"""A live robot that is shown toys and taught their names, at a broker in memory. Its camera shows what a test wants."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hierarchy.runtime.curves
import robot_edge.uplink.presence
from broker.errors import SourceError
from broker.link.inbox import Delivery
from broker.link.mailbox import Mailbox
from broker.link.memory import MemoryBroker, MemoryLink
from broker.wire import topics
from broker.wire.codec import pack, unpack, unpack_as
from broker.wire.messages import ActivationBatch, ClassEdit, Command, CommandResult, Prediction, Receipt
from hierarchy.device import Compute
from hierarchy.edge import EdgeStep, EdgeTrainer
from hierarchy.runtime.checkpoint import CHECKPOINT, load_checkpoint
from hierarchy.runtime.command_line import StopRequest
from hierarchy.runtime.run_folder import RunFolder
from hierarchy.schedule import learning_rate
from robot_edge.learning.frame_memory import frames_in
from robot_edge.learning.framing import Region
from robot_edge.learning.practice import SETTLING_STEPS
from robot_edge.learning.segment import build_edge
from robot_edge.page.page_model import PageModel
from robot_edge.run.asking import PICTURE_PIXELS
from robot_edge.run.checkpoint import LAYOUT
from robot_edge.run.config import RobotConfig
from robot_edge.run.ending import go_through
from robot_edge.run.live import live
from robot_edge.run.robot_run import assemble
from robot_edge.run.start import open_outbox
from robot_edge.sources.frames import Frame, Header, Pixels
from robot_edge.sources.paced import Paced
from robot_edge.sources.sim import SimulatedCamera
from robot_edge.teaching.choices import ChoiceAction
from robot_edge.uplink.uplink import Uplink
from tests.fleet_exits import member_of
from tests.messages import robot_state
from tests.robot_edge.inference.test_ros2_predictions import Ros

pytestmark = pytest.mark.slow

SIZE = 16
# Long for a machine that is busy with other tests; nothing here waits for its end.
PATIENCE = 40.0
# Lessons are ended when they have enough frames, however slow the machine is.
LESSON_SECONDS = 600.0


class Stage:
    """A camera at up to 100 frames a second, before which one toy is held after the other."""

    length, skipped, reconnects, status, left_out = None, 0, 0, "", ()

    def __init__(self) -> None:
        self.ended = False
        self.position = 0
        self.trouble: Exception | None = None
        self.header: Header | None = None
        self.scene: int | None = None  # instead of one for every ten frames
        self._toys = {name: SimulatedCamera(classes=[name], size=SIZE, seed=3) for name in ("ball", "star", "mug")}
        self.shown = "ball"
        self.noise_beside: Pixels | None = None  # what stands still, and beside it something else in each frame

    def next(self, timeout: float | None = None) -> Frame | None:
        if self.trouble:
            raise self.trouble
        time.sleep(0.01)
        self.position += 1
        frame = self._toys[self.shown].next()
        assert frame is not None
        if (still := self.noise_beside) is not None:
            noise = np.random.default_rng(self.position).integers(0, 256, still.shape, dtype=np.uint8)
            frame = replace(frame, image=np.hstack([still, noise]))
        scene = self.position // 10 if self.scene is None else self.scene
        return Frame(image=frame.image, label=None, scene=scene, time=time.time(), header=self.header)

    def latest(self, timeout: float | None = None) -> Frame | None:
        return self.next(timeout)

    def seek(self, position: int) -> None: ...

    def close(self) -> None: ...


class World(MemoryLink):
    """The link of a robot to a trainer that takes in everything, and to whoever gives commands."""

    def __init__(self) -> None:
        super().__init__(MemoryBroker())
        self.sent: list[ActivationBatch | ClassEdit] = []
        self.results: list[CommandResult] = []
        self.predictions: list[Prediction] = []

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        match message := unpack(payload):
            case ActivationBatch() | ClassEdit():
                self.sent.append(message)
                receipt = Receipt(boot=message.boot, sequence=message.sequence, outcome="accepted", reason="", held=0.0)
                self.offer(Delivery(topics.topic("robot", "r1", "receipt"), pack(receipt), retained=False))
            case CommandResult():
                self.results.append(message)
            case Prediction():
                self.predictions.append(message)
        return super().publish(topic, payload, qos=qos, retain=retain)

    def command(self, action: Any, name: str = "", to: str = "", seconds: float = 0.0, region: str = "") -> None:
        command = Command(id=f"{action} {name}", action=action, name=name, to=to, seconds=seconds, region=region)
        self.offer(Delivery(topics.topic("robot", "r1", "command"), pack(command), retained=False))


class Robot:
    """A live robot in a thread of its own."""

    def __init__(
        self,
        path: Path,
        boot: str = "b" * 16,
        source: str = "sim:",
        page_model: PageModel | None = None,
        **settings: Any,
    ) -> None:
        self.config = RobotConfig.from_flags(
            source=source, live=True, robot="r1", cut="layer1", image_size=SIZE,
            run_dir=str(path), held_out_every=4, predictions_per_second=1000.0,
            **{"batch": 16, "bottleneck": 2, **settings},
        )  # fmt: skip
        self.stage, self.link, self.stop = Stage(), World(), StopRequest()
        self._path, self._boot, self._page_model = path, boot, page_model
        self.error: BaseException | None = None
        self._ready = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        assert self._ready.wait(PATIENCE)

    def wait_for(self, what: Callable[[], Any]) -> None:
        """Wait until something is so."""
        give_up = time.monotonic() + PATIENCE
        while not what():
            assert self.thread.is_alive(), self.error
            assert time.monotonic() < give_up
            time.sleep(0.05)

    def teach(self, name: str, toy: str, frames: int = 35) -> None:
        """Show a toy, teach its name with so many frames that differ, and wait until that is learned."""
        self.stage.shown = toy
        self.link.command("teach", name, seconds=LESSON_SECONDS)
        self.wait_for(lambda: self.shown(name) >= frames)
        done = len(self.link.results) + 2
        self.link.command("stop")
        self.wait_for(lambda: len(self.link.results) >= done and not self.lessons.busy)
        self.wait_for(lambda: self.run.saving.saved_steps == self.state.trainer.steps)

    def shown(self, name: str) -> int:
        """How many frames of the lesson that is open differ."""
        lesson = self.teaching.open
        return lesson.frames if lesson and lesson.name == name else 0

    def order(self, *arguments: Any, **fields: Any) -> CommandResult:
        """Give a command, and return what came of it."""
        before = len(self.link.results)
        self.link.command(*arguments, **fields)
        self.wait_for(lambda: len(self.link.results) > before)
        return self.link.results[-1]

    def classes(self) -> tuple[str, ...]:
        return self.state.memory.classes

    def end(self) -> None:
        self.stop.made = True
        self.thread.join()

    def _run(self) -> None:
        torch.set_num_threads(1)
        try:
            self._build()
            self._ready.set()
            go_through(self.run, live)
        except BaseException as error:
            self.error = error
        finally:
            self.outbox.close()
            self.folder.close()

    def _build(self) -> None:
        """Open everything; sqlite wants to be used by the thread that opened it."""
        torch.manual_seed(0)
        segment, split, start = build_edge(self.config.network)
        trainer = EdgeTrainer(segment, bits=4, compute=Compute(device=torch.device("cpu")), peak_learning_rate=0.05)
        self.outbox = open_outbox(self.config, self._path, self._boot)
        self.folder = RunFolder(self._path, {})
        has_checkpoint = (self.folder.checkpoint / CHECKPOINT).exists()
        of_fleet = member_of(self.config.fleet, segment, split)
        state = robot_state(split, boot=self._boot, weights=start, rehearse=1.0, **of_fleet)
        self.run = assemble(
            self.config,
            link=self.link,
            trainer=trainer,
            uplink=Uplink(self.link, "r1", state, self.outbox),
            outbox=self.outbox,
            source=Paced(self.stage),
            folder=self.folder,
            stop=self.stop,
            saved=load_checkpoint(self.folder.checkpoint, LAYOUT) if has_checkpoint else None,
            page_model=self._page_model,
        )
        assert self.run.lessons
        assert self.run.state.teaching
        assert self.run.state.practice
        self.state, self.lessons, self.teaching = self.run.state, self.run.lessons, self.run.state.teaching
        self.practice = self.run.state.practice


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hierarchy.runtime.curves, "draw_curves", lambda *_arguments: None)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Robot]]:
    """Return what starts a robot in the same folder; all end with the test."""
    robots: list[Robot] = []

    def begin(**settings: Any) -> Robot:
        robots.append(Robot(tmp_path, **settings))
        return robots[-1]

    yield begin
    for robot in robots:
        robot.end()


@pytest.fixture
def robot(start: Callable[..., Robot]) -> Robot:
    return start(practice=2.0)


def share_named(robot: Robot, toy: str, name: str) -> float:
    """Return how many of the next frames are taken for that toy: each of them is published."""
    robot.stage.shown = toy
    before = len(robot.link.predictions)
    robot.wait_for(lambda: len(robot.link.predictions) >= before + 2)
    start = len(robot.link.predictions)
    robot.wait_for(lambda: len(robot.link.predictions) >= start + 40)
    return sum(one.name == name for one in robot.link.predictions[start:]) / (len(robot.link.predictions) - start)


def test_it_is_taught_by_showing_without_a_trainer_and_can_be_told_otherwise(robot: Robot) -> None:
    robot.wait_for(lambda: robot.link.predictions)
    assert robot.link.predictions[0].name == "", "it knows nothing yet"
    robot.teach("ball", "ball")
    robot.teach("étoile", "star")
    assert [one.text for one in robot.link.results if not one.done] == [
        "teaching 'ball' for 600 s",
        "teaching 'étoile' for 600 s",
    ]
    assert robot.link.sent == [], "there is no trainer"
    assert share_named(robot, "ball", "ball") > 0.5
    assert share_named(robot, "star", "étoile") > 0.5
    assert robot.order("rename", "étoile", "star").ok
    assert share_named(robot, "star", "star") > 0.5
    # Taken back, the class goes, and its frames.
    assert robot.order("undo").ok
    assert robot.classes() == ("ball",)
    assert robot.state.memory.counts().get("star", 0) == 0
    assert not robot.order("forget", "star").ok
    assert robot.order("forget", "ball").ok
    assert robot.classes() == ()
    assert len(robot.state.memory.rehearsal) + len(robot.state.memory.held_out) == 0
    robot.stage.shown = "ball"
    robot.link.command("teach", "ball", seconds=1.0)  # and ends by itself
    robot.wait_for(lambda: robot.link.results[-1].text.startswith("saw ") and not robot.lessons.busy)
    assert robot.classes() == ("ball",)
    assert robot.outbox.edits == 3


def test_every_step_is_full_and_practice_settles_after_a_lesson(robot: Robot) -> None:
    robot.teach("ball", "ball")
    steps: list[tuple[int, int, float | None]] = []
    step = robot.state.trainer.step

    def noted(images: Any, names: Any, *, fresh: int, progress: float | None) -> EdgeStep:
        steps.append((len(images), fresh, progress))
        return step(images, names, fresh=fresh, progress=progress)

    robot.state.trainer.step = noted  # type: ignore[method-assign]
    robot.teach("star", "star")
    assert {size for size, _, _ in steps} == {robot.config.learning.batch}  # the few last frames of the lesson, too
    last_lesson = max(number for number, (_, fresh, _) in enumerate(steps) if fresh)
    settled = [progress for _, _, progress in steps[last_lesson + 1 :]]
    assert len(settled) >= SETTLING_STEPS
    rates = [learning_rate(0.05, steps=1000, progress=progress) for progress in settled]
    assert rates[0] > 0.045
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.001


@pytest.mark.parametrize(("practice", "settling"), [(0.0, 0), (0.01, SETTLING_STEPS)])
def test_what_was_learned_settles_and_is_saved_where_a_lesson_ends_after_its_last_step(
    start: Callable[..., Robot], practice: float, settling: int
) -> None:
    robot = start(practice=practice, batch=2)  # so that each frame is a step
    robot.stage.scene = 1
    robot.link.command("teach", "ball", seconds=LESSON_SECONDS)
    robot.wait_for(lambda: robot.state.trainer.steps)
    robot.stage.scene = 4  # held out: nothing more is learned
    shown = robot.shown("ball")
    robot.wait_for(lambda: robot.shown("ball") >= shown + 5 and not robot.teaching.waiting)
    learned = robot.state.trainer.steps
    assert robot.run.saving.saved_steps < learned
    assert robot.order("stop").ok
    robot.wait_for(lambda: robot.run.saving.saved_steps >= learned + settling)


def test_what_a_lesson_showed_by_then_is_learned_before_a_stop_ends_it(robot: Robot, tmp_path: Path) -> None:
    robot.teach("ball", "ball")
    robot.stage.shown = "star"
    robot.link.command("teach", "star", seconds=LESSON_SECONDS)
    robot.wait_for(lambda: robot.shown("star") >= 3)
    robot.end()
    assert robot.error is None
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["classes"] == ["ball", "star"]
    assert set(summary["exit_accuracy_by_class"]) <= {"ball", "star"}
    assert summary["images"] + len(robot.state.batcher.held_out) == robot.state.batcher.frames_read
    assert not robot.teaching.waiting
    assert any("of 'star' that differ" in one.text for one in robot.link.results), "its teacher is told"


def test_what_was_taught_and_undone_outlasts_the_process(start: Callable[..., Robot]) -> None:
    first = start(practice=0.1)
    first.teach("ball", "ball")
    first.teach("star", "star")
    first.order("rename", "star", "sun")
    first.end()
    second = start(boot="d" * 16)
    assert second.classes() == ("ball", "sun")
    assert second.teaching.last is not None
    assert second.teaching.last.name == "sun"
    assert second.order("undo").ok
    assert second.classes() == ("ball",)


def test_what_changes_outside_of_where_it_looks_is_not_seen_after_a_restart_either(start: Callable[..., Robot]) -> None:
    robot = start(practice=0.1)
    assert not robot.order("look", region="90%,0%,20%,20%").ok
    robot.stage.noise_beside = np.full((SIZE, SIZE, 3), 90, np.uint8)
    left = Region(0.0, 0.0, 50.0, 100.0)
    assert robot.order("look", region=str(left)).ok
    robot.link.command("teach", "wall", seconds=LESSON_SECONDS)
    robot.wait_for(lambda: robot.shown("wall"))
    passed = robot.stage.position + 20
    robot.wait_for(lambda: robot.stage.position >= passed)
    assert robot.shown("wall") == 1, "what is beside it is no new frame"
    assert robot.order("stop").ok
    robot.wait_for(lambda: "wall" in robot.state.memory.one_of_each())
    assert np.abs(robot.state.memory.one_of_each()["wall"].astype(int) - 90).max() < 5
    robot.end()
    assert start(boot="d" * 16).run.viewfinder.framing.region == left


def test_a_checkpoint_from_before_an_edit_is_edited(start: Callable[..., Robot], tmp_path: Path) -> None:
    first = start(practice=0.1)
    first.teach("ball", "ball")
    checkpoint = tmp_path / "checkpoint" / CHECKPOINT
    before = checkpoint.read_bytes()
    first.order("rename", "ball", "sphere")
    first.end()
    checkpoint.write_bytes(before)  # as a kill right behind the edit leaves it
    second = start(boot="d" * 16)
    assert second.classes() == ("sphere",)
    assert second.state.memory.counts().get("ball", 0) == 0


def test_each_batch_is_of_one_lesson_and_knows_the_edits_before_it(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robot_edge.uplink.presence, "AWAY_SECONDS", float("inf"))  # this trainer speaks once
    trainer = b'{"kind":"trainer-state","boot":"' + b"1" * 16 + b'","started":1.0,"online":true,"trouble":""}'
    robot.link.offer(Delivery(topics.topic("trainer", "t1", "state"), trainer, retained=True))
    robot.teach("ball", "ball")
    robot.order("rename", "ball", "sphere")
    robot.teach("star", "star")
    robot.wait_for(lambda: len(robot.outbox) == 0)
    sent = [one for one in robot.link.sent if isinstance(one, ActivationBatch) and not one.evaluation]
    assert {one.session for one in sent if one.again} == {0}
    batches = [one for one in sent if not one.again]
    assert {(one.classes, one.session, one.edits) for one in batches} == {(("ball",), 1, 0), (("star",), 2, 1)}
    (edit,) = [one for one in robot.link.sent if isinstance(one, ClassEdit)]
    assert (edit.number, edit.change, edit.name, edit.to) == (1, "rename", "ball", "sphere")


def test_what_ends_the_camera_ends_the_robot_with_its_reason(robot: Robot) -> None:
    robot.wait_for(lambda: robot.link.predictions)
    robot.stage.trouble = SourceError("the camera is gone")
    robot.thread.join(PATIENCE)
    assert isinstance(robot.error, SourceError)


def test_predictions_are_what_others_can_act_on(robot: Robot) -> None:
    robot.wait_for(lambda: robot.link.predictions)
    prediction = robot.link.predictions[-1]
    assert unpack_as(Prediction, pack(prediction)) == prediction
    assert abs(prediction.time - time.time()) < PATIENCE
    assert prediction.by == "exit"


def test_a_robot_that_sees_a_ros_topic_tells_ros_what_it_sees(
    start: Callable[..., Robot], monkeypatch: pytest.MonkeyPatch
) -> None:
    ros = Ros(monkeypatch)
    robot = start(source="ros2:/camera/image_raw")
    robot.stage.header = Header(7_000_000_001, "head")
    robot.wait_for(lambda: ros.published)
    topic, message = ros.published[-1]
    assert topic == "/reflexarc/r1/prediction"
    assert (message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id) == (7, 1, "head")
    assert message.results == [], "it knows nothing yet"
    robot.end()
    assert robot.error is None
    assert ros.nodes == 0, "a node is left behind"


def test_a_robot_killed_in_a_lesson_knows_it_and_takes_back_no_other(
    start: Callable[..., Robot], tmp_path: Path
) -> None:
    first = start()
    first.teach("ball", "ball")
    first.stage.shown = "star"
    first.link.command("teach", "star", seconds=60.0)
    first.wait_for(lambda: first.lessons.saved_lesson == 2)
    copy = tmp_path.with_name("killed")
    shutil.copytree(tmp_path / "checkpoint", copy)
    first.end()
    shutil.rmtree(tmp_path / "checkpoint")
    copy.rename(tmp_path / "checkpoint")
    second = start(boot="d" * 16)
    assert second.classes() == ("ball", "star")
    assert "'star'" in second.order("undo").text
    assert second.classes() == ("ball",)


def test_a_step_that_broke_off_loses_nothing_that_was_shown(
    start: Callable[..., Robot], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start()
    first.teach("ball", "ball")
    before = first.outbox.counts()
    lost: list[str] = []

    def break_off(_images: Any, names: list[str], *, fresh: int, progress: float | None) -> EdgeStep:
        lost.extend(names[:fresh])
        raise KeyboardInterrupt

    monkeypatch.setattr(first.state.trainer, "step", break_off)
    first.stage.shown = "star"
    first.link.command("teach", "star", seconds=LESSON_SECONDS)
    first.thread.join(PATIENCE)
    assert isinstance(first.error, KeyboardInterrupt)
    assert set(lost) == {"star"}
    second = start(boot="d" * 16)
    second.wait_for(lambda: second.state.trainer.steps and not second.lessons.busy)
    second.wait_for(lambda: "star" in second.outbox.counts())
    counts = second.outbox.counts()
    assert (counts["star"].taken, counts["ball"].taken) == (len(lost), before["ball"].taken)


def test_a_lesson_is_on_the_disk_before_practice(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robot.lessons, "practise", lambda: False)
    robot.stage.shown = "ball"
    robot.link.command("teach", "ball", seconds=2.0)
    robot.wait_for(lambda: len(robot.link.results) == 2)
    robot.wait_for(lambda: not robot.teaching.waiting and not robot.state.batcher.filled)
    robot.wait_for(lambda: robot.run.saving.saved_steps == robot.state.trainer.steps > 0)
    assert robot.practice.due >= 1
    saved = load_checkpoint(robot.folder.checkpoint, LAYOUT)
    assert saved.batcher.names == []
    assert saved.teaching is not None
    assert saved.teaching.lessons[-1].name == "ball"


def test_an_undo_that_a_kill_kept_out_of_the_checkpoint_is_not_done_twice(
    start: Callable[..., Robot], tmp_path: Path
) -> None:
    first = start(practice=0.1)
    first.teach("ball", "ball")
    first.teach("star", "star")
    checkpoint = tmp_path / "checkpoint" / CHECKPOINT
    before = checkpoint.read_bytes()
    first.order("undo")
    first.end()
    checkpoint.write_bytes(before)  # as a kill right behind the edit leaves it
    second = start(boot="d" * 16)
    assert second.classes() == ("ball",)
    assert "'ball'" in second.order("undo").text


@pytest.mark.parametrize("still", [{}, {"freeze": "all", "exit": "end", "pool": 0}], ids=["learns", "stands still"])
def test_frames_that_nobody_is_sure_of_are_named_and_taught_ones_removed_for_good(
    start: Callable[..., Robot], still: dict[str, Any]
) -> None:
    page = PageModel("r1", Mailbox(8))
    robot = start(page_model=page, practice=0.5, **still)
    questions, memory = page.questions, robot.state.memory.rehearsal
    assert questions
    robot.wait_for(lambda: len(questions.open) >= 3)
    first, second, third = questions.open[:3]
    assert first.frame.image.shape == (SIZE, SIZE, 3)
    assert first.picture.shape == (PICTURE_PIXELS, PICTURE_PIXELS, 3)

    def choose(action: ChoiceAction, numbers: Collection[int], name: str = "") -> CommandResult:
        id_ = page.choose(action, numbers, name=name)
        robot.wait_for(lambda: any(one.id == id_ for one in robot.link.results))
        return next(one for one in robot.link.results if one.id == id_)

    assert choose("name", [first.number, second.number, third.number], "ball").text == "learning 3 frames of 'ball'"
    robot.wait_for(lambda: len(memory) == 3 and not robot.lessons.busy)
    assert robot.classes() == ("ball",), "each is learned from, and none held out"
    assert first.number not in {one.number for one in questions.open}

    numbers = memory.numbers()
    assert not choose("remove", numbers).ok, "a class without frames would be known by nothing"
    steps = robot.state.trainer.steps
    assert choose("remove", numbers[:2]).text == "2 taught frames forgotten on this robot"
    saved = load_checkpoint(robot.folder.checkpoint, LAYOUT)
    assert len(list(frames_in(saved.rehearsal))) == 1
    robot.wait_for(lambda: robot.state.trainer.steps > steps and not robot.lessons.busy)
    assert robot.order("undo").ok
    assert robot.classes() == ()
    robot.stage.shown = "star"
    robot.wait_for(lambda: robot.teaching.open is None and len(questions.open) > 0)
    assert choose("dismiss", [one.number for one in questions.open]).ok
