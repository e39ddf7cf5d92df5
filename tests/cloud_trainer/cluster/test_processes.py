from __future__ import annotations

import logging
import os
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker.errors import EXIT_MACHINE, StorageError
from broker.program import threads
from broker.program.threads import LoudThread
from cloud_trainer.cluster import actor, processes
from cloud_trainer.cluster.actor import TrainingActor

TIMEOUT_S = 20.0


class Loop:
    """Ends as it is told, or of itself."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def run(self, ending: threading.Event) -> None:
        if self.error:
            raise self.error
        ending.wait(TIMEOUT_S)


@pytest.mark.parametrize("error", [RuntimeError("planted"), StorageError("planted")])
def test_a_loop_that_fails_is_heard_of_and_ends_its_process_so_that_another_begins(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(processes, "PAUSE_SECONDS", 0.0)
    ended, status = threading.Event(), list[int]()

    def leave(number: int) -> None:
        status.append(number)
        ended.set()

    monkeypatch.setattr(os, "_exit", leave)
    with caplog.at_level(logging.ERROR):
        processes.Process(Loop(error), "actor 7")
        assert ended.wait(TIMEOUT_S)
    assert status == [EXIT_MACHINE]
    assert "actor 7 ends" in caplog.text
    assert "planted" in caplog.text


def test_a_loop_that_is_told_to_end_leaves_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "_exit", lambda _: pytest.fail("it was told to end"))
    processes.Process(Loop(), "actor 7").finish()


class Board:
    """Fails once, and then knows the actor for two beats."""

    def __init__(self) -> None:
        self.beats = 0

    def beat(self, _name: str, _boot: str, _figures: str) -> bool:
        self.beats += 1
        if self.beats == 1:
            raise RuntimeError("planted")
        return self.beats < 4


def test_an_actor_whose_beats_fail_goes_on_saying_that_it_is_there_until_another_has_its_name(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(actor, "BEAT_SECONDS", 0.0)
    monkeypatch.setattr(threads, "FIRST_PAUSE_SECONDS", 0.0)
    board = Board()
    its: Any = SimpleNamespace(
        name="t-0", replaced=False, _boot="b", _beats=board, _fleet=SimpleNamespace(trainings={})
    )
    thread = LoudThread("beats", lambda ending: TrainingActor._beat(cast("TrainingActor", its), ending), restarts=True)
    with caplog.at_level(logging.ERROR):
        thread.start()
        while thread.is_alive:
            threading.Event().wait(0.01)
    assert board.beats == 4
    assert its.replaced
    assert "planted" in caplog.text
