from __future__ import annotations

import pytest

from cloud_trainer.robots.quarantine import (
    FIRST_SECONDS,
    LONGEST_SECONDS,
    REJECTIONS,
    WITHIN_SECONDS,
    Quarantine,
    doubt,
)


def rejected(quarantine: Quarantine, count: int, now: float = 0.0, apart: float = 0.0) -> list[bool]:
    return [quarantine.bad(now + number * apart, "garbage") for number in range(count)]


def test_a_few_rejected_messages_are_no_reason() -> None:
    quarantine = Quarantine()
    assert not any(rejected(quarantine, REJECTIONS - 1))
    assert quarantine.reason(0.0) == ""
    assert quarantine.rejected == REJECTIONS - 1


def test_many_in_a_short_time_are_and_the_reason_says_so() -> None:
    quarantine = Quarantine()
    assert rejected(quarantine, REJECTIONS)[-1]
    assert quarantine.reason(1.0) == f"not listened to for {FIRST_SECONDS:.0f} s: garbage"


def test_as_many_in_a_long_time_are_not() -> None:
    quarantine = Quarantine()
    assert not any(rejected(quarantine, 3 * REJECTIONS, apart=WITHIN_SECONDS / (REJECTIONS - 2)))


def test_who_sends_more_good_ones_is_listened_to() -> None:
    quarantine = Quarantine()
    for _ in range(3 * REJECTIONS):
        quarantine.good(0.0)
        assert not quarantine.bad(0.0, "a stray bit")


def test_a_grave_one_is_enough() -> None:
    quarantine = Quarantine()
    quarantine.good(0.0)
    assert quarantine.bad(0.0, "it changed its split", grave=True)
    assert "it changed its split" in quarantine.reason(0.0)


def test_it_ends_and_the_next_is_longer_up_to_the_longest() -> None:
    quarantine, now = Quarantine(), 0.0
    for expected in [FIRST_SECONDS * 2**number for number in range(6)] + [LONGEST_SECONDS] * 2:
        assert quarantine.bad(now, "again", grave=True)
        assert not quarantine.bad(now + 1, "again", grave=True), "it is in quarantine already"
        assert quarantine.reason(now + expected - 0.001)
        now += expected
        assert quarantine.reason(now) == ""


def test_what_led_to_one_quarantine_does_not_lead_to_the_next() -> None:
    quarantine = Quarantine()
    rejected(quarantine, REJECTIONS)
    assert not quarantine.bad(FIRST_SECONDS, "garbage")


@pytest.mark.parametrize("count", [5000])
def test_its_memory_is_bounded(count: int) -> None:
    quarantine = Quarantine()
    for number in range(count):
        quarantine.good(float(number))
        quarantine.bad(float(number), "x")
    assert len(quarantine._lately) <= 1000
    assert quarantine.rejected == count


@pytest.mark.parametrize(
    ("images", "recent", "classes", "doubted"),
    [
        (2000, 0.25, 4, True),
        (2000, 0.20, 4, True),
        (2000, 0.27, 4, True),
        (2000, 0.30, 4, False),
        (1999, 0.25, 4, False),
        (5000, 0.012, 100, True),
        (5000, 0.05, 100, False),
        (5000, 1.0, 1, False),
        (5000, None, 4, False),
    ],
)
def test_who_seems_to_teach_nothing(images: int, recent: float | None, classes: int, doubted: bool) -> None:
    assert bool(doubt(images=images, recent=recent, classes=classes)) == doubted
