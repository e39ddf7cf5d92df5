"""What whole training steps took, as the cost of one fresh image, for every bottleneck. Pure."""

from __future__ import annotations

import dataclasses

from broker.errors import PayloadTooLarge
from broker.wire.activations import BATCH_OVERHEAD_BYTES, SAMPLE_BYTES, samples_per_message
from broker.wire.bounds import SEND_LIMIT_BYTES
from broker.wire.messages import ProbeResult, SplitSpec
from broker.wire.quantize import packed_size
from robot_edge.planning.edge_timing import MIN_BITS, EdgeCost, SplitCandidate
from robot_edge.planning.runtime_model import Cost
from robot_edge.run.config import RobotConfig

BOTTLENECKS = (64, 32, 16, 8)


def costs(
    config: RobotConfig, candidate: SplitCandidate, split: SplitSpec, edge: EdgeCost, cloud: ProbeResult
) -> list[Cost]:
    """Return what a way to divide costs; where it has a bottleneck, also with others, which only send another amount.

    split: as it was measured.
    """
    if config.network.stands_still or config.network.privacy != "off":
        return [_cost(config, candidate, split, edge, cloud)]
    widths = [one for one in BOTTLENECKS if one < candidate.channels] if candidate.bottleneck else [candidate.channels]
    splits = [dataclasses.replace(split, shape=(width, *split.shape[1:])) for width in widths]
    return [_cost(config, candidate, one, edge, cloud) for one in splits]


def _cost(config: RobotConfig, candidate: SplitCandidate, split: SplitSpec, edge: EdgeCost, cloud: ProbeResult) -> Cost:
    # Rehearsed images come along at both ends, and go up again.
    fresh, each = config.fresh_per_batch, 1 + config.rehearsed_per_fresh
    numbers = [candidate.bits] if candidate.bits else [bits for bits in edge.compressed if bits >= MIN_BITS]
    codes = {bits: packed_size(split.values, bits) for bits in numbers if _goes_up(split, bits)}
    sent = {}
    for bits, size in codes.items():
        messages = -(-fresh * size // SEND_LIMIT_BYTES)
        overhead = SAMPLE_BYTES + messages * (BATCH_OVERHEAD_BYTES + 8 * split.shape[0]) / fresh
        sent[bits] = (edge.compressed[bits] * size + overhead) * (each if config.learning.encode_anew else 1)
    return Cost(
        cut=candidate.cut,
        bottleneck=split.shape[0] if candidate.bottleneck else 0,
        forward=edge.forward / fresh,
        step=edge.step / fresh,
        cloud=cloud.seconds / cloud.samples * each,
        sent=sent,
        codes=codes,
        memory=edge.memory,
        pool=candidate.pool,
    )


def _goes_up(split: SplitSpec, bits: int) -> bool:
    """Whether one sample of so many bits fits a message: a run refuses what does not."""
    try:
        samples_per_message(dataclasses.replace(split, bits=bits), classes=1)
    except PayloadTooLarge:
        return False
    return True
