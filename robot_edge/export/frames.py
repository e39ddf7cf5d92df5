"""The frames that an export is compared on, and those that it is calibrated with."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from broker.errors import NothingDone, SourceError
from hierarchy.runtime.run_folder import former_settings
from robot_edge.evaluation.saved_run import SavedRun
from robot_edge.export.config import ExportConfig
from robot_edge.learning.frame_memory import KeptFrame, frames_in
from robot_edge.learning.framing import Framing
from robot_edge.learning.held_out import HELD_OUT_FRAMES, open_held_out
from robot_edge.run.config import RobotConfig
from robot_edge.run.kept_look import framing_of
from robot_edge.sources.frames import Pixels
from robot_edge.sources.opening import open_source
from robot_edge.sources.passwords import masked
from robot_edge.sources.settings import SourceOptions

# Frames that int8's ranges are taken from.
CALIBRATION_FRAMES = 200

log = logging.getLogger("robot-edge")


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledFrames:
    """images: uint8 (N, size, size, 3), as the network sees them. origin: where they come from, for people."""

    images: Pixels
    labels: tuple[str, ...]
    origin: str


def with_held_out_source(run: SavedRun, settings: RobotConfig, folder: Path) -> SavedRun:
    """Return a run with the frames of its --held-out, which it was calibrated on, where it set none apart itself."""
    former = former_settings(folder) or {}
    if run.held_out or not former.get("held_out"):
        return run
    named = {name: former[name] for name in former if name.startswith("held_out") and name != "held_out_every"}
    framing = framing_of(folder, settings.network)
    try:
        source = open_held_out(replace(settings.source, **named), framing.size, settings.open_seed, ())
    except SourceError as error:
        log.warning("the run was tested on %s, which is not there: %s", former["held_out"], error)
        return run
    kept = list[KeptFrame]()
    with closing(source):
        while len(kept) < HELD_OUT_FRAMES and (frame := source.next()) is not None:
            if frame.label is not None:
                kept.append(KeptFrame(frame.label, framing.input(frame.image), 0))
    return replace(run, held_out=kept)


def frames_to_compare_on(config: ExportConfig, run: SavedRun, framing: Framing) -> LabelledFrames:
    """Return the frames to compare on: of --source, or those that the run held out.

    Raises SourceError, and NothingDone where there are none.
    """
    most = config.images or None
    if config.source:
        found = _of_source(config, framing)
        origin = masked(config.source)
    else:
        found = [(one.image, one.name) for one in islice(run.held_out, most)]
        origin = "held out by the run"
    if len(found) < 2:
        raise NothingDone(
            f"NOTHING WAS EXPORTED: there are {len(found)} frames to compare on ({origin}); name labelled ones that "
            "the run was not taught, --source folder:PATH"
        )
    images, labels = zip(*found, strict=True)
    return LabelledFrames(images=np.stack(images), labels=labels, origin=origin)


def _of_source(config: ExportConfig, framing: Framing) -> list[tuple[Pixels, str]]:
    found = list[tuple[Pixels, str]]()
    options = SourceOptions(labels=config.labels)
    source = open_source(
        config.source, options, image_size=framing.size, images=config.images, seed=0, needs_labels=True
    )
    with closing(source):
        while (frame := source.next()) is not None:
            if frame.label is not None:
                found.append((framing.input(frame.image), frame.label))
    return found


def taught_frames(run: SavedRun, frames: LabelledFrames) -> Pixels:
    """Return frames that the run was taught; where it keeps none, those that it is compared on."""
    taught = [one.image for one in islice(frames_in(run.checkpoint.rehearsal), CALIBRATION_FRAMES)]
    return np.stack(taught) if taught else frames.images[:CALIBRATION_FRAMES]
