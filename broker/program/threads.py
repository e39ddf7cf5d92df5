"""Threads that do not die in silence: each failure is logged, and ends its owner's loop or starts the thread again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from broker.errors import ReflexarcError

# Before a thread is started again, in seconds; doubled with each failure, so that one that always fails costs a line a
# minute, and back at the first where it has worked for longer than the longest.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0

log = logging.getLogger("threads")


class LoudThread:
    """A daemon thread whose failure is heard of.

    Without ``restarts`` a failure ends the thread, and check() raises it in the thread that owns it: for work that the
    program is nothing without. With ``restarts`` the work begins again after a pause: for work that it can do without
    for a while. Both log the traceback, except of an error that check() raises for people to read.
    """

    def __init__(self, name: str, work: Callable[[threading.Event], None], *, restarts: bool) -> None:
        """work: given an event that is set when it should end. name: for the log, and for debuggers."""
        self.name = name
        self.ending = threading.Event()
        self.failures = 0
        self._work = work
        self._restarts = restarts
        self._error: BaseException | None = None
        # Python takes a thread for ended when Ctrl-C interrupts join(), so nobody joins (seen with 3.11).
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether it has begun, and not ended."""
        return self._thread.ident is not None and not self._ended.is_set()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def check(self) -> None:
        """Raise what ended the thread, if that was a failure. To be called in each turn of its owner's loop."""
        if self._error is not None:
            raise self._error

    def close(self, timeout: float | None = None) -> None:
        """Ask it to end, and wait for that, for so many seconds at most; not at all if it never began."""
        self.ending.set()
        if self.is_alive:
            self._ended.wait(timeout)

    def _run(self) -> None:
        try:
            self._work_on()
        finally:
            self._ended.set()

    def _work_on(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self.ending.is_set():
            begun = time.monotonic()
            try:
                self._work(self.ending)
                return
            except BaseException as error:  # SystemExit would end a thread without a word, too
                self.failures += 1
                if not self._restarts:
                    if not isinstance(error, ReflexarcError):
                        log.exception("the thread %r has failed", self.name)
                    self._error = error
                    return
                if time.monotonic() - begun > LONGEST_PAUSE_SECONDS:
                    pause = FIRST_PAUSE_SECONDS
                log.exception("the thread %r has failed: it is started again in %g s", self.name, pause)
            self.ending.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
