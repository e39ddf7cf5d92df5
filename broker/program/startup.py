"""The first second of a program, in which it imports what it needs. Itself it imports nothing that takes time."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
from types import FrameType

from broker.errors import EXIT_INTERRUPTED

# How often a thread of PyTorch's looks for work before it sleeps: microseconds, where by default it is milliseconds.
SPIN_COUNT = 1000
# glibc's numbers for what mallopt(3) sets.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# Up to here a block is taken from memory that was freed before, and so much of that is kept: bytes.
LARGEST_BLOCK, MAX_FREE = 256 << 20, 512 << 20


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


def prepare_pytorch() -> None:
    """Settle how PyTorch waits and where it has its memory from; to be called before it is imported.

    What the user has set stays.
    """
    _let_waiting_threads_sleep()
    _let_memory_stay()


def give_memory_back() -> None:
    """Give the system what was freed and is kept for the next step, as behind a measurement that took much once."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:  # glibc only
        trim(0)


def _let_waiting_threads_sleep() -> None:
    # Awake they are somewhat faster on a machine of their own, and far slower beside another process of many threads,
    # as robot and trainer on one machine are (benchmarks/waiting_threads.py).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))


def _let_memory_stay() -> None:
    # A training step asks for the same large blocks again and again. By default each goes back to the system and comes
    # anew, page by page of 4 kB, which in a virtual machine can take as long as the step (benchmarks/kept_memory.py).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch's: pages of 2 MB for its large blocks
    if {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"} & set(os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:  # glibc only
        mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)
        mallopt(M_TRIM_THRESHOLD, MAX_FREE)


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(EXIT_INTERRUPTED)
