"""What a run leaves behind: config.toml, metrics.jsonl, summary.json, curves.png, checkpoint/."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import tomli_w

from broker.errors import ConfigError
from broker.program.machine import refused
from hierarchy.runtime.checkpoint import CHECKPOINT, write_json
from hierarchy.runtime.disk import DiskWatch

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG, METRICS, SUMMARY, LOCK = "config.toml", "metrics.jsonl", "summary.json", "lock"
# From the end of metrics.jsonl: a line is far shorter.
TAIL_BYTES = 65_536


# Robots whose heat maps a trainer draws.
MAX_HEAT_MAPS = 8

log = logging.getLogger("run")


class RunFolder:
    """A run's folder, open for writing. No other process can have it open at the same time.

    last_metrics: the last line that a former process of the run has written; empty for a new run.
    lines_lost: how many lines of metrics.jsonl found no room on the disk. disk: what could not be written.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        """Open the folder, or create it, and write config.toml.

        Whether a run that it holds can be gone on with, its owner has to know.
        Raises ConfigError where the folder is in use or cannot be written.
        """
        self.path = path
        self.checkpoint = path / "checkpoint"
        self.lines_lost = 0
        self.disk = DiskWatch(log, path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = lock_folder(path)
            with ExitStack() as on_failure:
                on_failure.callback(self._lock.close)
                refuse_other_program(path, config)
                (path / CONFIG).write_text(tomli_w.dumps(config))
                self.last_metrics = _mend(path / METRICS)
                # Unbuffered: a line is either on the disk or not, and what is not cannot fill the memory.
                self._metrics = (path / METRICS).open("ab", buffering=0)
                on_failure.pop_all()
        except OSError as error:
            raise refused(f"--run-dir {path}", error, path=path) from error

    def add_metrics(self, **values: Any) -> None:
        """Append a line to metrics.jsonl, with the time. On a full disk it is counted, and said."""
        line = json.dumps({"time": round(time.time(), 3), **values}).encode() + b"\n"
        whole = os.fstat(self._metrics.fileno()).st_size
        problem = "only a part of a line fits"
        try:
            written = self._metrics.write(line)
        except OSError as error:
            written, problem = 0, str(error)
        if written == len(line):
            self.disk.written(METRICS)
            return
        self._metrics.truncate(whole)
        self.lines_lost += 1
        self.disk.failed(METRICS, problem, ", the run goes on without")

    def last_summary(self) -> dict[str, Any] | None:
        """Return the summary that a former process of the run has left; None where it was killed."""
        try:
            summary: dict[str, Any] = json.loads((self.path / SUMMARY).read_text())
        except (OSError, ValueError, RecursionError):
            return None
        return summary

    def drop_summary(self) -> None:
        """Remove a former summary: the run is not over yet."""
        (self.path / SUMMARY).unlink(missing_ok=True)

    def finish(self, summary: dict[str, Any]) -> None:
        """Write summary.json, curves.png and, where tests came again, forgetting.png; and close.

        Without matplotlib there are no pictures. ``disk`` knows which of them could not be written.
        """
        self.close()
        self._write(SUMMARY, lambda path: write_json(path, summary))
        if not can_draw("curves.png"):
            return
        from hierarchy.runtime.curves import draw_accuracy_matrices, draw_curves

        self._write("curves.png", lambda path: draw_curves(self.path / METRICS, path))
        if matrices := _matrices(summary):
            shown = dict(list(matrices.items())[:MAX_HEAT_MAPS])
            left_out = len(matrices) - len(shown)
            self._write("forgetting.png", lambda path: draw_accuracy_matrices(shown, path, left_out=left_out))

    def _write(self, name: str, write: Callable[[Path], None]) -> None:
        path = self.path / name
        partial = path.with_name(f"new-{name}")  # half a picture is none
        try:
            write(partial)
            if partial.exists():
                os.replace(partial, path)
            self.disk.written(name)
        except OSError as error:
            partial.unlink(missing_ok=True)
            self.disk.failed(name, error)

    def close(self) -> None:
        """Close the files and let others have the folder."""
        self._metrics.close()
        self._lock.close()


def can_draw(picture: str) -> bool:
    """Whether this machine has matplotlib, without which a picture is left out; says so where it has not."""
    there = importlib.util.find_spec("matplotlib") is not None
    if not there:
        log.info("no %s, as matplotlib is not installed: pip install 'reflexarc[plot]'", picture)
    return there


def former_settings(path: Path) -> dict[str, Any] | None:
    """Return the settings of the run that the folder holds; None where it holds none, or one that learned nothing.

    Raises ConfigError where they cannot be read.
    """
    try:
        metrics = path / METRICS
        if not (path / "checkpoint" / CHECKPOINT).exists() and not (metrics.exists() and metrics.stat().st_size):
            return None
        return tomllib.loads((path / CONFIG).read_text())
    except (OSError, ValueError) as error:
        found = f"{path} holds a run already, whose settings cannot be read ({error})"
        raise refused(found, error, "choose another --run-dir, or remove it") from error


def _matrices(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the accuracy matrices of a summary that have two rounds at least, a robot's own or a trainer's of some."""
    found = {robot: one.get("cloud_accuracy_matrix") for robot, one in summary.get("robots", {}).items()}
    found["exit"] = summary.get("exit_accuracy_matrix")
    return {title: matrix for title, matrix in found.items() if matrix and len(matrix["rounds"]) > 1}


def refuse_other_program(path: Path, config: dict[str, Any]) -> None:
    """Raise ConfigError where the folder is a robot's and the settings are a trainer's, or the other way round."""
    try:
        former = tomllib.loads((path / CONFIG).read_text())
    except (OSError, ValueError):
        return  # none, or none that tells; whoever goes on with a run reads it once more
    if ("trainer" in former) != ("trainer" in config):
        raise ConfigError(f"{path} holds a run of another program: choose another --run-dir")


def lock_folder(path: Path) -> IO[str]:
    """Return an open file that keeps the folder ours until it is closed, or its process ends in any way."""
    file = (path / LOCK).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ConfigError(f"another process is using {path}: wait for its end, or choose another --run-dir") from None
    return file


def _mend(metrics: Path) -> dict[str, Any]:
    """Cut off a last line that a killed process left half written; return the line before it."""
    if not metrics.exists():
        return {}
    with metrics.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - TAIL_BYTES)
        file.seek(start)
        tail = file.read()
        end = tail.rfind(b"\n") + 1
        file.truncate(start + end)
    lines = tail[:end].splitlines()
    try:
        last = json.loads(lines[-1]) if lines else {}
    except (ValueError, RecursionError):
        last = {}
    return last if isinstance(last, dict) else {}
