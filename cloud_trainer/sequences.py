"""Which messages of a robot have come, as ranges of their sequences. Pure."""

from __future__ import annotations

from itertools import pairwise

# Of sequences of a boot, from the first to the last.
Range = tuple[str, int, int]


def join_ranges(ranges: list[Range], most: int) -> list[Range]:
    """Join ranges (boot, first, last) that touch; where more than ``most`` are left, also the closest of one boot."""
    joined: list[Range] = []
    for boot, first, last in sorted(ranges):
        if joined and joined[-1][0] == boot and first <= joined[-1][2] + 1:
            joined[-1] = (boot, joined[-1][1], max(last, joined[-1][2]))
        else:
            joined.append((boot, first, last))
    excess = len(joined) - most
    if excess <= 0:
        return joined
    gaps = sorted(
        (after[1] - before[2], index) for index, (before, after) in enumerate(pairwise(joined)) if before[0] == after[0]
    )
    closed = {index for _, index in gaps[:excess]}
    bridged: list[Range] = []
    for index, (boot, first, last) in enumerate(joined):
        if index - 1 in closed:
            bridged[-1] = (boot, bridged[-1][1], last)
        else:
            bridged.append((boot, first, last))
    return bridged[-most:]  # a peer with that many boots is no robot
