"""Threads that fail: who hears of it, and what comes of them. And that there are no others than these."""

from __future__ import annotations

import ast
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.errors import ConfigError
from broker.program import threads
from broker.program.threads import LoudThread

TIMEOUT_S = 30
ROOT = Path(__file__).parents[3]
PACKAGES = ("broker", "hierarchy", "robot_edge", "cloud_trainer")


class Failing:
    """Fails as often as it is told, and then waits for its end."""

    def __init__(self, *errors: BaseException) -> None:
        self._errors = list(errors)
        self.working = threading.Event()

    def __call__(self, ending: threading.Event) -> None:
        if self._errors:
            raise self._errors.pop(0)
        self.working.set()
        ending.wait()


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "FIRST_PAUSE_SECONDS", 0.001)


def wait_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.001)


def test_a_thread_that_may_fail_is_started_again_and_said(caplog: pytest.LogCaptureFixture) -> None:
    work = Failing(RuntimeError("first"), SystemExit("second"))
    thread = LoudThread("probes", work, restarts=True)
    thread.start()
    assert work.working.wait(TIMEOUT_S)
    thread.check()
    assert thread.failures == 2
    thread.close(TIMEOUT_S)
    assert not thread.is_alive
    assert "the thread 'probes' has failed: it is started again" in caplog.text
    assert "RuntimeError: first" in caplog.text
    assert "SystemExit: second" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("bug"), SystemExit(3), MemoryError()])
def test_what_ends_a_thread_that_is_needed_is_raised_in_its_owner(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    thread = LoudThread("seeing", Failing(error), restarts=False)
    thread.check()
    thread.start()
    wait_until(lambda: not thread.is_alive)
    with pytest.raises(type(error)) as raised:
        thread.check()
    assert raised.value is error
    assert "the thread 'seeing' has failed" in caplog.text


def test_an_error_for_people_has_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    thread = LoudThread("camera", Failing(ConfigError("there is no such camera")), restarts=False)
    thread.start()
    wait_until(lambda: not thread.is_alive)
    with pytest.raises(ConfigError, match="no such camera"):
        thread.check()
    assert not caplog.records


def test_one_that_always_fails_is_tried_ever_more_rarely_and_can_be_ended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(threads, "LONGEST_PAUSE_SECONDS", 3600.0)
    monkeypatch.setattr(threads, "FIRST_PAUSE_SECONDS", 0.01)
    thread = LoudThread("page", Failing(*[RuntimeError("always")] * 1000), restarts=True)
    with caplog.at_level(logging.ERROR):
        thread.start()
        wait_until(lambda: thread.failures >= 4)
        thread.close(TIMEOUT_S)
    assert not thread.is_alive
    pauses = [float(record.getMessage().split(" in ")[1].split()[0]) for record in caplog.records]
    assert pauses[:4] == [0.01, 0.02, 0.04, 0.08]


def test_waiting_for_one_can_be_interrupted_and_it_is_still_there() -> None:
    free = threading.Event()

    def work(_ending: threading.Event) -> None:
        free.wait(TIMEOUT_S)

    thread = LoudThread("training", work, restarts=False)
    thread.start()
    waiting = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
    waiting.start()
    with pytest.raises(KeyboardInterrupt):
        thread.close(TIMEOUT_S)
    assert thread.is_alive
    free.set()
    thread.close(TIMEOUT_S)
    assert not thread.is_alive


def test_one_that_never_began_can_be_closed() -> None:
    LoudThread("answers", Failing(), restarts=True).close()


def _threads_made() -> Iterator[str]:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("Thread", "Timer"):
                    yield str(path.relative_to(ROOT))


def test_every_thread_of_the_product_is_loud() -> None:
    """But for one that ends a tracker's process, and a doctor's, who goes on without: no run has them."""
    others = {"hierarchy/runtime/tracking/worker.py", "hierarchy/runtime/doctor/peers.py"}
    assert set(_threads_made()) == {"broker/program/threads.py", *others}


def test_a_fault_is_planted_in_each_of_them() -> None:
    """In test_faulty_threads.py, test_terminal.py, test_live.py (of sources), test_robot.py, test_trainer_api.py,
    test_processes.py (of the cluster); in a tracker's process in test_trackers.py."""
    made = {name for package in PACKAGES for path in (ROOT / package).rglob("*.py") for name in _names_in(path)}
    ends = {"page", "terminal", "seeing", "camera", "probes", "training", "answers", "messages", "robot"}
    assert made == ends | {"loop", "beats", "tracker"}


def _names_in(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "LoudThread":
            yield ast.unparse(node.args[0]).strip("f'").split(" ")[0]
