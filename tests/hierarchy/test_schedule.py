from __future__ import annotations

import pytest

from hierarchy.schedule import WARM_UP_STEPS, learning_rate, settling

PEAK = 0.08


@pytest.mark.parametrize(("progress", "divisor"), [(0.0, 25), (0.3, 1), (1.0, 1e5)])
def test_one_cycle_starts_low_peaks_and_ends_near_zero(progress: float, divisor: float) -> None:
    assert learning_rate(PEAK, steps=0, progress=progress) == pytest.approx(PEAK / divisor)


def test_one_cycle_rises_to_its_peak_and_falls_from_there() -> None:
    rates = [learning_rate(PEAK, steps=0, progress=percent / 100) for percent in range(101)]
    assert rates[:31] == sorted(rates[:31])
    assert rates[30:] == sorted(rates[30:], reverse=True)
    assert len(set(rates)) == len(rates)


def test_one_cycle_follows_the_runs_progress_and_not_the_steps() -> None:
    assert learning_rate(PEAK, steps=0, progress=0.5) == learning_rate(PEAK, steps=10**6, progress=0.5)


def test_without_an_end_it_warms_up_and_stays() -> None:
    rates = [learning_rate(PEAK, steps=steps, progress=None) for steps in range(3 * WARM_UP_STEPS)]
    assert rates[0] == pytest.approx(PEAK / WARM_UP_STEPS)
    assert rates[:WARM_UP_STEPS] == sorted(rates[:WARM_UP_STEPS])
    assert set(rates[WARM_UP_STEPS - 1 :]) == {PEAK}


@pytest.mark.parametrize("due", [1.0, 1.5, 100.0])
def test_practice_begins_at_the_peak_and_ends_near_zero(due: float) -> None:
    rates, done = [], 0
    while due >= 1:
        rates.append(learning_rate(PEAK, steps=10**6, progress=settling(done, due)))
        done, due = done + 1, due - 1
    assert rates[0] == pytest.approx(PEAK)
    assert rates == sorted(rates, reverse=True)
    assert len(rates) < 100 or rates[-1] < PEAK / 1000


def test_a_new_lesson_puts_off_the_end_of_practice() -> None:
    assert settling(50, 150) < settling(50, 50)
    assert settling(0, 7) == settling(0, 700)
