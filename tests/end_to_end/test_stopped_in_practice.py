"""Ctrl-C twice, while the trainer practises."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from broker.errors import EXIT_INTERRUPTED
from cloud_trainer.replay import replay
from cloud_trainer.store.log import Event
from cloud_trainer.store.opening import STORE, open_again

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Launcher, Program


def _log(trainer: Program, robot: str) -> Iterator[Event]:
    with closing(open_again(trainer.run_dir / STORE)) as store:
        cursor = 0
        while event := store.next_event(robot, cursor):
            cursor = event.id
            yield event


def test_a_second_ctrl_c_ends_at_once_and_the_log_has_the_rest(
    launcher: Launcher, mosquitto_url: str, pictures: Path
) -> None:
    trainer = launcher.trainer(mosquitto_url, "--practice", "10")
    test = ["--held-out", f"folder:{pictures}/test"]
    assert launcher.robot(mosquitto_url, "hasty", f"folder:{pictures}/few", *test).wait() == 0
    # The second event is written when the first one's steps were taken.
    trainer.until(lambda: [one.kind for one in _log(trainer, "hasty")].count("rehearse") > 1, "it practised")
    trainer.send(signal.SIGINT)
    trainer.until_it_says("a few last steps of idle rehearsal")
    assert trainer.interrupt() == EXIT_INTERRUPTED
    assert "the same --run-dir goes on from here" not in trainer.printed
    assert "Traceback" not in trainer.printed
    assert not (trainer.run_dir / "summary.json").exists()
    assert [one.kind for one in _log(trainer, "hasty")][-1] == "settle"
    assert replay(trainer.run_dir / STORE, None, "cpu"), "the checkpoint is of before, and whole"
