from __future__ import annotations

from itertools import pairwise

from hierarchy.runtime.page.history import History


def test_what_is_added_too_soon_is_left_out() -> None:
    history = History(every=1.0)
    assert history.add(10.0, 0.5, None)
    assert not history.add(10.9, 0.6, None)
    assert history.add(11.0, 0.7, 0.1)
    assert history.points() == ((10.0, (0.5, None)), (11.0, (0.7, 0.1)))


def test_it_never_grows_and_keeps_the_whole_time() -> None:
    history = History(most=100, every=1.0)
    for second in range(100_000):  # more than a day
        history.add(float(second), float(second))
    points = history.points()
    assert 50 <= len(points) <= 100
    assert points[0][0] == 0.0
    assert points[-1][0] > 98_000
    steps = {after[0] - before[0] for before, after in pairwise(points)}
    assert max(steps) <= 2 * min(steps)
