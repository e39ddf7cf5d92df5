"""`robot-edge export`: a run's network as a file that other runtimes run, written where it says what the run says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

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
from robot_edge.export.frames import LabelledFrames, frames_to_compare_on, taught_frames, with_held_out_source
from robot_edge.export.parity import MOST_DIFFERENT, Said, said_by, seconds_a_frame, share_different
from robot_edge.export.table import Row, print_export
from robot_edge.export.written import write_together
from robot_edge.learning.framing import Framing
from robot_edge.run.config import RobotConfig
from robot_edge.run.kept_look import framing_of
from robot_edge.sources.frames import Pixels

# Layout of the metadata.
VERSION = 1


def export(config: ExportConfig) -> None:
    """Write a run's network, and print how it compares with the run.

    Raises ConfigError, SourceError, NothingDone where there are no frames to compare on, StorageError for a full disk,
    and SystemExit with status 1, nothing written, where it answers otherwise than the run.
    """
    folder = Path(config.run)
    set_threads(config.threads)
    settings = saved_settings(folder)
    run = with_held_out_source(load_run(settings, folder), settings, folder)
    if not run.segment.exit.head.classes:
        raise NothingDone(f"NOTHING WAS EXPORTED: the run in {folder} learned no class")
    framing = framing_of(folder, settings.network)
    frames = frames_to_compare_on(config, run, framing)
    answering = _answering(config, run)
    outputs = (*ANSWERS, CROSSING) if config.part == "edge" else ANSWERS
    metadata = _metadata(config, settings, run, answering, framing, outputs)
    model = exported(answering.network, config.format, frames.images[:2], outputs, json.dumps(metadata))
    if config.precision == "int8":
        model = int8(model, taught_frames(run, frames), json.dumps(metadata))
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
