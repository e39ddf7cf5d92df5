"""Which size of message a broker lets through, found out with probes."""

from __future__ import annotations

import pytest

from broker.wire.bounds import SEND_LIMIT_BYTES
from robot_edge.uplink.size_limit import MIN_BYTES, PRECISION, STRIKES, SizeLimit


def ask(limit: SizeLimit, broker: int, *, ends: bool, first: int = 0) -> int:
    """Let it try sizes at a broker that lets so many bytes through, until it is done; return how often it tried."""
    tries = 0
    while sizes := limit.to_try:
        assert tries < 100
        large = first + 2 * tries
        limit.sent(large, large + 1)
        tries += 1
        if sizes[0] <= broker:
            limit.answered(large)
            limit.answered(large + 1)
        elif ends:
            limit.connection_ended()
        else:
            limit.answered(large + 1)
    return tries


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("broker", [20_000, 70_000, SEND_LIMIT_BYTES - 1])
def test_the_limit_of_a_broker_is_found(broker: int, ends: bool) -> None:
    limit = SizeLimit()
    assert limit.to_try is None
    limit.lost(SEND_LIMIT_BYTES)
    ask(limit, broker, ends=ends)
    assert broker / PRECISION <= limit.limit + 1 <= broker + 1
    assert limit.to_try is None


def test_a_loss_at_a_broker_without_a_limit_changes_nothing() -> None:
    limit = SizeLimit()
    limit.lost(100_000)
    assert ask(limit, 200_000, ends=True) == 1
    assert limit.limit == SEND_LIMIT_BYTES
    limit.lost(100_000)
    assert limit.to_try is None, "that size has arrived"
    limit.lost(110_000)
    assert limit.to_try == (110_000, 16)


def test_a_link_that_breaks_now_and_then_is_no_limit() -> None:
    limit = SizeLimit()
    limit.lost(100_000)
    for number in range(STRIKES - 1):
        limit.sent(2 * number, 2 * number + 1)
        assert not limit.connection_ended()
    limit.sent(10, 11)
    limit.arrived(100_000)
    assert limit.to_try is None
    assert not limit.answered(11), "who answers late says nothing"
    assert limit.limit == SEND_LIMIT_BYTES


def test_what_nobody_answers_is_given_up() -> None:
    limit = SizeLimit()
    limit.lost(100_000)
    limit.sent(0, 1)
    limit.give_up()
    assert (limit.to_try, limit.limit) == (None, SEND_LIMIT_BYTES)


def test_a_broker_that_lets_nothing_through_is_tried_no_further() -> None:
    limit = SizeLimit()
    limit.lost(SEND_LIMIT_BYTES)
    ask(limit, 0, ends=True)
    assert limit.limit < MIN_BYTES
    assert limit.to_try is None
