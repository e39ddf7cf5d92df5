"""`robot-edge export`: a run's network as a file that other runtimes run, written where it says what the run says."""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from broker.errors import EXIT_MACHINE, ConfigError, NothingDone
from broker.program.version import program_version
from hierarchy.device import Compute, set_threads
from hierarchy.runtime.console import PlainConsole
from hierarchy.weights_file import weights_digest
from robot_edge.evaluation.saved_run import SavedRun, load_run, saved_settings
from robot_edge.export.compared import Answering, edge_answering, whole_answering
from robot_edge.export.config import ExportConfig
from robot_edge.export.formats import ANSWERS, CROSSING, INPUT, Runner, exported, int8, runner
from robot_edge.export.parity import MOST_DIFFERENT, Said, said_by, seconds_a_frame, share_different
from robot_edge.export.table import Row, print_export
from robot_edge.export.written import write_together
from robot_edge.learning.frame_memory import frames_in
from robot_edge.learning.framing import Framing
from robot_edge.run.config import RobotConfig
from robot_edge.run.kept_look import framing_of
from robot_edge.sources.frames import Pixels
from robot_edge.sources.opening import open_source
from robot_edge.sources.passwords import masked
from robot_edge.sources.settings import SourceOptions

# Layout of the metadata.
VERSION = 1
# Frames that int8's ranges are taken from.
CALIBRATION_FRAMES = 200

log = logging.getLogger("robot-edge")


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledFrames:
    """images: uint8 (N, size, size, 3), as the network sees them. origin: where they come from, for people."""

    images: Pixels
    labels: tuple[str, ...]
    origin: str


def export(config: ExportConfig) -> None:
    """Write a run's network, and print how it compares with the run.

    Raises ConfigError, SourceError, NothingDone where there are no frames to compare on, StorageError for a full disk,
    and SystemExit with status 1, nothing written, where it answers otherwise than the run.
    """
    folder = Path(config.run)
    set_threads(config.threads)
    settings = saved_settings(folder)
    run = load_run(settings, folder)
    if not run.segment.exit.head.classes:
        raise NothingDone(f"NOTHING WAS EXPORTED: the run in {folder} learned no class")
    framing = framing_of(folder, settings.network)
    frames = _frames(config, run, framing)
    answering = _answering(config, run)
    outputs = (*ANSWERS, CROSSING) if config.part == "edge" else ANSWERS
    metadata = _metadata(config, settings, run, answering, framing, outputs)
    model = exported(answering.network, config.format, frames.images[:2], outputs, json.dumps(metadata))
    if config.precision == "int8":
        model = int8(model, _to_calibrate(run, frames), json.dumps(metadata))
    runs = runner(config.format, model, config.threads)
    here, there = answering.say(frames.images), said_by(runs, frames.images, answering.classes)
    rows = _rows(config, answering, frames, model, runs, (here, there))
    problem = _problem(config, here, there, frames, answering.classes)
    if not problem:
        about = {**metadata, "file": config.path.name, "sha256": hashlib.sha256(model).hexdigest()}
        text = json.dumps(about, indent=2) + "\n"
        write_together({config.path: model, config.path.with_name(config.path.name + ".json"): text.encode()})
    different = share_different(here, there)
    print_export(rows, different, frames.origin, len(frames.labels), "" if problem else str(config.path))
    if problem:
        PlainConsole(stderr=True).print(f"NOTHING IS WRITTEN: {problem}", soft_wrap=True, markup=False)
        raise SystemExit(EXIT_MACHINE)


def _answering(config: ExportConfig, run: SavedRun) -> Answering:
    compute = Compute(device=torch.device("cpu"))
    compute.place(run.segment)
    if config.rest:
        return whole_answering(run, compute, Path(config.rest))
    return edge_answering(run, compute, crossing=config.part == "edge")


def _frames(config: ExportConfig, run: SavedRun, framing: Framing) -> LabelledFrames:
    """Return the frames to compare on: of --source, or those that the run held out."""
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


def _to_calibrate(run: SavedRun, frames: LabelledFrames) -> Pixels:
    """Return frames that the run was taught; where it keeps none, those that it is compared on."""
    taught = [one.image for one in islice(frames_in(run.checkpoint.rehearsal), CALIBRATION_FRAMES)]
    return np.stack(taught) if taught else frames.images[:CALIBRATION_FRAMES]


def _metadata(
    config: ExportConfig,
    settings: RobotConfig,
    run: SavedRun,
    answering: Answering,
    framing: Framing,
    outputs: tuple[str, ...],
) -> dict[str, Any]:
    spec, split = run.segment.spec, run.split
    return {
        "version": VERSION,
        "made_by": program_version(),
        "robot": settings.robot,
        "part": config.part,
        "precision": config.precision,
        "classes": list(answering.classes),
        "temperature": answering.calibration.temperature,
        "least_confidence": answering.calibration.least_confidence,
        "unknown_by": answering.judged_by,
        "input": {
            "name": INPUT,
            "type": "uint8, RGB",
            "shape": ["N", framing.size, framing.size, 3],
            "size": framing.size,
            "fit": framing.fit,
            "crop": framing.crop,
            "interpolation": framing.interpolation,
            "region": str(framing.region),
            "mean": list(spec.mean),
            "deviation": list(spec.deviation),
        },
        "outputs": list(outputs),
        "network": {
            "backbone": split.backbone,
            "cut": split.cut,
            "bits": split.bits,
            "crossing": list(split.shape),
            "split": split.fingerprint,
            "steps": run.checkpoint.trainer.learner.steps,
            "digest": weights_digest(answering.network),
        },
    }


def _rows(
    config: ExportConfig,
    answering: Answering,
    frames: LabelledFrames,
    model: bytes,
    runs: Runner,
    said: tuple[Said, Said],
) -> list[Row]:
    @torch.inference_mode()
    def in_pytorch(images: Pixels) -> object:
        return answering.network(torch.from_numpy(images))

    weights = sum(one.nbytes for one in answering.network.state_dict().values())
    names = ("PyTorch, float32", f"{config.format}, {config.precision}")
    sizes, calls = (weights, len(model)), (in_pytorch, runs)
    return [
        Row(
            name=name,
            megabytes=size / 1e6,
            milliseconds=1e3 * seconds_a_frame(call, frames.images),
            accuracy=one.accuracy(frames.labels, answering.classes),
        )
        for name, size, call, one in zip(names, sizes, calls, said, strict=True)
    ]


def _problem(config: ExportConfig, here: Said, there: Said, frames: LabelledFrames, classes: tuple[str, ...]) -> str:
    """Say why a file may not be used in the run's place; empty where it may."""
    if config.precision == "fp32":
        different = share_different(here, there)
        allowed = f"{MOST_DIFFERENT:.1%} may differ"
        return f"{different:.2%} of its answers are not the run's, {allowed}" if different > MOST_DIFFERENT else ""
    before, after = (one.accuracy(frames.labels, classes) for one in (here, there))
    if before is None or after is None:
        raise ConfigError(f"int8 is judged by accuracy: no frame of {frames.origin} shows a class that the run knows")
    lost = 100 * (before - after)
    if lost <= config.most_accuracy_lost:
        return ""
    return f"int8 loses {lost:.1f} points of accuracy, --most-accuracy-lost is {config.most_accuracy_lost:g}"
