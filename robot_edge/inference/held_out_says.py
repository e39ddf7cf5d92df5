"""What a robot's own exit says of its held-out frames, which an exit of its fleet is tried out on. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from broker.wire.quantize import dequantize
from hierarchy.encoding import Encoding, joined
from hierarchy.head import GrowingHead
from robot_edge.fleet.second_exit import HeldOutSays
from robot_edge.inference.predictor import Predictor

# Frames that an exit is tried out on: behind a cut far from the end each takes nearly a frame's time.
TRIED_FRAMES = 100


def held_out_says(
    predictor: Predictor, head: GrowingHead, names: Sequence[str], encoding: Encoding, *, bits: int
) -> HeldOutSays | None:
    """Return what the own exit says of some of the frames whose classes it knows; None where there are none.

    names, encoding: of all held-out frames. bits: of what crosses.
    """
    known = [row for row, name in enumerate(names) if name in head.classes]
    rows = known[:: -(-len(known) // TRIED_FRAMES)] if known else []
    if not rows:
        return None
    frames = [encoding[row : row + 1] for row in rows]
    return HeldOutSays(
        names=[names[row] for row in rows],
        # Each by itself, as it is seen: frames that cross together share their ranges.
        crossed=np.concatenate([dequantize(one.quantized(bits)) for one in frames]),
        own=predictor.said_of(head, joined(frames)),
    )
