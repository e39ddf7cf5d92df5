from __future__ import annotations

import pytest

from cloud_trainer.conduct import FIRST_SECONDS, LONGEST_SECONDS, REJECTIONS, WITHIN_SECONDS, Conduct, doubt


def rejected(conduct: Conduct, count: int, now: float = 0.0, apart: float = 0.0) -> list[bool]:
    return [conduct.bad(now + number * apart, "garbage") for number in range(count)]


def test_a_few_rejected_messages_are_no_reason() -> None:
    conduct = Conduct()
    assert not any(rejected(conduct, REJECTIONS - 1))
    assert conduct.quarantine(0.0) == ""
    assert conduct.rejected == REJECTIONS - 1


def test_many_in_a_short_time_are_and_the_reason_says_so() -> None:
    conduct = Conduct()
    assert rejected(conduct, REJECTIONS)[-1]
    assert conduct.quarantine(1.0) == f"not listened to for {FIRST_SECONDS:.0f} s: garbage"


def test_as_many_in_a_long_time_are_not() -> None:
    conduct = Conduct()
    assert not any(rejected(conduct, 3 * REJECTIONS, apart=WITHIN_SECONDS / (REJECTIONS - 2)))


def test_who_sends_more_good_ones_is_listened_to() -> None:
    conduct = Conduct()
    for _ in range(3 * REJECTIONS):
        conduct.good(0.0)
        assert not conduct.bad(0.0, "a stray bit")


def test_a_grave_one_is_enough() -> None:
    conduct = Conduct()
    conduct.good(0.0)
    assert conduct.bad(0.0, "it changed its split", grave=True)
    assert "it changed its split" in conduct.quarantine(0.0)


def test_it_ends_and_the_next_is_longer_up_to_the_longest() -> None:
    conduct, now = Conduct(), 0.0
    for expected in [FIRST_SECONDS * 2**number for number in range(6)] + [LONGEST_SECONDS] * 2:
        assert conduct.bad(now, "again", grave=True)
        assert not conduct.bad(now + 1, "again", grave=True), "it is in quarantine already"
        assert conduct.quarantine(now + expected - 0.001)
        now += expected
        assert conduct.quarantine(now) == ""


def test_what_led_to_one_quarantine_does_not_lead_to_the_next() -> None:
    conduct = Conduct()
    rejected(conduct, REJECTIONS)
    assert not conduct.bad(FIRST_SECONDS, "garbage")


@pytest.mark.parametrize("count", [5000])
def test_its_memory_is_bounded(count: int) -> None:
    conduct = Conduct()
    for number in range(count):
        conduct.good(float(number))
        conduct.bad(float(number), "x")
    assert len(conduct._lately) <= 1000
    assert conduct.rejected == count


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
