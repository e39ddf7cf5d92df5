"""How fast a divided network would train, from what its parts cost: the method's runtime model. Pure.

One batch after the other, as in the paper: the robot's forward pass, then the slower of its backward pass and what the
cloud has to wait for and do. In a pipeline, as here: the slowest of the robot's step, the link and the cloud's step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict

from broker.errors import ConfigError

Stage = Literal["robot", "link", "cloud"]

# Plans within this of the fastest are as fast: no measurement here is better. Of those the best sends least.
AS_FAST = 0.97


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a cut with a bottleneck costs. All are for one fresh image, rehearsal included.

    forward, step: seconds of the robot's forward pass, and of its whole training
    step. cloud: seconds of the cloud's. sent: bytes that go up, by bits. codes: bytes of them before compression, by
    bits, of one activation. memory: bytes on the robot. pool: as in `--pool`.
    """

    cut: str
    bottleneck: int
    forward: float
    step: float
    cloud: float
    sent: Mapping[int, float]
    codes: Mapping[int, int]
    memory: int
    pool: int = 0


@dataclass(frozen=True, kw_only=True)
class Option:
    """A way to divide, and what comes of it.

    sent, codes: bytes an image, as they go up, and before compression. memory: bytes on the robot. serial, pipelined:
    images a second. limit: the stage that all others wait for in a pipeline.
    """

    cut: str
    bottleneck: int
    bits: int
    sent: float
    codes: int
    memory: int
    serial: float
    pipelined: float
    limit: Stage
    pool: int = 0


class Bounds(TypedDict):
    """most_memory: bytes on the robot, 0 for no bound. least_codes: bytes an image, before compression."""

    most_memory: float
    least_codes: float


def options(costs: Iterable[Cost], goodput: float) -> list[Option]:
    """Return every cut, bottleneck and number of bits, the fastest first. goodput: bytes a second."""
    found = [_option(cost, bits, goodput) for cost in costs for bits in cost.sent]
    return sorted(found, key=lambda one: (-one.pipelined, -one.codes))


def _option(cost: Cost, bits: int, goodput: float) -> Option:
    upload = cost.sent[bits] / goodput
    stages: dict[Stage, float] = {"robot": cost.step, "link": upload, "cloud": cost.cloud}
    limit = max(stages, key=lambda stage: stages[stage])
    return Option(
        cut=cost.cut,
        bottleneck=cost.bottleneck,
        bits=bits,
        sent=cost.sent[bits],
        codes=cost.codes[bits],
        memory=cost.memory,
        serial=1 / (cost.forward + max(cost.step - cost.forward, upload + cost.cloud)),
        pipelined=1 / stages[limit],
        limit=limit,
        pool=cost.pool,
    )


def fits(option: Option, *, most_memory: float, least_codes: float) -> bool:
    """Whether an option keeps to the bounds. most_memory: bytes, 0 for none. least_codes: bytes an image."""
    return option.codes >= least_codes and (not most_memory or option.memory <= most_memory)


def choose(found: list[Option], *, most_memory: float, least_codes: float) -> Option:
    """Return the fastest option within the bounds; of those about as fast, the one that spares the link most.

    Raises ConfigError where there is none.
    """
    if not found:
        raise ConfigError("one sample of any of these cuts is too large for a message: try later ones (--cuts)")
    fitting = [one for one in found if fits(one, most_memory=most_memory, least_codes=least_codes)]
    if not fitting:
        raise ConfigError(f"no cut keeps to the bounds: {_too_much(found, most_memory, least_codes)}")
    fastest = max(one.pipelined for one in fitting)
    return min((one for one in fitting if one.pipelined >= AS_FAST * fastest), key=lambda one: (one.sent, one.memory))


def _too_much(found: list[Option], most_memory: float, least_codes: float) -> str:
    """Return which bound nothing keeps to, and what would; where each has something, what keeps to the other."""
    small = [one for one in found if fits(one, most_memory=most_memory, least_codes=0)]
    large = [one for one in found if fits(one, most_memory=0, least_codes=least_codes)]
    memory = min(one.memory for one in large or found)
    if small and not large:
        return f"{max(one.codes for one in found):,} bytes an image are the most to send (--least-share)"
    wanted = f" where {least_codes:,.0f} bytes of an image are sent (--least-share)" if small else ""
    return f"training takes {memory / 1e6:.1f} MB at least{wanted} (--most-memory-mb)"
