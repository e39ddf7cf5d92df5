"""What the disk did not take: said when it begins, again while it lasts, and at a run's end with where to make room."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from broker.errors import StorageError
from broker.program.machine import room

# Between two warnings while the disk takes nothing: who looks at the log finds one, and a night of it fills no disk.
REMIND_SECONDS = 120.0


class DiskWatch:
    """What a run could not write, by name.

    path: the run's folder. clock: monotonic seconds.
    """

    def __init__(self, log: logging.Logger, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.missing: dict[str, str] = {}  # why, by what
        self._log = log
        self._path = path
        self._clock = clock
        self._said = float("-inf")

    def failed(self, what: str, error: object, meanwhile: str = "") -> None:
        """Take in that something could not be written. It is logged where it is new, or was not said for a while.

        meanwhile: what the run does without.
        """
        is_new = what not in self.missing
        self.missing[what] = str(error)
        if is_new or self._clock() >= self._said + REMIND_SECONDS:
            self._said = self._clock()
            self._log.warning("%s cannot be written (%s)%s: %s", what, error, meanwhile, room(self._path))

    def written(self, what: str) -> None:
        """Take in that something was written."""
        if self.missing.pop(what, None) is not None:
            self._log.info("%s can be written again", what)

    def remind(self) -> None:
        """Log again what is missing, where that was not said for a while."""
        if self.missing and self._clock() >= self._said + REMIND_SECONDS:
            self._said = self._clock()
            self._log.warning("still not written: %s; %s", ", ".join(self.missing), room(self._path))

    def error(self, advice: str) -> StorageError | None:
        """Return what to end the run with; None where all is written. advice: how it goes on."""
        if not self.missing:
            return None
        parts = "; ".join(f"{what} ({why})" for what, why in self.missing.items())
        return StorageError(f"NOT SAVED: {parts}. Please {room(self._path)}. {advice}")


def other_place(path: Path, size: int, candidates: list[Path]) -> Path | None:
    """Return the first folder on another disk than the path's with twice the room for so many bytes; None for none."""
    device = os.stat(path).st_dev
    return next((folder for folder in candidates if _is_other(folder, device) and _free(folder) > 2 * size), None)


def _is_other(folder: Path, device: int) -> bool:
    return folder.is_dir() and os.stat(folder).st_dev != device and os.access(folder, os.W_OK)


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0
