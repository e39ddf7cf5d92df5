from __future__ import annotations

import itertools

import pytest

from robot_edge.uplink.pacing import Pace
from robot_edge.uplink.rate_control import CALM_SECONDS, MAX_CALM_SECONDS, MAX_LOAD, REVIEW_SECONDS, RateControl
from robot_edge.uplink.uplink import SECONDS_OF_A_LINK_THAT_KEEPS_UP


class Link:
    """A queue that training fills and a link empties, one review after the other."""

    LONG = 10_000.0

    def __init__(self, *, goodput: float, per_bit: float = 1000.0, most: int = 8, least: int = 1) -> None:
        self.control = RateControl(most=most, least=least)
        self.goodput = goodput
        self.per_bit = per_bit  # bytes a second for each bit of a value
        self.now = self.made = self.waiting = 0.0
        self.history: list[int] = []

    def pass_time(self, seconds: float) -> list[int]:
        """Return the number of bits at each review of that time."""
        self.history = []
        for _ in range(round(seconds / REVIEW_SECONDS)):
            self.now += REVIEW_SECONDS
            made = self.control.bits * self.per_bit * REVIEW_SECONDS
            self.made += made
            self.waiting = max(0.0, self.waiting + made - self.goodput * REVIEW_SECONDS)
            self.control.review(
                self.now,
                queued=round(self.waiting),
                behind=self.waiting > self.LONG,
                made=round(self.made),
                capacity=self.goodput,
            )
            self.history.append(self.control.bits)
        return self.history


def test_a_link_that_carries_all_is_given_all() -> None:
    assert set(Link(goodput=20_000).pass_time(120)) == {8}


@pytest.mark.parametrize(("goodput", "bits"), [(4500, 4), (2500, 2), (1500, 1), (100, 1)])
def test_bits_become_so_few_that_the_queue_no_longer_grows(goodput: float, bits: int) -> None:
    link = Link(goodput=goodput)
    found = link.pass_time(600)
    assert found[-1] == bits
    assert all(before - after in (0, 1) for before, after in itertools.pairwise(found)), "one at a time"


def test_no_fewer_than_the_least() -> None:
    assert min(Link(goodput=100, least=3).pass_time(600)) == 3


def test_they_become_more_again_when_the_link_has_room() -> None:
    link = Link(goodput=2500, most=4)
    assert link.pass_time(300)[-1] == 2
    link.goodput = 50_000
    found = link.pass_time(300)
    assert found[-1] == 4
    assert found.count(3) * REVIEW_SECONDS >= CALM_SECONDS, "a while at each"


def test_a_link_with_room_for_half_a_bit_more_is_not_tried_again_and_again() -> None:
    link = Link(goodput=2500, most=4)
    link.pass_time(600)
    assert set(link.pass_time(600)) == {2}
    assert 3 * link.per_bit > MAX_LOAD * link.goodput


def test_nothing_is_decided_between_two_reviews() -> None:
    control = RateControl(most=4, least=1)
    changes = [
        control.review(0.001 * step, queued=10_000 + step, behind=True, made=step, capacity=1.0)
        for step in range(round(REVIEW_SECONDS / 0.001))
    ]
    assert not any(changes)


def test_without_capacity_known_a_short_queue_is_enough() -> None:
    control = RateControl(most=4, least=1)
    for review in range(3):
        control.review(review * REVIEW_SECONDS, queued=1000 * review, behind=True, made=0, capacity=None)
    assert control.bits == 2
    for review in range(3, 100):
        control.review(review * REVIEW_SECONDS, queued=0, behind=False, made=0, capacity=None)
    assert control.bits == 4


class PacedLink:
    """A robot that makes a message every so many seconds, and a link whose receipts take a while to come back.

    rate: bytes a second that the link carries. per_bit: bytes of a message for each bit of a value.
    """

    TICK = 0.1

    def __init__(self, *, rate: float, interval: float, latency: float, per_bit: int = 10_000) -> None:
        self.control = RateControl(most=4, least=1)
        self.raised_at: list[float] = []
        self._rate, self._interval, self._latency, self._per_bit = rate, interval, latency, per_bit
        self._pace = Pace()
        self._waiting: list[int] = []  # sizes of messages that were not sent yet
        self._arrivals: dict[int, float] = {}
        self._numbers = itertools.count()
        self._made = 0
        self._ticks = 0
        self._free_at = 0.0

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / self.TICK)):
            self._ticks += 1
            now = self._ticks * self.TICK
            for number in [number for number, at in self._arrivals.items() if at <= now]:
                self._pace.arrived(number, self._arrivals.pop(number))
            if self._ticks % round(self._interval / self.TICK) == 0:
                self._learn(now)
            admit = self._pace.admission(now, live=False)
            while self._waiting and admit(self._waiting[0], backlog=False):
                self._send(self._waiting.pop(0), now)

    def _learn(self, now: float) -> None:
        flights = self._pace.under_way.values()
        held = sum(self._waiting) + sum(flight.size for flight in flights)
        before = self.control.bits
        self.control.review(
            now,
            queued=len(self._waiting) + len(flights),
            behind=held / (self._pace.goodput or held or 1) > SECONDS_OF_A_LINK_THAT_KEEPS_UP,
            made=self._made,
            capacity=self._pace.capacity(now),
        )
        if self.control.bits > before:
            self.raised_at.append(now)
        self._waiting.append(self.control.bits * self._per_bit)
        self._made += self._waiting[-1]

    def _send(self, size: int, now: float) -> None:
        self._free_at = max(self._free_at, now) + size / self._rate
        number = next(self._numbers)
        self._arrivals[number] = self._free_at + self._latency
        self._pace.sent(number, size, now)


@pytest.mark.parametrize(("interval", "latency"), [(0.3, 0.2), (0.3, 0.4), (0.3, 1.0), (1.0, 0.6), (0.5, 2.0)])
def test_bits_come_up_again_however_long_receipts_take(interval: float, latency: float) -> None:
    link = PacedLink(rate=10e6, interval=interval, latency=latency)
    link.control.go_on(2)
    link.run(120)
    assert link.control.bits == 4


def test_more_bits_that_are_too_many_are_tried_less_and_less_often() -> None:
    link = PacedLink(rate=25_000, interval=1.0, latency=0.6)
    link.run(6 * 3600)
    gaps = [after - before for before, after in itertools.pairwise(link.raised_at)]
    assert len(gaps) > 5, "it may have room by now"
    assert all(after > 0.9 * before for before, after in itertools.pairwise(gaps))
    assert gaps[-1] > MAX_CALM_SECONDS


def test_it_goes_on_with_as_many_bits_as_are_allowed_now() -> None:
    control = RateControl(most=6, least=3)
    assert control.bits == 6
    for before, now in ((4, 4), (1, 3), (8, 6)):
        control.go_on(before)
        assert control.bits == now


def test_an_outage_says_nothing_about_the_link() -> None:
    control = RateControl(most=4, least=1)
    for review in range(3):
        control.review(review * REVIEW_SECONDS, queued=review, behind=True, made=0, capacity=None)
    assert control.bits == 2
    control.pause()
    for review in range(1000, 1002):
        control.review(review * REVIEW_SECONDS, queued=5000 - review, behind=True, made=0, capacity=None)
        assert control.bits == 2, "its queue shrinks by itself"
    control.review(2000 * REVIEW_SECONDS, queued=0, behind=False, made=0, capacity=None)
    control.pause()
    for review in range(3000, 3002):
        control.review(review * REVIEW_SECONDS, queued=0, behind=False, made=0, capacity=None)
        assert control.bits == 2, "it was no time without a queue"
