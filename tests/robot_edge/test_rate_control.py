from __future__ import annotations

import itertools

import pytest

from robot_edge.rate_control import CALM_SECONDS, MOST_LOAD, REVIEW_SECONDS, RateControl


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
                goodput=self.goodput,
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
    assert 3 * link.per_bit > MOST_LOAD * link.goodput


def test_nothing_is_decided_between_two_reviews() -> None:
    control = RateControl(most=4, least=1)
    changes = [
        control.review(0.001 * step, queued=10_000 + step, behind=True, made=step, goodput=1.0)
        for step in range(round(REVIEW_SECONDS / 0.001))
    ]
    assert not any(changes)


def test_without_goodput_known_a_short_queue_is_enough() -> None:
    control = RateControl(most=4, least=1)
    for review in range(3):
        control.review(review * REVIEW_SECONDS, queued=1000 * review, behind=True, made=0, goodput=None)
    assert control.bits == 2
    for review in range(3, 100):
        control.review(review * REVIEW_SECONDS, queued=0, behind=False, made=0, goodput=None)
    assert control.bits == 4
