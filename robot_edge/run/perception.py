"""How a live robot names what it sees: the exit's copy, the cloud to ask, and who is told."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from broker.link.base import Link
from broker.wire.messages import RobotState
from broker.wire.quantize import dequantize
from hierarchy.edge import EdgeTrainer, crossing_encoder
from hierarchy.encoding import joined
from hierarchy.runtime.run_folder import RunFolder, former_settings
from robot_edge.fleet.exits import FleetExits, HeldOutSays
from robot_edge.fleet.fetching import Place
from robot_edge.fleet.kept_exits import KeptExits
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
# Of them, those that a fleet's exit is tried on: behind a cut far from the end each takes nearly a frame's time.
TRIED_FRAMES = 100

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
        """Take in what comes of the fleet's exit, and let it answer from the next frame on, unless that is to wait.

        busy: whether a lesson is given, or learned: what it shows is the robot's own exit's to learn.
        """
        if self.fleet:
            self.fleet.turn()
            if self.fleet.is_new and not busy:
                self._try_out(state)
            self.predictor.second = self.fleet.in_use

    def _try_out(self, state: RunState) -> None:
        if self.fleet:
            self.fleet.try_out(state.trainer.classes, self._held_out(state))
            self.predictor.second = self.fleet.in_use

    def _held_out(self, state: RunState) -> HeldOutSays | None:
        """Return held-out frames of classes that are known; they are not drawn, so what is drawn later stays the same.

        None where there are none.
        """
        names, encoding = state.memory.held_out.encodings()
        known = [row for row, name in enumerate(names) if name in state.trainer.classes]
        rows = known[:: -(-len(known) // TRIED_FRAMES)] if known else []
        if not rows:
            return None
        frames = [encoding[row : row + 1] for row in rows]
        kept = joined(frames)
        return HeldOutSays(
            names=[names[row] for row in rows],
            # Each by itself, as it is seen: frames that cross together share their ranges.
            crossed=np.concatenate([dequantize(one.quantized(state.split.bits)) for one in frames]),
            own=self.predictor.said_of(state.trainer.segment.exit.head, kept),
        )


def fleet_exits(
    link: Link, folder: RunFolder, config: RobotConfig, trainer: EdgeTrainer, state: RobotState
) -> FleetExits | None:
    """Return the exits that a robot's fleet makes for it; None where it has none, or where none would fit.

    A run that begins with the weights of another one of the same fleet takes over which exits answer, and what was
    forgotten there. Raises ConfigError.
    """
    if not (state.fleet and state.front):
        return None
    encoder = crossing_encoder(trainer.segment, trainer.learner.compute)
    if encoder is None:
        log.info("takes no exit of fleet %s: the cloud's half learns its way out of the bottleneck", state.fleet)
        return None
    place = Place(
        fleet=state.fleet,
        front=state.front,
        split=state.split.fingerprint,
        on=trainer.segment.exit_at,
        features=encoder.features,
    )
    former = config.network.former_run
    stays = former is not None and (former_settings(former) or {}).get("fleet") == state.fleet
    return FleetExits(link, place, KeptExits(folder, former if stays else None), encode=encoder.encode, run=state.run)


def perceive(
    link: Link,
    config: RobotConfig,
    trainer: EdgeTrainer,
    uplink: Uplink,
    teaching: Teaching,
    fleet: FleetExits | None = None,
) -> Perception:
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

    return Perception(predictor=predictor, sight=sight, fleet=fleet, saw=saw, tell=tell)
