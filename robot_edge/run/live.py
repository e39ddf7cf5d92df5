"""A robot that sees all the time, and learns from what it is taught while it is taught and for a while after."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from broker.link.base import Link
from broker.wire.messages import ClassEdit
from hierarchy.runtime.checkpoint import Parts
from hierarchy.runtime.command_line import StopRequest
from hierarchy.runtime.progress import RunProgress, duration
from hierarchy.runtime.run_folder import RunFolder
from robot_edge.inference.cascade import Cascade, CloudLine, Decision
from robot_edge.inference.predictions import PredictionPublisher
from robot_edge.inference.predictor import FEWEST_CLASSES, Predictor
from robot_edge.inference.ros2_predictions import Tell, publishing
from robot_edge.inference.seeing import Seeing, TaughtFrames, View
from robot_edge.inference.sight import Sight
from robot_edge.learning.held_out import OpenSource
from robot_edge.learning.practice import LivePractice
from robot_edge.learning.trainer import EdgeTrainer
from robot_edge.page.board import Board
from robot_edge.run.config import RobotConfig
from robot_edge.run.node import RobotNode
from robot_edge.sources.frames import Frame, PacedSource
from robot_edge.teaching.lessons import Lesson, Teaching
from robot_edge.teaching.terminal import listening
from robot_edge.uplink.uplink import Uplink

# When there is nothing to learn: how long to listen to the broker before looking for commands and lessons again.
IDLE_SECONDS = 0.05
# Held-out frames that are tested with when what was taught is learned: a percentage point is 3 of them.
TESTED_FRAMES = 300

log = logging.getLogger("robot-edge")


@dataclass(frozen=True, kw_only=True)
class Perception:
    """How a live robot names what it sees. tell: hears of every decision, in the thread that sees."""

    predictor: Predictor
    sight: Sight
    tell: Callable[[Decision], None]


class LiveNode(RobotNode):
    """Trains on lessons and sends them up; the thread of `Seeing` predicts meanwhile with a copy of the network."""

    def __init__(
        self,
        config: RobotConfig,
        trainer: EdgeTrainer,
        uplink: Uplink,
        camera: PacedSource,
        held_out: OpenSource | None,
        folder: RunFolder,
        stop: StopRequest,
        saved: tuple[Parts, dict[str, Any]] | None,
        perception: Perception,
        board: Board | None = None,
    ) -> None:
        # With --live a recording plays a camera, whose pictures have no labels.
        self.teaching = Teaching(time.monotonic, trusts_source=not config.live.live)
        self._camera = camera
        self._perception = perception
        self._practice = LivePractice(config.learning.practice)
        self._lesson: Lesson | None = None  # that was open when this was looked at last
        self._is_tested = True  # what was learned
        self._saved_lesson = 0  # the last one of which a checkpoint has frames
        super().__init__(
            config,
            trainer,
            uplink,
            TaughtFrames(self.teaching, camera),
            held_out,
            folder,
            stop,
            saved,
            self.teaching,
            board,
        )
        # The frames of a lesson come once: those that were sent, but are in no checkpoint, cannot be shown again.
        self._source.seek(max(self._source.position, self._sent_position))

    def wait_for_trainer(self) -> None:
        """Wait for nobody: what is taught meanwhile waits in the outbox."""

    def train(self) -> None:
        """See, and learn what is taught, until the camera ends or a stop is asked for."""
        perception = self._perception
        perception.predictor.refresh(self._trainer.segment, at_once=True)
        self._calibrate()
        begin = time.monotonic() - self._figures.seconds
        with (
            publishing(self._config.source.source, self._config.ros2_topic) as publish,
            closing(self._see(publish)) as seeing,
            listening(self._uplink.commands, self._stop),
            RunProgress(None, "taught frames") as progress,
        ):
            if self._board:
                self._board.look = seeing.wait
            while not self._stop.made and not (seeing.ended and not self.teaching.waiting):
                self._obey()
                perception.sight.reachable = not self._uplink.waits_for and not self._uplink.quarantine
                learned = self._learn_what_was_taught() or self._practise()
                self._pump(0.0 if learned else IDLE_SECONDS)
                self._figures.seconds = time.monotonic() - begin
                if learned:
                    perception.predictor.refresh(self._trainer.segment)
                    self._write_metrics()
                    self._is_tested = False
                # A lesson may end long after the last step that it was worth.
                if not self._is_tested and not self.is_busy:
                    self._test_what_was_taught()
                    self._is_tested = True
                self._camera_notice.say(self._camera.status)
                missing = self._uplink.waits_for
                self._notice.say(f"seeing and learning go on without {missing}" if missing else "")
                progress.show(self._batcher.frames_read, self._live_line(seeing))
                self._save_now_and_then()

    @property
    def predictor(self) -> Predictor:
        """The copy of the network that predicts."""
        return self._perception.predictor

    @property
    def is_busy(self) -> bool:
        """Whether there is anything to learn or practise yet, or soon."""
        return bool(self.teaching.open or self.teaching.waiting or self._batcher.filled or self._practice.due >= 1)

    def _see(self, publish: Tell) -> Seeing:
        """Let the thread that sees begin."""
        perception = self._perception

        def tell(decision: Decision, frame: Frame) -> None:
            perception.tell(decision)
            publish(decision, frame)

        return Seeing(
            self._camera, self.teaching, perception.sight, image_size=self._config.network.image_size, tell=tell
        )

    def _learn_what_was_taught(self) -> bool:
        batch = self._batcher.next(0.0)
        if batch is None and not self.teaching.open and not self.teaching.waiting:
            batch = self._batcher.finish()
        lesson, self._lesson = self._lesson, self.teaching.open
        if lesson and lesson.frames and not self._lesson:
            self._practice.lesson_over()
        if batch is None:
            return False
        self._learn(batch)
        self._practice.learned(len(batch.names))
        self._save_lesson(batch.session)
        return True

    def _save_lesson(self, session: int) -> None:
        """Write a checkpoint with the first frames of a lesson, and with the last: they cannot be shown again."""
        begins = session > 0 and session != self._saved_lesson
        rest = self.teaching.open or self.teaching.waiting or self._batcher.filled
        if begins or (session > 0 and not rest):
            self.save()
            self._saved_lesson = session

    def _rehearsed_with(self, fresh: int) -> int:
        # A lesson's last frames are few, and of one class. A step on them alone, or nearly, undid all other classes.
        return self._config.learning.batch - fresh if self._config.rehearsed_per_fresh else 0

    def _practise(self) -> bool:
        """Take a step on remembered frames alone; False where none is due."""
        if self._practice.due < 1:
            return False
        progress = self._practice.take(lesson_open=self.teaching.open is not None)
        remembered = self._knowledge.rehearsal.draw(self._config.learning.batch)
        if not remembered:
            self._practice.due = 0.0
            return False
        images = np.stack([one.image for one in remembered])
        self._trainer.step(images, [one.name for one in remembered], fresh=0, progress=progress)
        return True

    def _test_what_was_taught(self) -> None:
        """Send what is remembered as it is encoded now, test, calibrate, and save what was learned."""
        self._send_memory_again()
        self._test_so_far(TESTED_FRAMES)
        self._calibrate()
        self._perception.predictor.refresh(self._trainer.segment, at_once=True)
        self.save()

    def _calibrate(self) -> None:
        """Let confidences be what the held-out frames say that they are."""
        held_out = self._knowledge.held_out.draw(TESTED_FRAMES)
        if held_out and self._trainer.classes:
            images = np.stack([one.image for one in held_out])
            self._perception.predictor.calibrate(self._trainer.segment, images, [one.name for one in held_out])

    def _live_line(self, seeing: Seeing) -> list[str]:
        lesson, sees = self.teaching.open, said_of(seeing.view, self._knowledge.classes, time.monotonic())
        taught = [f"TEACHING {lesson.name}: {lesson.frames} frames"] if lesson else []
        return [sees, *taught, *self._shown()]

    def _state(self) -> tuple[Parts, dict[str, Any]]:
        parts, about = super()._state()
        return parts, {**about, "teaching": self.teaching.state(), "practice": self._practice.state()}

    def _restore(self, parts: Parts, about: dict[str, Any]) -> None:
        super()._restore(parts, about)
        self.teaching.restore(about["teaching"])
        self._practice.restore(about["practice"])

    def _apply(self, edit: ClassEdit) -> None:
        super()._apply(edit)
        if edit.change == "rename":
            self.teaching.rename(edit.name, edit.to)
        elif edit.change == "forget":
            self.teaching.forget(edit.name)
        elif edit.change == "undo":
            self.teaching.take_back(edit.session)
        if self._knowledge.classes:
            self._practice.class_changed()
        self._perception.predictor.refresh(self._trainer.segment, at_once=True)


def said_of(view: View | None, classes: Sequence[str], now: float) -> str:
    """Return what a robot sees, for people. now: monotonic seconds."""
    if view is None:
        return "sees nothing yet"
    if view.stale:
        return f"SEES NOTHING: no frame for {duration(now - view.seen_at)}"
    if not classes:
        return "knows no class yet"
    if len(classes) < FEWEST_CLASSES:
        return f"cannot compare: {classes[0]} is its only class"
    name = view.decision.name or "nothing it knows"
    return f"sees {name} ({100 * view.decision.confidence:.0f} %, {view.decision.by})"


def live_node(
    link: Link,
    config: RobotConfig,
    trainer: EdgeTrainer,
    uplink: Uplink,
    camera: PacedSource,
    held_out: OpenSource | None,
    folder: RunFolder,
    stop: StopRequest,
    saved: tuple[Parts, dict[str, Any]] | None,
    board: Board | None = None,
) -> LiveNode:
    """Return a live robot's node with all that it sees by."""
    predictor = Predictor(trainer.segment, bits=trainer.bits, compute=trainer.learner.compute)
    boot = uplink.state.boot
    cascade = Cascade(
        boot=boot,
        split=uplink.state.split.fingerprint,
        threshold=config.live.threshold,
        deadline=config.live.ask_deadline,
    )
    publisher = PredictionPublisher(link, config.robot, boot, per_second=config.live.predictions_per_second)

    def tell(decision: Decision) -> None:
        publisher.offer(decision, now=time.monotonic(), wall=time.time())

    sight = Sight(predictor, cascade, CloudLine(link, config.robot))
    perception = Perception(predictor=predictor, sight=sight, tell=tell)
    return LiveNode(config, trainer, uplink, camera, held_out, folder, stop, saved, perception, board)
