"""Two trainers at one broker: neither goes unnoticed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.local.server import start_local_broker

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Launcher


@pytest.mark.mosquitto
def test_one_of_the_same_name_ends_and_one_of_another_is_warned_about(launcher: Launcher) -> None:
    with start_local_broker(backend="mosquitto") as broker:
        first = launcher.trainer(broker.url, "--trainer", "t1")
        first.until_it_says("connected; waiting for robots")
        namesake = launcher.trainer(broker.url, "--trainer", "t1")
        assert namesake.wait() == 2, namesake.printed
        assert "cloud-trainer: another trainer named 't1' is online" in namesake.printed
        other = launcher.trainer(broker.url, "--trainer", "t2")
        other.until_it_says("another trainer, 't1', is at this broker too")
        first.until_it_says("another trainer, 't2', is at this broker too")
        other.kill()
        first.until_it_says("the other trainer, 't2', has gone")
        assert first.interrupt() == 0, first.printed
