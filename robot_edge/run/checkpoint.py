"""What of a run outlasts its process: one object, one function that saves it, one that goes on from it."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.errors import ConfigError
from broker.wire.codec import unpack_as
from broker.wire.messages import ClassEdit, SplitSpec
from hierarchy.edge import EdgeTrainer, EdgeTrainerState
from hierarchy.runtime.checkpoint import load_checkpoint
from hierarchy.runtime.state import Layout
from robot_edge.fleet.exits import FleetExits
from robot_edge.learning.batcher import Batcher, BatcherState
from robot_edge.learning.class_edits import ClassMemory
from robot_edge.learning.former_versions import MIGRATIONS
from robot_edge.learning.frame_memory import FramesState
from robot_edge.learning.held_back import HeldBack, HeldBackState
from robot_edge.learning.practice import LivePractice, PracticeState
from robot_edge.run.run_metrics import FiguresState, RunMetrics
from robot_edge.run.same_run import checkpoint_error, pack_compute
from robot_edge.sources.encoded import UNREADABLE
from robot_edge.teaching.lessons import Teaching, TeachingState
from robot_edge.uplink.outbox import Outbox
from robot_edge.uplink.rate_control import RateControl

log = logging.getLogger("robot-edge")


@dataclass(kw_only=True)
class RunState:
    """The parts of a run that a checkpoint holds.

    teaching, practice: of a live robot; None for a replay. phase: of the last batch. practised: steps of the practice
    behind a replay. settled: whether that practice is over and what it learned is sent. tested: steps that were taken
    at the last test. held: frames that wait for a front that tells less, and how much it tells; None where it may tell
    what it likes. fleet: the exits that its fleet makes for it, which keep themselves what they are to know; None for
    none.
    """

    trainer: EdgeTrainer
    memory: ClassMemory
    batcher: Batcher
    metrics: RunMetrics
    rate_control: RateControl
    split: SplitSpec
    teaching: Teaching | None = None
    practice: LivePractice | None = None
    phase: int = 0
    practised: int = 0
    settled: bool = False
    tested: int = -1
    held: HeldBack | None = None
    fleet: FleetExits | None = None

    @property
    def may_send(self) -> bool:
        """Whether what the front encodes may leave the robot."""
        return self.held is None or self.held.released

    def forget_frames(self, numbers: Collection[int]) -> None:
        """Give up remembered frames by their numbers, and practise without them. No checkpoint has them any more."""
        self.memory.rehearsal.forget_numbers(numbers)
        if self.held is not None:
            self.held.forget(numbers, before=self.memory.inherited)
        if self.practice:
            self.practice.class_changed()

    def apply(self, edit: ClassEdit) -> None:
        """Do to every part what a class edit says."""
        self.metrics.apply(edit)
        self.memory.apply(edit)
        self.batcher.apply(edit)
        if self.teaching:
            self.teaching.apply(edit)
        if self.practice and self.memory.classes:
            self.practice.class_changed()
        if self.held is not None:
            self.held.apply(edit)
        if self.fleet:
            self.fleet.apply(edit)


@dataclass(frozen=True, kw_only=True, eq=False)
class RobotCheckpoint:
    """All that a robot needs to go on. position: of the source, as in `RunState` the rest."""

    trainer: EdgeTrainerState
    split: SplitSpec
    compute: dict[str, Any]
    rehearsal: FramesState
    held_out: FramesState
    batcher: BatcherState
    figures: FiguresState
    edits: int
    inherited: int
    position: int
    phase: int
    practised: int
    settled: bool
    tested: int
    bits: int
    teaching: TeachingState | None
    practice: PracticeState | None
    held: HeldBackState | None


LAYOUT = Layout(kind=RobotCheckpoint, migrations=MIGRATIONS)


def checkpoint_of(state: RunState) -> RobotCheckpoint:
    """Return what a checkpoint must hold."""
    return RobotCheckpoint(
        trainer=state.trainer.state(),
        split=state.split,
        compute=pack_compute(state.trainer.learner.compute),
        rehearsal=state.memory.rehearsal.state(),
        held_out=state.batcher.held_out.state(),
        batcher=state.batcher.state(),
        figures=state.metrics.state(),
        edits=state.memory.edits,
        inherited=state.memory.inherited,
        position=state.batcher.position,
        phase=state.phase,
        practised=state.practised,
        settled=state.settled,
        tested=state.tested,
        bits=state.trainer.bits,
        teaching=state.teaching.state() if state.teaching else None,
        practice=state.practice.state() if state.practice else None,
        held=state.held.state() if state.held is not None else None,
    )


def restore(state: RunState, saved: RobotCheckpoint) -> None:
    """Go on from a checkpoint. Raises RuntimeError and ValueError where it is of another run."""
    state.trainer.restore(saved.trainer)
    state.memory.rehearsal.restore(saved.rehearsal)
    state.batcher.held_out.restore(saved.held_out)
    state.batcher.restore(saved.batcher)
    state.metrics.restore(saved.figures)
    state.memory.edits, state.memory.inherited = saved.edits, saved.inherited
    state.phase, state.practised, state.settled, state.tested = (
        saved.phase,
        saved.practised,
        saved.settled,
        saved.tested,
    )
    state.rate_control.go_on(saved.bits)
    state.trainer.bits = state.rate_control.bits
    state.batcher.source.seek(saved.position)
    if state.teaching and saved.teaching:
        state.teaching.restore(saved.teaching)
    if state.practice and saved.practice:
        state.practice.restore(saved.practice)
    if state.held is not None and saved.held:
        state.held.restore(saved.held)


def take_up(state: RunState, saved: RobotCheckpoint | None, outbox: Outbox, folder: Path) -> None:
    """Go on from a checkpoint, where there is one, and from what the outbox knows beyond it. Raises ConfigError."""
    if saved:
        try:
            restore(state, saved)
        except (RuntimeError, ValueError) as error:
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
    memory, saved = state.memory, load_checkpoint(former_run / "checkpoint", LAYOUT)
    try:
        memory.inherit(saved.rehearsal, saved.held_out)
        state.batcher.inherit(saved.batcher)
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
