"""What predicts as a saved run does."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from hierarchy.device import Compute
from hierarchy.edge import still_encoder
from robot_edge.evaluation.saved_run import SavedRun
from robot_edge.inference.predictor import Predictor
from robot_edge.learning.frame_memory import encodings_in

log = logging.getLogger("robot-edge")


def saved_predictor(loaded: SavedRun, compute: Compute) -> Predictor:
    """Return what predicts as the run does, calibrated on the frames that it set apart.

    Where its network stands still, it judges by what the run remembers, too. compute: in which the segment is placed.
    """
    segment, saved, bits = loaded.segment, loaded.checkpoint, loaded.split.bits
    layout = segment.encoding
    encode = still_encoder(segment, compute) if layout else None
    predictor = Predictor(segment, bits=bits, compute=compute, encode=encode)
    if layout:
        names, encoding = encodings_in(saved.rehearsal, replace(layout, crossing=()))
        predictor.remember(encoding, names)
    if held_out := loaded.held_out:
        predictor.calibrate(segment, np.stack([one.image for one in held_out]), [one.name for one in held_out])
    else:
        log.warning("not calibrated: the run set no frames apart")
    return predictor
