from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

import pytest

from tests.soak.chaos import Chaos
from tests.soak.run import Accounts


def check(accounts: Accounts) -> None:
    """Every picture was trained on as often as it was shown, and the weights are what the log makes of them."""
    nothing: Counter[str] = Counter()
    assert accounts.taken == accounts.expected, "the robot skipped pictures, or took some twice"
    assert +accounts.dropped == nothing
    assert +accounts.queued == nothing
    assert accounts.trained == accounts.expected, "pictures were lost on the way, or trained on twice"
    assert accounts.replay_status == 0, accounts.replay
    assert "bit for bit" in accounts.replay


@pytest.mark.parametrize(
    ("backend", "kills", "seed"), [pytest.param("mosquitto", 4, 1, marks=pytest.mark.mosquitto), ("amqtt", 1, 2)]
)
def test_nothing_is_lost_or_trained_on_twice(
    tmp_path: Path, backend: Literal["mosquitto", "amqtt"], kills: int, seed: int
) -> None:
    accounts = Chaos(tmp_path, kills=kills, seed=seed, backend=backend).run()
    assert accounts.kills.total() == kills
    check(accounts)
