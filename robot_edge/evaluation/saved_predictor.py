"""What predicts as a saved run does."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from broker.wire.messages import SplitSpec
from hierarchy.device import Compute
from hierarchy.edge import EdgeSegment, still_encoder
from robot_edge.evaluation.saved_run import SavedRun
from robot_edge.inference.predictor import Predictor
from robot_edge.learning.frame_memory import encodings_in
from robot_edge.run.checkpoint import RobotCheckpoint

log = logging.getLogger("robot-edge")


def saved_predictor(loaded: SavedRun, compute: Compute) -> Predictor:
    """Return what predicts as the run does, calibrated on the frames that it set apart.

    compute: in which its segment is placed.
    """
    predictor = remembering_predictor(loaded.segment, loaded.split, compute, loaded.checkpoint)
    if held_out := loaded.held_out:
        images, names = np.stack([one.image for one in held_out]), [one.name for one in held_out]
        predictor.calibrate(loaded.segment, images, names)
    else:
        log.warning("not calibrated: the run set no frames apart")
    return predictor


def remembering_predictor(
    segment: EdgeSegment, split: SplitSpec, compute: Compute, saved: RobotCheckpoint
) -> Predictor:
    """Return what predicts with a run's segment; where that stands still, by what the run remembers, too."""
    layout = segment.encoding
    if layout is None:
        return Predictor(segment, bits=split.bits, compute=compute)
    predictor = Predictor(segment, bits=split.bits, compute=compute, encode=still_encoder(segment, compute))
    names, encoding = encodings_in(saved.rehearsal, replace(layout, crossing=()))
    predictor.remember(encoding, names)
    return predictor
