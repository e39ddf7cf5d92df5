"""Programs in processes of their own that need not import torch first.

That import takes a program more processor time than all it does in a test, and the tests start dozens. So these are
forked from a process that has imported everything and done nothing. From there on they are what `python -m` starts,
but for one thing: they do not measure for up to five seconds which way to compute is fastest. What a test starts like
this must not be about the start itself.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    [
        "robot_edge.run.start",
        "robot_edge.evaluation.evaluate",
        "robot_edge.planning.planner",
        "cloud_trainer.trainer",
        "cloud_trainer.replay",
        "matplotlib.backends.backend_agg",
        "hierarchy.timm_networks",
        "timm",
    ]
)


class Process(Protocol):
    """What tests need of a Popen."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int) -> None: ...

    def kill(self) -> None: ...


class WarmStart:
    """`python -m <arguments>`, forked; what it prints is appended to a file.

    environment: variables beside those of the first test. missing: a package that it should not find.
    """

    measures = False
    """Whether these programs measure, as users' do; for all that are started from then on."""

    def __init__(
        self, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, missing: str = ""
    ) -> None:
        self._process = _forks.Process(
            target=_run, args=(list(arguments), str(log), environment or {}, missing, self.measures)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0)
        return status

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_warm(arguments: Sequence[str], *, missing: str = "", timeout: float = 300.0) -> tuple[int, str]:
    """Return the exit status of such a program, and what it printed."""
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        process = WarmStart(arguments, Path(log.name), missing=missing)
        try:
            return process.wait(timeout), Path(log.name).read_text()
        finally:
            process.kill()


def _run(arguments: list[str], log: str, environment: Mapping[str, str], missing: str, measures: bool) -> None:
    os.environ.update(environment)
    if missing:
        sys.modules[missing] = None  # type: ignore[assignment]
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  # as long as the process
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    if not measures:
        import hierarchy.device  # this process has it already, and the tests' own may do without

        hierarchy.device.MAX_SECONDS = 0.0
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
