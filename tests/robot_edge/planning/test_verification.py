from __future__ import annotations

import pytest

from broker.errors import ConfigError
from robot_edge.planning.verification import steady_rate


def test_the_rate_is_that_between_the_first_and_the_last_image() -> None:
    assert steady_rate([(0.0, 0), (10.0, 64), (11.0, 164), (14.0, 464)]) == pytest.approx(100)


def test_a_former_run_of_the_robot_does_not_count() -> None:
    assert steady_rate([(0.0, 5000), (1.0, 5064), (9.0, 64), (10.0, 264), (11.0, 464)]) == pytest.approx(200)


@pytest.mark.parametrize("seen", [[], [(0.0, 0)], [(0.0, 0), (1.0, 64), (2.0, 128)]])
def test_too_little_is_no_rate(seen: list[tuple[float, int]]) -> None:
    with pytest.raises(ConfigError, match="--verify-images"):
        steady_rate(seen)
