"""A test that hangs, or takes its process down, ends the run with its name.

pyproject.toml sets three bounds. A test that waits in Python fails behind `timeout` seconds, and the next one starts
(pytest-timeout; conftest.py gives slow tests more). A test in native code cannot be interrupted: behind
`faulthandler_timeout` seconds pytest prints where each thread is, and ends the process. A dead worker of pytest-xdist
is not replaced (`--max-worker-restart=0`): with `--dist loadfile` its successor would wait for ever.

Here is what is missing: the limit of what comes behind a failure, and the programs that a dead worker leaves behind.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os

import psutil
import pytest
from xdist.workermanage import WorkerController

_STDERR = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_STDERR] = os.dup(2)  # now, as that of a test is captured


@pytest.hookimpl(trylast=True)  # behind those that stop the clocks
def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """Start the clock anew for the fixtures of a test that failed.

    pytest and pytest-timeout stop theirs at a failure, as a debugger may follow.
    """
    limit = float(node.config.getini("faulthandler_timeout"))
    if isinstance(node, pytest.Item) and limit:
        faulthandler.dump_traceback_later(limit, exit=True, file=node.config.stash[_STDERR])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: WorkerController, error: object) -> None:
    """End the brokers and robots of a worker that died, as its fixtures no longer do."""
    if error:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # another user's, or gone
                if _is_from(process, worker=node.gateway.id, run=node.workerinput["testrunuid"]):
                    process.kill()


def _is_from(process: psutil.Process, *, worker: str, run: str) -> bool:
    environment = process.environ()
    return (environment.get("PYTEST_XDIST_WORKER"), environment.get("PYTEST_XDIST_TESTRUNUID")) == (worker, run)
