"""How a live robot names what it sees: the exit's copy, the cloud to ask, and who is told."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from broker.link.base import Link
from broker.wire.messages import RobotState, SplitSpec
from hierarchy.device import Compute
from hierarchy.edge import EdgeSegment, EdgeTrainer, crossing_encoder
from hierarchy.runtime.run_folder import RunFolder, former_settings
from hierarchy.still import CrossingEncoder
from robot_edge.fleet.exits import FleetExits
from robot_edge.fleet.fetching import Place
from robot_edge.fleet.kept_exits import KeptExits
from robot_edge.fleet.second_exit import HeldOutSays
from robot_edge.inference.cascade import Cascade, CloudLine, Decision
from robot_edge.inference.frame_path import FramePath
from robot_edge.inference.held_out_says import held_out_says
from robot_edge.inference.predictions import PredictionPublisher
from robot_edge.inference.predictor import Predictor
from robot_edge.run.asking import Asking
from robot_edge.run.checkpoint import RunState
from robot_edge.run.config import RobotConfig
from robot_edge.sources.frames import Frame, Pixels
from robot_edge.teaching.lessons import Teaching
from robot_edge.uplink.uplink import Uplink

# Held-out frames that confidences are measured on.
CALIBRATED_FRAMES = 300

log = logging.getLogger("robot-edge")


@dataclass(frozen=True, kw_only=True)
class Perception:
    """saw: hears of every frame, and what the network sees of it. tell: of every decision, and its frame.

    Both are called in the thread that sees. fleet: the exits that a robot's fleet makes for it; None for none.
    """

    predictor: Predictor
    sight: FramePath
    fleet: FleetExits | None
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
        self._try_out(state)

    def take_over_classes(self, state: RunState) -> None:
        """Predict from now on with what was learned, as behind a class edit, and know what is remembered of it.

        Names come first: what is remembered takes some tenths of a second.
        """
        self.predictor.refresh(state.trainer.segment, at_once=True)
        rehearsal = state.memory.rehearsal
        if rehearsal.keeps_encodings:
            names, encoding = rehearsal.encodings()
            self.predictor.remember(encoding, names)
        if self.fleet:
            self.fleet.call_anew(state.trainer.classes)
            self.predictor.second = self.fleet.in_use

    def take_exit(self, state: RunState, *, busy: bool) -> None:
        """Let an exit of the fleet that has come answer from the next frame on, unless that is to wait.

        busy: whether a lesson is given, or learned: what it shows is the robot's own exit's to learn.
        """
        if self.fleet:
            if self.fleet.is_new and not busy:
                self._try_out(state)
            self.predictor.second = self.fleet.in_use

    def _try_out(self, state: RunState) -> None:
        if self.fleet:
            self.fleet.try_out(state.trainer.classes, held_out_frames(state, self.predictor))
            self.predictor.second = self.fleet.in_use


def held_out_frames(state: RunState, predictor: Predictor) -> HeldOutSays | None:
    """Return what an exit of the fleet is tried out on, of a network that stands still; None for nothing.

    The frames are not drawn, so what is drawn later stays the same.
    """
    names, encoding = state.memory.held_out.encodings()
    return held_out_says(predictor, state.trainer.segment.exit.head, names, encoding, bits=state.split.bits)


def fleet_exits(
    link: Link, folder: RunFolder, config: RobotConfig, trainer: EdgeTrainer, state: RobotState
) -> FleetExits | None:
    """Return the exits that a robot's fleet makes for it; None where it has none, or where none would fit.

    A run that begins with the weights of another one of the same fleet takes over which exits answer, and what was
    forgotten there. Raises ConfigError.
    """
    if not (state.fleet and state.front):
        return None
    fitting = exit_place(state.fleet, state.front, state.split, trainer.segment, trainer.learner.compute)
    if fitting is None:
        log.info("takes no exit of fleet %s: the cloud's half learns its way out of the bottleneck", state.fleet)
        return None
    place, encoder = fitting
    former = config.network.former_run
    stays = former is not None and (former_settings(former) or {}).get("fleet") == state.fleet
    kept = KeptExits(folder.path, folder.disk, former if stays else None)
    return FleetExits(link, place, kept, encode=encoder.encode, run=state.run)


def exit_place(
    fleet: str, front: str, split: SplitSpec, segment: EdgeSegment, compute: Compute
) -> tuple[Place, CrossingEncoder] | None:
    """Return where a fleet's exits for a front lie, and what makes of a sample what they take; None where none fits."""
    encoder = crossing_encoder(segment, compute)
    if encoder is None:
        return None
    on, features = segment.exit_at, encoder.features
    return Place(fleet=fleet, front=front, split=split.fingerprint, on=on, features=features), encoder


def perceive(
    link: Link,
    config: RobotConfig,
    trainer: EdgeTrainer,
    uplink: Uplink,
    teaching: Teaching,
    fleet: FleetExits | None = None,
    asking: Asking | None = None,
) -> Perception:
    """Return what a robot of these settings sees by. asking: of a robot with a page, where people may name frames."""
    predictor = _predictor(trainer)
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
        seen = replace(frame, image=image, encoding=sight.encoding)
        teaching.see(seen)
        if asking:
            asking.saw(frame, seen)

    def tell(decision: Decision, frame: Frame) -> None:
        if asking:
            asking.decided(decision, frame)
        publisher.offer(decision, now=time.monotonic(), wall=time.time())

    return Perception(predictor=predictor, sight=sight, fleet=fleet, saw=saw, tell=tell)


def try_out_for_nobody(state: RunState) -> None:
    """Try out an exit of the fleet that came to a robot which names nothing: a replay says what it would be worth."""
    fleet, trainer = state.fleet, state.trainer
    if fleet is None or not fleet.is_new:
        return
    predictor = _predictor(trainer)
    names, encoding = state.memory.held_out.encodings()
    predictor.calibrate_encoded(trainer.segment.exit.head, encoding, names)
    fleet.try_out(trainer.classes, held_out_frames(state, predictor))


def _predictor(trainer: EdgeTrainer) -> Predictor:
    return Predictor(
        trainer.segment,
        bits=trainer.bits,
        compute=trainer.learner.compute,
        encode=trainer.encode if trainer.segment.stands_still else None,
    )
