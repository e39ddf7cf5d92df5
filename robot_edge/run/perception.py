"""How a live robot names what it sees: the exit's copy, the cloud to ask, and who is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from broker.link.base import Link
from hierarchy.edge import EdgeTrainer
from robot_edge.inference.cascade import Cascade, CloudLine, Decision
from robot_edge.inference.frame_path import FramePath
from robot_edge.inference.predictions import PredictionPublisher
from robot_edge.inference.predictor import Predictor
from robot_edge.run.checkpoint import RunState
from robot_edge.run.config import RobotConfig
from robot_edge.sources.frames import Frame, Pixels
from robot_edge.teaching.lessons import Teaching
from robot_edge.uplink.uplink import Uplink

# Held-out frames that confidences are measured on.
CALIBRATED_FRAMES = 300


@dataclass(frozen=True, kw_only=True)
class Perception:
    """saw: hears of every frame, and what the network sees of it. tell: of every decision, and its frame.

    Both are called in the thread that sees.
    """

    predictor: Predictor
    sight: FramePath
    saw: Callable[[Frame, Pixels], object]
    tell: Callable[[Decision, Frame], None]

    def take_over(self, state: RunState) -> None:
        """Predict from now on with what was learned, and let confidences be what the held-out frames say they are."""
        segment, memory = state.trainer.segment, state.memory.held_out
        if memory.keeps_encodings:
            names, encoding = memory.draw_encodings(CALIBRATED_FRAMES)
            self.predictor.calibrate_encoded(segment.exit.head, encoding, names)
        elif (held_out := memory.draw(CALIBRATED_FRAMES)) and state.trainer.classes:
            images = np.stack([one.image for one in held_out])
            self.predictor.calibrate(segment, images, [one.name for one in held_out])
        self.take_over_classes(state)

    def take_over_classes(self, state: RunState) -> None:
        """Predict from now on with what was learned, as behind a class edit, and know what is remembered of it.

        Names come first: what is remembered takes some tenths of a second.
        """
        self.predictor.refresh(state.trainer.segment, at_once=True)
        rehearsal = state.memory.rehearsal
        if rehearsal.keeps_encodings:
            names, encoding = rehearsal.encodings()
            self.predictor.remember(encoding, names)


def perceive(link: Link, config: RobotConfig, trainer: EdgeTrainer, uplink: Uplink, teaching: Teaching) -> Perception:
    """Return what a robot of these settings sees by."""
    predictor = Predictor(
        trainer.segment,
        bits=trainer.bits,
        compute=trainer.learner.compute,
        encode=trainer.encode if trainer.segment.stands_still else None,
    )
    boot = uplink.state.boot
    cascade = Cascade(
        boot=boot,
        split=uplink.state.split.fingerprint,
        threshold=config.live.threshold,
        deadline=config.live.ask_deadline,
    )
    publisher = PredictionPublisher(link, config.robot, boot, per_second=config.live.predictions_per_second)

    sight = FramePath(predictor, cascade, CloudLine(link, config.robot))

    def saw(frame: Frame, image: Pixels) -> None:
        teaching.see(replace(frame, image=image, encoding=sight.encoding))

    def tell(decision: Decision, _frame: Frame) -> None:
        publisher.offer(decision, now=time.monotonic(), wall=time.time())

    return Perception(predictor=predictor, sight=sight, saw=saw, tell=tell)
