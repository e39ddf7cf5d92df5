"""Processes that share a core in turns, each held still in the others': a machine's speed changes by the minute."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Runner:
    """A process that is held still now. images: how many it has trained on so far."""

    pid: int
    images: Callable[[], int]


def take_turns(runners: Mapping[str, Runner], *, turns: int, seconds: float) -> dict[str, list[float]]:
    """Return the images per second of each runner in each of its turns.

    A step that a turn's end holds up counts in the next turn, so means over all turns are exact to a step in all.
    """
    rates: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(turns):
        for name, runner in runners.items():
            begin, before = time.perf_counter(), runner.images()
            os.kill(runner.pid, signal.SIGCONT)
            time.sleep(seconds)
            os.kill(runner.pid, signal.SIGSTOP)
            rates[name].append((runner.images() - before) / (time.perf_counter() - begin))
        print(", ".join(f"{name} {of_it[-1]:.0f}" for name, of_it in rates.items()), "images/s", flush=True)
    return rates
