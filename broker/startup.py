"""The first second of a program, in which it imports what it needs. Itself it imports nothing that takes time."""

from __future__ import annotations

import os
import signal
from types import FrameType

# What a shell reports for a program that Ctrl-C ended.
EXIT_INTERRUPTED = 130
# How often a thread of PyTorch's looks for work before it sleeps: microseconds, where by default it is milliseconds.
SPIN_COUNT = 1000


def let_ctrl_c_end_it() -> None:
    """Let Ctrl-C end the process at once and without a word, until the program says what else it should do.

    An exception would show a traceback, and might come where a library takes it for a failed import.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is to be ignored, as behind nohup
        signal.signal(signal.SIGINT, _end)


def let_ctrl_c_interrupt() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, for who catches it."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def let_waiting_threads_sleep() -> None:
    """Have PyTorch's threads wait asleep, not awake; to be called before PyTorch is imported.

    Awake they are somewhat faster on a machine of their own, and far slower beside another process of many threads, as
    robot and trainer on one machine are (`benchmarks/waiting_threads.py`). What the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(EXIT_INTERRUPTED)
