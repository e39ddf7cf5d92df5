from __future__ import annotations

import re
from dataclasses import replace

import pytest

from broker.errors import ConfigError
from robot_edge.planning.runtime_model import (
    Cost,
    best_of_each,
    choose,
    leaks_too_much,
    options,
    tells_little,
)

NO_BOUNDS = {"most_memory": 0.0, "least_codes": 0.0}


def cost(cut: str = "layer2", **changes: object) -> Cost:
    """A step of 4 ms of which 1 ms is forward, 2 ms in the cloud, 500 or 1,000 bytes."""
    settings = {
        "cut": cut,
        "bottleneck": 0,
        "forward": 0.001,
        "step": 0.004,
        "cloud": 0.002,
        "sent": {2: 500.0, 4: 1000.0},
        "codes": {2: 600, 4: 1200},
        "memory": 10_000_000,
    }
    return Cost(**settings | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("goodput", "limit", "pipelined", "serial"),
    [
        # At 2 bits the upload takes 0.5 ms: 1 + max(3, 2.5) ms one by one.
        (1e6, "robot", 250, 250),
        # 5 ms: 1 + max(3, 7).
        (1e5, "link", 200, 125),
    ],
)
def test_a_pipeline_is_as_fast_as_its_slowest_stage(
    goodput: float, limit: str, pipelined: float, serial: float
) -> None:
    two_bits = next(one for one in options([cost()], goodput) if one.bits == 2)
    assert two_bits.limit == limit
    assert two_bits.pipelined == pytest.approx(pipelined)
    assert two_bits.serial == pytest.approx(serial)


def test_the_cloud_may_be_the_slowest() -> None:
    slow = options([cost(cloud=0.02)], 1e6)[0]
    assert slow.limit == "cloud"
    assert slow.pipelined == pytest.approx(50)


def test_the_fastest_comes_first_and_is_chosen() -> None:
    found = options([cost("slow", step=0.01), cost("fast"), cost("slower", step=0.02)], 1e6)
    assert [one.cut for one in found] == ["fast", "fast", "slow", "slow", "slower", "slower"]
    assert choose(found, **NO_BOUNDS).cut == "fast"


def test_of_those_as_fast_the_one_that_sends_least_is_chosen() -> None:
    found = options([cost("a"), cost("b", step=0.00405, sent={2: 400.0}, codes={2: 600})], 1e6)
    assert choose(found, **NO_BOUNDS).cut == "b"
    found = options([cost("a"), cost("b", step=0.0045, sent={2: 400.0}, codes={2: 600})], 1e6)
    assert (choose(found, **NO_BOUNDS).cut, choose(found, **NO_BOUNDS).bits) == ("a", 2)


def test_what_breaks_a_bound_is_not_chosen() -> None:
    found = options([cost("large", memory=50_000_000), cost("small", step=0.02, memory=5_000_000)], 1e6)
    assert choose(found, most_memory=10e6, least_codes=0).cut == "small"
    assert choose(found, most_memory=0, least_codes=1000).bits == 4
    with pytest.raises(ConfigError, match=r"bounds: training takes 5.0 MB at least \(--most-memory-mb\)$"):
        choose(found, most_memory=1e6, least_codes=0)
    with pytest.raises(ConfigError, match=r"bounds: 1,200 bytes an image are the most to send \(--least-share\)$"):
        choose(found, most_memory=10e6, least_codes=2000)
    both = options([cost("large", memory=50_000_000, codes={2: 2400, 4: 4800}), cost("small", memory=5_000_000)], 1e6)
    with pytest.raises(ConfigError, match=r"takes 50.0 MB at least where 2,000 bytes of an image are sent"):
        choose(both, most_memory=10e6, least_codes=2000)


def test_the_option_of_a_cut_that_is_attacked_is_the_one_that_sends_least() -> None:
    found = options([cost("slow", step=0.01), cost("fast"), cost("fast", bottleneck=8, codes={2: 100, 4: 1200})], 1e6)
    rows = best_of_each(found, most_memory=0, least_codes=500)
    assert {(one.cut, one.bottleneck, one.bits) for one in rows} == {("fast", 0, 2), ("fast", 8, 4), ("slow", 0, 2)}


def test_what_leaks_more_than_allowed_or_unknown_is_too_much() -> None:
    one = options([cost()], 1e6)[0]
    leaks = [None, 0.3, 0.4]
    attacked = [replace(one, leak=leak, bits=bits) for bits, leak in zip((2, 3, 4), leaks, strict=True)]
    assert [tells_little(one, 0.35) for one in attacked] == [False, True, False]
    assert all(tells_little(one, most) for one in attacked for most in (0, 1)), "no bound"
    said = leaks_too_much(attacked, 0.2, privacy="off")
    assert re.search(r"--most-leak 0.2: least do all channels at 3 bits behind layer2, 0.30. .*--privacy low", said)
    assert "--least-share" in said
    said = leaks_too_much(attacked, 0.2, privacy="high")
    assert "--bits" in said
    assert "--privacy" not in said
    assert "try later --cuts" in leaks_too_much(attacked[:1], 0.2, privacy="off")


def test_nothing_to_choose_from_is_said() -> None:
    with pytest.raises(ConfigError, match="--cuts"):
        choose([], **NO_BOUNDS)
