"""The networks that can be exported, each with what the run itself says of a frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from broker.wire.quantize import dequantize
from hierarchy.answering import EdgeAnswers, WholeAnswers
from hierarchy.calibration import Calibration, calibrate, softmax
from hierarchy.cloud import CloudSegment
from hierarchy.device import Compute
from hierarchy.edge import run_segment
from hierarchy.rest_file import load_rest
from robot_edge.evaluation.saved_predictor import saved_predictor
from robot_edge.evaluation.saved_run import SavedRun
from robot_edge.export.parity import Said
from robot_edge.sources.frames import Pixels


@dataclass(frozen=True, kw_only=True, eq=False)
class Answering:
    """A network to export. say: what the run says of frames uint8 (N, H, W, 3), each one alone.

    judged_by: what tells the unknown.
    """

    network: nn.Module
    classes: tuple[str, ...]
    calibration: Calibration
    judged_by: str
    say: Callable[[Pixels], Said]


def edge_answering(run: SavedRun, compute: Compute, *, crossing: bool) -> Answering:
    """Return the robot's exit. crossing: and what crosses the cut."""
    predictor = saved_predictor(run, compute)
    novelty, calibration = predictor.novelty, predictor.calibration

    def say(frames: Pixels) -> Said:
        says = [predictor.predict(frame) for frame in frames]
        return Said(names=tuple(one.name for one in says), unknown=tuple(one.unknown for one in says))

    return Answering(
        network=EdgeAnswers(run.segment, run.split, calibration, novelty, crossing=crossing),
        classes=run.segment.exit.head.classes,
        calibration=calibration,
        judged_by="novelty" if novelty else "confidence",
        say=say,
    )


def whole_answering(run: SavedRun, compute: Compute, rest: Path) -> Answering:
    """Return the robot's front with the cloud's half, calibrated on what the run held out.

    Raises ConfigError where the half is another network's.
    """
    cloud = load_rest(rest, run.split)
    cloud.eval()
    classes = cloud.head.classes
    known = [one for one in run.held_out if one.name in classes]
    calibration = Calibration()
    if known:
        logits = _whole_logits(run, cloud, compute, np.stack([one.image for one in known]))
        calibration = calibrate(logits, np.array([classes.index(one.name) for one in known]))

    def say(frames: Pixels) -> Said:
        probabilities = softmax(_whole_logits(run, cloud, compute, frames), calibration.temperature)
        unknown = probabilities.max(axis=1) < calibration.least_confidence
        unknown |= len(classes) < 2
        names = tuple(classes[index] for index in probabilities.argmax(axis=1))
        return Said(names=names, unknown=tuple(unknown.tolist()))

    return Answering(
        network=WholeAnswers(run.segment, run.split, cloud, calibration),
        classes=classes,
        calibration=calibration,
        judged_by="confidence",
        say=say,
    )


@torch.inference_mode()
def _whole_logits(run: SavedRun, cloud: CloudSegment, compute: Compute, frames: Pixels) -> np.ndarray:
    """Return float32 (N, classes): each frame crosses in a message of its own."""
    run.segment.eval()
    found = []
    for frame in frames:
        crossed = run_segment(run.segment, frame[None], bits=run.split.bits, compute=compute).quantized
        found.append(cloud(compute.tensor(dequantize(crossed))).numpy())
    return np.concatenate(found)
