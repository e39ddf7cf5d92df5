"""How fast a divided network would train, from what its parts cost: the method's runtime model. Pure.

One batch after the other, as in the paper: the robot's forward pass, then the slower of its backward pass and what the
cloud has to wait for and do. In a pipeline, as here: the slowest of the robot's step, the link and the cloud's step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

from broker.errors import ConfigError

if TYPE_CHECKING:
    from robot_edge.learning.settings import Privacy

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
    images a second. limit: the stage that all others wait for in a pipeline. leak, found: structural similarity of a
    frame and what a quick attack makes of its activation, and the share of frames that are found by it; None where
    nothing was attacked.
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
    leak: float | None = None
    found: float | None = None


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


def best_of_each(found: list[Option], *, most_memory: float, least_codes: float) -> list[Option]:
    """Return the best option of each cut and bottleneck that has one within the bounds, the fastest first.

    That is the one with the fewest bits, which leaks least: no other could be chosen.
    """
    fitting: dict[tuple[str, int, int], list[Option]] = {}
    for one in found:
        if fits(one, most_memory=most_memory, least_codes=least_codes):
            fitting.setdefault((one.cut, one.bottleneck, one.pool), []).append(one)
    return [choose(its, most_memory=most_memory, least_codes=least_codes) for its in fitting.values()]


def tells_little(option: Option, most_leak: float) -> bool:
    """Whether an attack found at most that. most_leak: structural similarity; 0 for no bound. Unknown is too much."""
    return not most_leak or most_leak == 1 or (option.leak is not None and option.leak <= most_leak)


def leaks_too_much(found: list[Option], most_leak: float, *, privacy: Privacy) -> str:
    """Return that each option leaks more than that, which one leaks least, and what would help."""
    known = [(one.leak, one) for one in found if one.leak is not None]
    if not known:
        return f"nothing that may cross could be attacked (--most-leak {most_leak:g}): try later --cuts"
    leak, one = min(known, key=lambda each: each[0])
    channels = f"{one.bottleneck or 'all'} channels"
    stronger: dict[Privacy, str] = {"off": "low, medium or high", "low": "medium or high", "medium": "high", "high": ""}
    helps = f"--privacy {stronger[privacy]}" if stronger[privacy] else "fewer channels (--bottleneck) or bits (--bits)"
    share = ", a lower --least-share (fewer channels and bits)" if privacy == "off" else ""
    return (
        f"all that may cross leaks more than --most-leak {most_leak:g}: least do {channels} at {one.bits} bits behind "
        f"{one.cut}, {leak:.2f}. What helps: {helps}{share}, or later --cuts"
    )


def _too_much(found: list[Option], most_memory: float, least_codes: float) -> str:
    """Return which bound nothing keeps to, and what would; where each has something, what keeps to the other."""
    small = [one for one in found if fits(one, most_memory=most_memory, least_codes=0)]
    large = [one for one in found if fits(one, most_memory=0, least_codes=least_codes)]
    memory = min(one.memory for one in large or found)
    if small and not large:
        return f"{max(one.codes for one in found):,} bytes an image are the most to send (--least-share)"
    wanted = f" where {least_codes:,.0f} bytes of an image are sent (--least-share)" if small else ""
    return f"training takes {memory / 1e6:.1f} MB at least{wanted} (--most-memory-mb)"
