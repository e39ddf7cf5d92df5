"""The process of one tracker: reads what a run tells, and hands it to the tracker's own library.

It ends with its first failure: what it printed is then in its log file. It reads msgpack from standard input: first
what run it is, and then lists that begin with their kind.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

import msgpack

from hierarchy.runtime.tracking.figures import Pair

# A run that was killed leaves no tracker behind for longer.
LOOK_SECONDS, ALONE_SECONDS = 1.0, 10.0
# Libraries that would tell their makers how they are used.
QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
}


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """A run, as its tracker is told first. id: the same for a run that goes on. folder: to write into."""

    name: str
    id: str
    folder: Path
    settings: Mapping[str, str]


class Adapter(Protocol):
    """A tracker's library. Each file beside this one that begins with ``to_`` has one, ``open_tracker(run)``."""

    def scalars(self, prefix: str, step: int, values: Mapping[str, float]) -> None:
        """Take figures. prefix: of their names. step: images learned from."""

    def test(self, prefix: str, end: str, step: int, by_class: Mapping[str, float], confusion: list[Pair]) -> None:
        """Take the accuracy of each class, and what was taken for what. end: whose test it is."""

    def close(self) -> None:
        """Write what is not written yet."""


def main(name: str) -> None:
    """Read until the run closes the pipe."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a service manager sends it to the run and to us: the run ends us
    os.nice(5)
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    with open(0, "rb", buffering=0) as pipe:  # with a buffer a message would wait for the next one
        messages = msgpack.Unpacker(pipe)
        about = next(messages)
        run = TrackedRun(**{**about, "folder": Path(about["folder"])})
        adapter = import_module(f"hierarchy.runtime.tracking.to_{name}").open_tracker(run)
        for kind, *values in messages:
            getattr(adapter, kind)(*values)
    adapter.close()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    time.sleep(ALONE_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
