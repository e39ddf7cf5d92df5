"""What Ray starts, and starts again where it dies: a process around an ingest or an actor, whose loop is a thread."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from typing import Any, Protocol

from broker.errors import EXIT_MACHINE, ReflexarcError
from broker.program.startup import prepare_pytorch
from broker.program.threads import LoudThread
from cloud_trainer.cluster.config import ClusterConfig
from hierarchy.runtime.command_line import start_log

# A process that cannot go on dies after so long, and Ray starts another one: not at once, or logs would fill.
PAUSE_SECONDS = 2.0

log = logging.getLogger("cloud-trainer")


class Loop(Protocol):
    """What a process is about."""

    def run(self, ending: threading.Event) -> None:
        """Work until it is told to end."""


class Process:
    """Runs a loop on a thread from its beginning: what Ray starts again has nobody who would call it."""

    def __init__(self, loop: Loop, name: str) -> None:
        self._name = name
        self._loop = loop
        self._thread = LoudThread("loop", self._run, restarts=False)
        self._thread.start()

    def _run(self, ending: threading.Event) -> None:
        try:
            self._loop.run(ending)
        except ReflexarcError as error:
            log.error("%s ends: %s", self._name, error)
        except BaseException:
            log.exception("%s ends", self._name)
        if not ending.is_set():
            time.sleep(PAUSE_SECONDS)
            os._exit(EXIT_MACHINE)

    def ready(self) -> int:
        """Return the number of the process."""
        return os.getpid()

    def finish(self) -> None:
        """Write everything down."""
        self._thread.close()


class IngestProcess(Process):
    """An ingest."""

    def __init__(self, settings: dict[str, Any], number: int, run_dir: Path) -> None:
        start_log(f"ingest {number}")
        from cloud_trainer.cluster.ingest import Ingest

        super().__init__(Ingest(ClusterConfig(**settings), number, run_dir), f"ingest {number}")


class ActorProcess(Process):
    """An actor."""

    def __init__(self, settings: dict[str, Any], number: int, run_dir: Path) -> None:
        start_log(f"actor {number}")
        prepare_pytorch()
        from cloud_trainer.cluster.actor import TrainingActor

        super().__init__(TrainingActor(ClusterConfig(**settings), number, run_dir), f"actor {number}")
