"""Teaching from the terminal that a live robot runs in: a name and Enter."""

from __future__ import annotations

import logging
import os
import secrets
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TextIO

from broker.codec import MAX_TEACH_SECONDS
from broker.errors import ConfigError, MalformedMessage
from broker.mailbox import Mailbox
from broker.messages import Action, Command
from broker.threads import LoudThread
from robot_edge.operating import new_command

HELP = (
    "type a name and Enter to teach what the camera shows for 10 s; or: teach NAME SECONDS, stop, undo, forget NAME, "
    "rename NAME = NEW NAME, merge NAME = OTHER NAME, pause, resume, step, help"
)
TEACH_SECONDS = 10.0
# How long to wait for a line before looking whether to end.
LOOK_SECONDS = 0.2
# Far longer than any command; a file that was piped in by mistake is not read into memory.
MOST_CHARACTERS = 1000

_ALONE: dict[str, Action] = {"stop": "stop", "undo": "undo", "pause": "pause", "resume": "resume", "step": "step"}
_PAIRS: dict[str, Action] = {"rename": "rename", "merge": "merge"}

log = logging.getLogger("robot-edge")


def parse_line(line: str) -> Command | None:
    """Return what a line asks for; None for an empty one and for help. Raises ConfigError for what makes no sense."""
    text = line.strip()
    word, _, rest = text.partition(" ")
    rest = rest.strip()
    match word:
        case "" | "help" | "?":
            return None
        case "teach" if rest:
            name, seconds = _with_seconds(rest)
            return _command("teach", name=name, seconds=seconds)
        case "forget" if rest:
            return _command("forget", name=rest)
        case "rename" | "merge" if rest:
            name, equals, to = rest.partition("=")
            if not (equals and name.strip() and to.strip()):
                raise ConfigError(f"{word} NAME = OTHER NAME, please")
            return _command(_PAIRS[word], name=name.strip(), to=to.strip())
    if text in _ALONE:
        return _command(_ALONE[text])
    return _command("teach", name=text, seconds=TEACH_SECONDS)


@contextmanager
def listening(commands: Mailbox[Command], terminal: TextIO | None = None) -> Iterator[None]:
    """Within this context put what is typed into the mailbox, if somebody can type."""
    terminal = terminal or sys.stdin
    if terminal is None or terminal.closed or not terminal.isatty():
        yield
        return
    log.info("%s", HELP)
    thread = LoudThread("terminal", partial(_listen, commands, terminal), restarts=True)
    thread.start()
    try:
        yield
    finally:
        thread.close(2 * LOOK_SECONDS)


def _listen(commands: Mailbox[Command], terminal: TextIO, ending: threading.Event) -> None:
    # A thread that waits in readline() for good could hold up the interpreter's end, which closes the terminal.
    while not ending.is_set():
        if not select.select([terminal], [], [], LOOK_SECONDS)[0]:
            continue
        if _is_in_background(terminal):  # to read would stop the program
            ending.wait(LOOK_SECONDS)
            continue
        line = terminal.readline(MOST_CHARACTERS)
        if not line:  # Ctrl-D: whoever was there listens no more
            return
        try:
            command = parse_line(line)
            if command:
                commands.put(command)
            elif line.strip():
                log.info("%s", HELP)
        except (ConfigError, MalformedMessage) as error:
            log.warning("%s", error)


def _is_in_background(terminal: TextIO) -> bool:
    try:
        return os.tcgetpgrp(terminal.fileno()) != os.getpgrp()
    except OSError:  # not a terminal that controls jobs
        return False


def _with_seconds(text: str) -> tuple[str, float]:
    """Return a name, and how long to teach it, where the last word is a number."""
    name, _, last = text.rpartition(" ")
    try:
        seconds = float(last)
    except ValueError:
        return text, TEACH_SECONDS
    if not name:
        return text, TEACH_SECONDS
    if not 0 < seconds <= MAX_TEACH_SECONDS:
        raise ConfigError(f"teach for more than 0 and up to {MAX_TEACH_SECONDS} seconds, not {last}")
    return name.strip(), seconds


def _command(action: Action, *, name: str = "", to: str = "", seconds: float = 0.0) -> Command:
    return new_command(action, id_=f"terminal-{secrets.token_hex(4)}", name=name, to=to, seconds=seconds)
