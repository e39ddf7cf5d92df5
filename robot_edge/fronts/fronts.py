"""`robot-edge fronts`: which versions of a front are let in, judged by frames that the run held out."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch

from broker.errors import EXIT_MACHINE, ConfigError, NothingDone
from hierarchy.answering import EdgeAnswers
from hierarchy.calibration import Calibration
from hierarchy.device import Compute
from hierarchy.edge import front_digest
from hierarchy.runtime.checkpoint import save_checkpoint
from hierarchy.runtime.console import PlainConsole
from hierarchy.runtime.run_folder import CONFIG
from robot_edge.evaluation.saved_run import SavedRun, load_run, saved_settings
from robot_edge.fronts.registry import CURRENT, Registry, Version, Versions
from robot_edge.learning.frame_memory import FrameMemory, FramesState, KeptFrame
from robot_edge.learning.framing import Framing
from robot_edge.learning.settings import AUTOMATIC
from robot_edge.run.checkpoint import LAYOUT, RobotCheckpoint
from robot_edge.run.config import RobotConfig
from robot_edge.run.identity import RUN

# Frames in one pass.
AT_ONCE = 32
# Of a run's settings, those that a front has: which network it is, and how frames become its input.
KEPT = (*AUTOMATIC, "fit", "look", "robot")


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A front that may be let in."""

    folder: Path
    settings: RobotConfig
    run: SavedRun

    @staticmethod
    def of(folder: Path) -> Candidate:
        """Return that of a run's folder, or of a version's. Raises ConfigError."""
        settings = saved_settings(folder)
        return Candidate(folder=folder, settings=settings, run=load_run(settings, folder))


def let_in(folder: Path, front: Path | None, *, most_accuracy_lost: float) -> Version:
    """Let a front be the one in use of a run's folder, and return its version.

    front: of another robot; None for what the run itself has learned. It is judged by the frames that the run held out,
    beside the version in use. Where there is none, another robot's is judged beside what the run itself has learned.

    Raises NothingDone without such frames, ConfigError, StorageError, and SystemExit with status 1 where the front is
    worse by more percentage points.
    """
    registry, own = Registry(folder), Candidate.of(folder)
    new = Candidate.of(front) if front else own
    if (held := new.run.checkpoint.held) and not held.released:
        raise ConfigError(
            f"{new.folder} holds back what its front encodes (--privacy {new.settings.network.privacy}): let the run "
            "go on until an attack finds little enough"
        )
    frames = own.run.held_out
    if not frames:
        raise NothingDone(f"NOTHING WAS LET IN: the run in {folder} held out no frames to judge a front by")
    known = registry.versions()
    current = known.current
    beside = Candidate.of(registry.folder(current)) if current else (own if front else None)
    version = Version(
        number=1 + max((one.number for one in known.versions), default=0),
        origin=new.settings.robot,
        digest=front_digest(new.run.segment.state_dict(), new.run.split),
        classes=list(new.run.segment.exit.head.classes),
        steps=new.run.checkpoint.trainer.learner.steps,
        accuracy=_accuracy(new.run, frames),
        frames=len(frames),
        time=0.0,
    )
    if current and (current.digest, current.steps) == (version.digest, version.steps):
        raise ConfigError(f"{new.folder} is version {current.number} already: nothing was learned since")
    if beside:
        before = _accuracy(beside.run, frames)
        said = f"{version.accuracy:.1%} of {len(frames):,} held-out frames, {before:.1%} with the one in use"
        if 100 * (before - version.accuracy) > most_accuracy_lost:
            console = PlainConsole(stderr=True)
            console.print(f"NOT LET IN: {said}; --most-accuracy-lost is {most_accuracy_lost:g}", soft_wrap=True)
            raise SystemExit(EXIT_MACHINE)
    with registry.adding(version) as target:
        _write(new, target)
    return version


def print_versions(folder: Path, versions: Versions) -> None:
    """Print the versions in a run's folder, and how the next run begins with the one in use."""
    console, current = PlainConsole(), versions.current
    for one in versions.versions:
        state = "in use" if one is current else "rolled back" if one.is_out else ""
        learned = f"{len(one.classes)} classes, {one.steps:,} steps of {one.origin}, front {one.digest}"
        said = f"{one.number}  {one.accuracy:.1%} of {one.frames:,} frames, {learned}  {state}"
        console.print(said.rstrip(), soft_wrap=True, markup=False)
    if current is None:
        console.print(f"no versions in {folder}: `robot-edge fronts publish {folder}`", soft_wrap=True, markup=False)
        return
    link = Registry(folder).path / CURRENT
    console.print(f"The next run begins with it: --weights {link} --run-dir NEW", soft_wrap=True, markup=False)


@torch.inference_mode()
def _accuracy(run: SavedRun, frames: list[KeptFrame]) -> float:
    """Return the share of frames that a run's exit names right."""
    Compute(device=torch.device("cpu")).place(run.segment)
    network, classes = EdgeAnswers(run.segment, run.split, Calibration(), None), run.segment.exit.head.classes
    scaled, right = Framing(size=run.split.image_size).fitted, 0
    for start in range(0, len(frames), AT_ONCE):
        part = frames[start : start + AT_ONCE]
        probabilities, *_ = network(torch.from_numpy(np.stack([scaled(one.image) for one in part])))
        best = probabilities.argmax(1).tolist() if classes else []
        right += sum(classes[index] == one.name for index, one in zip(best, part, strict=False))
    return right / len(frames)


def _write(new: Candidate, target: Path) -> None:
    """Write a front as a run's folder has it, without frames, and without what only that robot needs."""
    settings: dict[str, Any] = {name: one for name, one in new.settings.as_toml().items() if name in KEPT}
    (target / CONFIG).write_text(tomli_w.dumps({**settings, "source": "sim:"}))  # a run has one; this one is nobody's
    if (new.folder / RUN).exists():
        shutil.copyfile(new.folder / RUN, target / RUN)
    save_checkpoint(target / "checkpoint", LAYOUT, without_frames(new.run.checkpoint))


def without_frames(saved: RobotCheckpoint) -> RobotCheckpoint:
    """Return a checkpoint with the network alone. No state of random numbers is left: it tells of the secret seed."""
    learner = replace(saved.trainer.learner, momentum={}, random={})
    batcher = replace(
        saved.batcher,
        jpeg_sizes=[],
        taught=[],
        spared=[],
        names=[],
        positions=[],
        marks=torch.zeros(0, dtype=torch.int64),
        images=None,
    )
    return replace(
        saved,
        trainer=replace(saved.trainer, learner=learner, augmentation={}),
        rehearsal=_no_frames(saved.rehearsal),
        held_out=_no_frames(saved.held_out),
        batcher=batcher,
        edits=0,
        inherited=0,
        position=0,
        teaching=None,
        practice=None,
        held=None,
    )


def _no_frames(state: FramesState) -> FramesState:
    return FrameMemory(0, state.size, 0, exact=state.exact).state()
