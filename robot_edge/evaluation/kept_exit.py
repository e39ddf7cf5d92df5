"""The exit of its fleet that a run took: tried out as the robot itself would. It reads the run folder only."""

from __future__ import annotations

import logging
from pathlib import Path

from broker.errors import MalformedMessage
from hierarchy.device import Compute
from hierarchy.edge import front_digest
from hierarchy.runtime.disk import DiskWatch
from robot_edge.evaluation.saved_run import SavedRun
from robot_edge.fleet.exits import FleetStatus
from robot_edge.fleet.fetching import unpacked
from robot_edge.fleet.kept_exits import KeptExits, Use
from robot_edge.fleet.second_exit import SecondExit, tried_out
from robot_edge.inference.held_out_says import held_out_says
from robot_edge.inference.predictor import Predictor
from robot_edge.learning.frame_memory import encodings_in
from robot_edge.run.config import WhichExit
from robot_edge.run.perception import exit_place

log = logging.getLogger("robot-edge")


def take_kept_exit(
    folder: Path, fleet: str, loaded: SavedRun, predictor: Predictor, compute: Compute, which: WhichExit
) -> FleetStatus | None:
    """Let a predictor answer with the exit that a robot of this run would answer with, and return what there is to say.

    folder, fleet: of the run. predictor: calibrated. None where the run is of no fleet, or no exit would fit. Raises
    ConfigError where the run's choices are damaged.
    """
    segment, split = loaded.segment, loaded.split
    layout = segment.encoding
    if not fleet or layout is None:
        return None
    fitting = exit_place(fleet, front_digest(segment.state_dict(), split), split, segment, compute)
    if fitting is None:
        return None
    place, encoder = fitting
    kept = KeptExits(folder, DiskWatch(log, folder))
    choices, whole = kept.choices(run=""), kept.whole()
    use: Use = choices.use if which == "chosen" else which
    own, version, refusal, second = segment.exit.head.classes, 0, "", None
    if whole:
        try:
            rows, version = unpacked(whole, place), whole.manifest.version
        except MalformedMessage as error:
            log.warning("the fleet's exit version %s is not taken: %s", whole.manifest.version, error)
        else:
            changes = choices.changes.without(version, rows.classes, own)
            second = SecondExit(whole.manifest, rows, encode=encoder.encode, changes=changes, own=own)
    if second and use == "fleet":
        names, encoding = encodings_in(loaded.checkpoint.held_out, layout)
        says = held_out_says(predictor, segment.exit.head, names, encoding, bits=split.bits)
        second, refusal = tried_out(second, own, says)
        predictor.second = None if refusal else second
    in_use = predictor.second
    return FleetStatus(
        fleet=fleet,
        version=version,
        coming=0,
        classes=len(in_use.classes) if in_use else 0,
        elsewhere=len(in_use.elsewhere) if in_use else 0,
        refusal=refusal,
        use=use,
    )
