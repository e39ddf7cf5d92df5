"""A run's trackers. Each is a process that is written to through a bounded queue: none can hold up or end the run."""

from __future__ import annotations

import logging
import os
import queue
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack

from broker.program.threads import LoudThread
from hierarchy.runtime.tracking.figures import MAX_CLASSES, pairs
from hierarchy.runtime.tracking.options import TRACKERS, TrackOptions

# In the run's folder.
FOLDER, ID = "tracking", "id"
# Messages that wait for a tracker; at one of scalars a second a tracker may be away for four minutes.
WAITING = 256
# Behind a run, all trackers together have so long for what they still have to write; and since their start, so long:
# some take half a minute of a busy machine to begin, and a short run is over by then.
CLOSE_SECONDS, START_SECONDS = 10.0, 60.0
# Behind the last message.
END = None
ROOT = str(Path(__file__).parents[3])

log = logging.getLogger("tracking")


class TrackerProcess:
    """One tracker, in a process of its own. What it prints is in a file beside what it writes."""

    def __init__(self, name: str, folder: Path, about: Mapping[str, Any]) -> None:
        """about: what its process is told first, as worker.py has it."""
        self.name = name
        self.dropped = 0
        self.log_file = folder / f"{name}.log"
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        with self.log_file.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hierarchy.runtime.tracking.worker", name],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is the run's, and what a tracker starts itself ends with it
                env={**os.environ, "PYTHONPATH": os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")])},
            )
        self._queue.put(msgpack.packb(about))
        self._thread = LoudThread(f"tracker {name}", self._write, restarts=False)
        self._thread.start()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def put(self, message: bytes) -> None:
        """Have a message written. Where too many wait it is dropped, and counted; one that is gone is told nothing."""
        if not self._thread.is_alive:
            return
        if self._queue.qsize() < WAITING:
            self._queue.put(message)
        else:
            self.dropped += 1

    def end(self) -> None:
        """Tell it that nothing more will come."""
        self._queue.put(END)

    def close(self, give_up: float) -> None:
        """Wait until it has written what it was told, or until then, by time.monotonic(); then it is killed."""
        self._thread.close(max(0.0, give_up - time.monotonic()))
        if self._process.poll() is None:
            log.warning("the tracker %s is not through in time: what it was told last may be missing there", self.name)
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self.dropped:
            log.warning("%d messages are missing in the tracker %s, which was too slow", self.dropped, self.name)

    def _write(self, ending: threading.Event) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        with suppress(OSError):
            while (message := self._queue.get()) is not END:
                pipe.write(message)
                pipe.flush()
        with suppress(OSError):
            pipe.close()
        status = self._process.wait()
        if status > 0 or (status < 0 and not ending.is_set()):  # else it was killed by us
            words = self._words() if status > 0 else f"signal {-status}"
            log.warning(
                "the tracker %s has failed, and the run goes on without: %s (%s)", self.name, words, self.log_file
            )

    def _words(self) -> str:
        with self.log_file.open("rb") as file:
            file.seek(max(0, self.log_file.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"


class Trackers:
    """What a run tells its trackers. Any thread may call; no call waits, but for ``close``."""

    def __init__(
        self, options: TrackOptions, run: Path, *, name: str, settings: Mapping[str, Any], hides_names: bool = False
    ) -> None:
        """run: the run's folder. hides_names: whether no class name may leave this machine in the clear."""
        self._hides_names = hides_names
        self.processes: list[TrackerProcess] = []
        self._started = time.monotonic()
        if not options.trackers:
            return
        folder = run / FOLDER
        folder.mkdir(exist_ok=True)
        about = {"name": name, "id": _id(folder / ID), "folder": str(folder.absolute())}
        for one in options.trackers:
            told = {} if self._is_blind(one) else {key: str(value) for key, value in settings.items()}
            self.processes.append(TrackerProcess(one, folder, {**about, "settings": told}))

    def __bool__(self) -> bool:
        return bool(self.processes)

    @property
    def wants_pictures(self) -> bool:
        """Whether any of them shows pictures."""
        return any(TRACKERS[one.name].has_pictures for one in self.processes)

    def scalars(self, step: int, values: Mapping[str, float], prefix: str = "") -> None:
        """Tell figures. step: images learned from. prefix: of their names, for a robot of many."""
        self._tell(self.processes, "scalars", prefix, step, dict(values))

    def test(
        self,
        step: int,
        end: str,
        by_class: Mapping[str, float],
        confusion: Mapping[str, Mapping[str, int]],
        prefix: str = "",
    ) -> None:
        """Tell what came of a test. end: whose it is, exit or cloud."""
        told = dict(sorted(by_class.items())[:MAX_CLASSES])
        ours = [one for one in self.processes if not self._is_blind(one.name)]
        self._tell(ours, "test", prefix, end, step, told, pairs(confusion))

    def picture(self, jpeg: bytes, caption: str) -> None:
        """Show a picture to those that keep it on this machine."""
        self._tell([one for one in self.processes if TRACKERS[one.name].has_pictures], "picture", jpeg, caption)

    def close(self) -> None:
        """Let them write what they were told, as far as there is time."""
        give_up = max(time.monotonic() + CLOSE_SECONDS, self._started + START_SECONDS)
        if self.processes:
            log.info("the trackers write what they were told last: in %s", self.processes[0].log_file.parent)
        for one in self.processes:
            one.end()
        for one in self.processes:
            one.close(give_up)

    def _is_blind(self, name: str) -> bool:
        return self._hides_names and TRACKERS[name].may_send

    def _tell(self, processes: list[TrackerProcess], *message: Any) -> None:
        if processes:
            packed = msgpack.packb([*message])
            for one in processes:
                one.put(packed)


def _id(path: Path) -> str:
    """Return what trackers know the run by, which a run that goes on keeps."""
    with suppress(OSError):
        if text := path.read_text().strip():
            return text
    path.write_text(new := secrets.token_hex(8))
    return new
