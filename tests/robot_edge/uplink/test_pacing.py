from __future__ import annotations

import pytest

from broker.wire.bounds import SEND_LIMIT_BYTES
from robot_edge.uplink.pacing import (
    FIRST_MESSAGES,
    MAX_MESSAGES,
    MESSAGE_SECONDS,
    MIN_MESSAGES,
    RESEND_SECONDS,
    SMOOTHING_SECONDS,
    WINDOW_SECONDS,
    Pace,
)


class SimulatedLink:
    """Carries so many bytes a second, one message after the other, to a sender that always has more to send."""

    def __init__(self, rate: float, latency: float = 0.0) -> None:
        self.pace = Pace()
        self.rate = rate
        self.latency = latency
        self.now = self._free_at = 0.0
        self._arrivals: dict[int, float] = {}
        self._next = 0

    def run(
        self, seconds: float, size: int, *, live: bool = False, backlog: bool = False, look_every: float = 0.1
    ) -> None:
        """Let time pass; the sender looks after its window now and then."""
        end = self.now + seconds
        while self.now < end:
            for message, arrival in list(self._arrivals.items()):
                if arrival <= self.now:
                    del self._arrivals[message]
                    self.pace.arrived(message, arrival)
            admit = self.pace.admission(self.now, live=live)
            while admit(size, backlog=backlog):
                self.send(size, backlog=backlog)
            self.now += look_every

    def send(self, size: int, *, backlog: bool = False) -> None:
        self._free_at = max(self._free_at, self.now) + size / self.rate
        self._arrivals[self._next] = self._free_at + self.latency
        self.pace.sent(self._next, size, self.now, backlog=backlog)
        self._next += 1

    @property
    def on_the_way(self) -> tuple[int, int]:
        """Messages and bytes."""
        flights = self.pace.under_way.values()
        return len(flights), sum(flight.size for flight in flights)


@pytest.mark.parametrize("rate", [20_000, 120_000, 1_000_000])
@pytest.mark.parametrize("latency", [0.0, 0.8])
def test_goodput_is_what_the_link_carries(rate: float, latency: float) -> None:
    link = SimulatedLink(rate, latency)
    link.run(60, size=16_000)
    goodput = link.pace.goodput
    assert goodput is not None
    # The window of 64 messages bounds what a fast link with a long way can carry.
    reachable = min(rate, MAX_MESSAGES * 16_000 / (latency + 0.1))
    assert 0.7 * reachable < goodput <= 1.05 * rate


def test_a_trainer_that_is_slow_makes_the_window_small_and_not_the_link_slow() -> None:
    pace = Pace()
    for number in range(60):  # a message a second, and each takes 16 ms
        pace.sent(number, 16_000, float(number))
        pace.arrived(number, number + 1.0, held=0.984)
    assert pace.goodput == pytest.approx(1_000_000, rel=0.01)
    admit = pace.admission(60.0, live=False)
    assert sum(admit(16_000, backlog=False) for _ in range(MAX_MESSAGES)) <= WINDOW_SECONDS


def test_no_trainer_makes_a_link_faster_than_anything() -> None:
    pace = Pace()
    for number in range(100):
        pace.sent(number, 16_000, float(number))
        pace.arrived(number, number + 1.0, held=1e18)
    assert pace.goodput is None
    assert pace.message_limit == SEND_LIMIT_BYTES


def test_goodput_follows_a_link_that_changes() -> None:
    link = SimulatedLink(1_000_000)
    link.run(30, size=16_000)
    for rate in (50_000, 1_000_000):
        link.rate = rate
        link.run(8 * SMOOTHING_SECONDS, size=16_000)
        assert link.pace.goodput == pytest.approx(rate, rel=0.3)


def test_time_without_anything_to_send_does_not_count() -> None:
    link = SimulatedLink(100_000)
    link.run(30, size=10_000)
    before = link.pace.goodput
    for message in list(link.pace.under_way):
        link.pace.arrived(message, link.now)
    measured = link.pace.goodput
    link.pace.sent(10_000, 5_000, link.now + 3600)
    link.pace.arrived(10_000, link.now + 3600.05)
    assert before is not None
    assert link.pace.goodput == pytest.approx(measured, rel=0.05)


def test_the_window_is_so_many_seconds_and_messages() -> None:
    slow, fast = SimulatedLink(50_000), SimulatedLink(5_000_000)
    slow.run(60, size=10_000)
    fast.run(60, size=10_000)
    assert 0.7 * WINDOW_SECONDS * 50_000 < slow.on_the_way[1] <= 1.1 * WINDOW_SECONDS * 50_000
    assert fast.on_the_way[0] == MAX_MESSAGES


def test_before_anything_is_known_the_window_is_small() -> None:
    link = SimulatedLink(1.0)
    link.run(0.3, size=10_000)
    assert link.pace.goodput is None
    assert link.on_the_way[0] == FIRST_MESSAGES


def test_on_the_slowest_link_two_messages_are_on_the_way() -> None:
    link = SimulatedLink(1_000)
    link.run(600, size=16_000)
    assert link.on_the_way[0] == MIN_MESSAGES


def test_a_message_takes_two_seconds_at_most() -> None:
    link = SimulatedLink(20_000)
    assert link.pace.message_limit == SEND_LIMIT_BYTES
    link.run(60, size=16_000)
    assert link.pace.message_limit == pytest.approx(20_000 * MESSAGE_SECONDS, rel=0.3)
    fast = SimulatedLink(10_000_000)
    fast.run(10, size=16_000)
    assert fast.pace.message_limit == SEND_LIMIT_BYTES


def test_what_a_link_can_carry_is_known_while_it_is_full() -> None:
    link = SimulatedLink(100_000)
    link.run(30, size=10_000)
    assert link.pace.capacity(link.now) == link.pace.goodput == pytest.approx(100_000, rel=0.3)
    full_until = link.now
    while link.now < full_until + 2 * SMOOTHING_SECONDS:  # a message every second, whose receipt takes longer
        link.now += 1
        link.pace.sent(round(1000 + link.now), 10_000, link.now)
        link.pace.arrived(round(1000 + link.now) - 2, link.now)
    assert link.pace.goodput is not None
    assert link.pace.capacity(link.now) is None


def test_the_backlog_leaves_half_of_the_window_to_what_is_live() -> None:
    link = SimulatedLink(100_000)
    link.run(60, size=10_000, live=True, backlog=True)
    _, size = link.on_the_way
    assert 0.6 * WINDOW_SECONDS * 50_000 < size <= 1.1 * WINDOW_SECONDS * 50_000
    assert link.pace.admission(link.now, live=True)(10_000, backlog=False)
    link.run(60, size=10_000, live=False, backlog=True)
    assert link.on_the_way[1] > 1.5 * size


def test_what_has_no_receipt_is_given_up_later_and_later() -> None:
    pace = Pace()
    pace.sent(1, 1000, 0.0)
    pace.expire(RESEND_SECONDS)
    assert 1 in pace.under_way
    pace.expire(RESEND_SECONDS + 0.1)
    assert 1 not in pace.under_way
    pace.sent(1, 1000, 100.0)
    pace.expire(100.0 + 2 * RESEND_SECONDS)
    assert 1 in pace.under_way, "a slow link gets copies at an undiminished rate"
    pace.arrived(1, 100.0 + 2 * RESEND_SECONDS)
    pace.sent(2, 1000, 200.0)
    pace.expire(200.1 + RESEND_SECONDS)
    assert 2 not in pace.under_way


def test_a_message_that_took_longer_than_it_was_waited_for_tells_of_a_slow_link() -> None:
    pace = Pace()
    pace.sent(1, 60_000, 0.0)
    pace.expire(40.0)
    pace.sent(1, 60_000, 40.0)
    pace.arrived(1, 60.0)
    assert pace.goodput == pytest.approx(60_000 / 20)


def test_lost_receipts_make_no_link_slow() -> None:
    link = SimulatedLink(100_000)
    link.run(30, size=10_000)
    before = link.pace.goodput
    assert before is not None
    for number in range(1000, 1005):  # each is lost once, and nothing else is to be sent meanwhile
        link.now += 1
        link.pace.sent(number, 10_000, link.now)
        link.now += RESEND_SECONDS + 1
        link.pace.expire(link.now)
        link.pace.sent(number, 10_000, link.now)
        link.now += 0.1
        link.pace.arrived(number, link.now)
    assert link.pace.goodput == pytest.approx(before, rel=0.1)


def test_what_was_lost_with_its_connection_says_nothing_of_the_link() -> None:
    link = SimulatedLink(100_000)
    link.run(30, size=10_000)
    before = link.pace.goodput
    link.pace.forget()
    assert not link.pace.under_way
    link.pace.arrived(3, link.now + 500)
    assert link.pace.goodput == before
