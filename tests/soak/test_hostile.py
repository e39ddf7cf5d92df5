"""A hostile robot beside honest ones, for some seconds; `python -m tests.soak.hostile` goes on for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.hostile import check, run

# What a trainer with three small networks takes is some 1 GB; the state of 279 bytes alone would have taken 8.
MAX_BYTES = 4 * 10**9


@pytest.mark.mosquitto
def test_honest_robots_lose_nothing_beside_a_hostile_one(tmp_path: Path) -> None:
    account = run(tmp_path, seconds=4.0)
    check(account)
    assert 0 < account.peak_bytes < MAX_BYTES
    floods = {"ask", "probe", "state", "metrics", "duplicate", "garbage", "name", "edits"}
    assert floods | {"evil-huge", "evil-tiny", "evil-names", "evil-weights"} <= set(account.hostile)
    assert len(account.latencies) > 0
    assert "dropped unread" in account.said, "who floods is named"
