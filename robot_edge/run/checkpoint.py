"""What of a run outlasts its process: one object, one function that saves it, one that goes on from it."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from broker.errors import ConfigError
from broker.wire.codec import unpack_as
from broker.wire.messages import ClassEdit, SplitSpec
from hierarchy.edge import EdgeTrainer
from hierarchy.runtime.checkpoint import Parts, load_checkpoint
from robot_edge.learning.batcher import Batcher
from robot_edge.learning.class_edits import Knowledge
from robot_edge.learning.practice import LivePractice
from robot_edge.run.figures import RunFigures
from robot_edge.run.resume import checkpoint_error, pack_compute
from robot_edge.sources.encoded import UNREADABLE
from robot_edge.teaching.lessons import Teaching
from robot_edge.uplink.outbox import Outbox
from robot_edge.uplink.rate_control import RateControl

log = logging.getLogger("robot-edge")


@dataclass(kw_only=True)
class RunState:
    """The parts of a run that a checkpoint holds.

    teaching, practice: of a live robot; None for a replay. phase: of the last batch. practised: steps of the practice
    behind a replay. settled: whether that practice is over and what it learned is sent. tested: steps that were taken
    at the last test.
    """

    trainer: EdgeTrainer
    memory: Knowledge
    batcher: Batcher
    figures: RunFigures
    rate_control: RateControl
    split: SplitSpec
    teaching: Teaching | None = None
    practice: LivePractice | None = None
    phase: int = 0
    practised: int = 0
    settled: bool = False
    tested: int = -1

    def apply(self, edit: ClassEdit) -> None:
        """Do to every part what a class edit says."""
        self.figures.apply(edit)
        self.memory.apply(edit)
        self.batcher.apply(edit)
        if self.teaching:
            self.teaching.apply(edit)
        if self.practice and self.memory.classes:
            self.practice.class_changed()


def checkpoint_of(state: RunState) -> tuple[Parts, dict[str, Any]]:
    """Return the tensors of a checkpoint, and the JSON that belongs to them."""
    parts, metadata = state.trainer.state()
    rehearsal, about_rehearsal = state.memory.rehearsal.state()
    held_out, about_held_out = state.batcher.held_out.state()
    about_batcher, arrays = state.batcher.state()
    batcher = {name: torch.from_numpy(array) for name, array in arrays.items()}
    metadata |= {
        "split": dataclasses.asdict(state.split),
        "compute": pack_compute(state.trainer.learner.compute),
        "rehearsal": about_rehearsal,
        "held_out": about_held_out,
        "batcher": about_batcher,
        "figures": state.figures.state(),
        "edits": state.memory.edits,
        "inherited": state.memory.inherited,
        "position": state.batcher.position,
        "phase": state.phase,
        "practised": state.practised,
        "settled": state.settled,
        "tested": state.tested,
        "bits": state.trainer.bits,
    }
    if state.teaching and state.practice:
        metadata |= {"teaching": state.teaching.state(), "practice": state.practice.state()}
    return {**parts, "rehearsal": rehearsal, "held_out": held_out, "batcher": batcher}, metadata


def restore(state: RunState, parts: Parts, metadata: dict[str, Any]) -> None:
    """Go on from a checkpoint. Raises KeyError, RuntimeError and ValueError where it is of another run."""
    state.trainer.restore(parts, metadata)
    state.memory.rehearsal.restore(parts.get("rehearsal", {}), metadata["rehearsal"])
    state.batcher.held_out.restore(parts.get("held_out", {}), metadata["held_out"])
    state.batcher.restore(metadata["batcher"], {name: one.numpy() for name, one in parts["batcher"].items()})
    state.figures.restore(metadata["figures"])
    state.memory.edits, state.memory.inherited = metadata["edits"], metadata["inherited"]
    state.phase, state.practised, state.settled = metadata["phase"], metadata["practised"], metadata["settled"]
    state.tested = metadata["tested"]
    state.rate_control.go_on(metadata["bits"])
    state.trainer.bits = state.rate_control.bits
    state.batcher.source.seek(metadata["position"])
    if state.teaching and state.practice:
        state.teaching.restore(metadata["teaching"])
        state.practice.restore(metadata["practice"])


def take_up(state: RunState, saved: tuple[Parts, dict[str, Any]] | None, outbox: Outbox, folder: Path) -> None:
    """Go on from a checkpoint, where there is one, and from what the outbox knows beyond it. Raises ConfigError."""
    if saved:
        try:
            restore(state, *saved)
        except (KeyError, RuntimeError, ValueError) as error:
            raise checkpoint_error(folder, error) from error
        if outbox.is_new:
            state.memory.edits = 0
            log.warning(
                "the outbox of this run is gone: what it held is lost, and the cloud may train twice on what was "
                "sent after the last checkpoint; lessons of before can no longer be taken back in the cloud"
            )
    if state.teaching:
        # The frames of a lesson come once: those that were sent, but are in no checkpoint, cannot be shown again.
        state.batcher.source.seek(max(state.batcher.source.position, outbox.position))
    # A process that was killed right behind an edit had told the outbox of it, and no checkpoint yet.
    for edit in edits_after(outbox, state.memory.edits):
        state.apply(edit)


def edits_after(outbox: Outbox, number: int) -> list[ClassEdit]:
    """Return the run's class edits behind that number."""
    return [unpack_as(ClassEdit, payload) for payload in outbox.edits_after(number)]


def inherit(state: RunState, outbox: Outbox, former_run: Path) -> None:
    """Remember the frames of the run whose weights this one begins with. Raises ConfigError."""
    memory = state.memory
    try:
        parts, metadata = load_checkpoint(former_run / "checkpoint")
        memory.inherit(parts, metadata)
        state.batcher.inherit(metadata["batcher"])
    except (KeyError, IndexError, *UNREADABLE) as error:
        raise ConfigError(f"--weights {former_run} is of another version: {error!r}") from error
    # Made before there was a checkpoint to hold what they did: these frames come from before them.
    for edit in edits_after(outbox, 0):
        state.apply(edit)
    kept = memory.rehearsal.counts()
    if forgettable := [name for name in memory.classes if name not in kept]:
        log.warning(
            "%s kept no frames to rehearse of %s: other lessons will make the robot forget them",
            former_run,
            ", ".join(forgettable),
        )
