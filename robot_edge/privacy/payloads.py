"""What a robot sent, out of a trainer's store, beside the frames of the run's memory that it was made of."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np

from broker.errors import ConfigError, MalformedMessage
from broker.program.machine import refused
from broker.wire.codec import unpack_as
from broker.wire.messages import ActivationBatch
from broker.wire.quantize import dequantize, unpack_activations
from hierarchy.attack.pairs import Pairs, Values, shrunk
from robot_edge.evaluation.saved_run import SavedRun
from robot_edge.learning.frame_memory import frames_in
from robot_edge.privacy.config import LEAST_ATTACKED
from robot_edge.privacy.wire import Wire

BATCHES = "SELECT payload FROM events WHERE robot = ? AND kind = 'batch' ORDER BY id"
# Sent frames that are attacked at most.
MOST_FRAMES = 1000


def sent_frames(store: Path, robot: str, run: SavedRun, wire: Wire, *, side: int) -> tuple[Pairs, Values]:
    """Return what the robot sent of frames that it still remembers, and what the segment makes of these now.

    A frame was sent several times, in training also shifted and mirrored: the payload counts that is most like what the
    frame is encoded to as it is. side: of pictures at most. Raises ConfigError where fewer than LEAST_ATTACKED are
    there.
    """
    frames = {one.sample: one.image for one in frames_in(run.checkpoint.rehearsal) if one.sample}
    if not frames:
        raise ConfigError(
            f"--payloads tells sent frames by those that a run remembers, and the run {robot!r} remembers none: a "
            "shuffled folder is learned without rehearsal. Begin the next run with --rehearse 1"
        )
    chosen = dict(list(frames.items())[-MOST_FRAMES:])
    images = np.stack(list(chosen.values()))
    parts = [wire.crossed(images[start : start + wire.batch])[0] for start in range(0, len(images), wire.batch)]
    now = dict(zip(chosen, np.concatenate(parts), strict=True))
    nearest: dict[int, tuple[float, Values]] = {}
    for batch in _batches(store, robot):
        if batch.split != run.split.fingerprint:
            continue
        wanted = [place for place, sample in enumerate(batch.samples.tolist()) if sample in now]
        if not wanted:
            continue
        values = dequantize(unpack_activations(batch.activations))
        for place in wanted:
            sample = int(batch.samples[place])
            distance = float(np.square(values[place] - now[sample]).sum())
            if sample not in nearest or distance < nearest[sample][0]:
                nearest[sample] = distance, values[place].copy()
    if len(nearest) < LEAST_ATTACKED:
        raise ConfigError(
            f"--payloads {store} has activations of {len(nearest):,} frames that the run {robot!r} remembers at this "
            f"split; an audit needs {LEAST_ATTACKED}: name the store.db of the trainer that this run sent to"
        )
    pictures = shrunk(np.stack([chosen[sample] for sample in nearest]), side)
    sent = Pairs(values=np.stack([values for _, values in nearest.values()]), pictures=pictures)
    return sent, np.stack([now[sample] for sample in nearest])


def _batches(store: Path, robot: str) -> Iterator[ActivationBatch]:
    """Yield what a robot sent. Raises ConfigError where that is no trainer's store; it is only read."""
    try:
        with closing(sqlite3.connect(f"{store.absolute().as_uri()}?mode=ro", uri=True)) as database:
            for (payload,) in database.execute(BATCHES, (robot,)):
                with suppress(MalformedMessage):  # of another version
                    yield unpack_as(ActivationBatch, bytes(payload))
    except sqlite3.Error as error:
        raise refused(f"--payloads {store} cannot be read as a trainer's store.db", error, path=store) from error
