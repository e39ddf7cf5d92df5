"""How a program ends by an error: one line for people, a traceback for programmers, and an exit status."""

from __future__ import annotations

import sys
import traceback

from broker.errors import ReflexarcError, exit_status
from broker.program.machine import machine_error
from broker.program.plain_text import say


def report(program: str, error: BaseException) -> int:
    """Say what ended a program, and return its exit status. Only a fault of the program is shown with a traceback."""
    ours = error if isinstance(error, ReflexarcError) else machine_error(error)
    if ours is None:
        say("".join(traceback.format_exception(error)).rstrip(), sys.stderr)
        say(f"{program}: this is a fault of the program; please report it, with the lines above", sys.stderr)
        return exit_status(error)
    say(f"{program}: {ours}", sys.stderr)
    return exit_status(ours)
