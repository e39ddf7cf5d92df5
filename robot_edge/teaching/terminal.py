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
from difflib import get_close_matches
from functools import partial
from typing import Literal, TextIO

from broker.errors import ConfigError, MalformedMessage
from broker.link.mailbox import Mailbox
from broker.program.threads import LoudThread
from broker.wire.bounds import MAX_TEACH_SECONDS
from broker.wire.messages import Action, Command
from hierarchy.runtime.command_line import StopRequest
from robot_edge.teaching.commands import new_command

HELP = """\
type a name and Enter to teach what the camera shows for 10 s; or
teach NAME SECONDS        for another time; teach quit is for a class of that name
stop, undo                end the lesson; take the last one back
forget NAME               on this robot; forget-everywhere NAME for its whole fleet
rename NAME = NEW NAME
merge NAME = OTHER NAME
look LEFT,TOP,WIDTH,HEIGHT  of each frame, in pixels or percent (25%,10%,50%,80%); look whole for all of it
use own, use fleet        answer with the robot's own exit alone, or with its fleet's beside it
pause, resume, step       for a replay
help, quit"""
TEACH_SECONDS = 10.0
# How long to wait for a line before looking whether to end.
LOOK_SECONDS = 0.2
# Far longer than any command; a file that was piped in by mistake is not read into memory.
MAX_CHARACTERS = 1000

# What people type to end a program, and to hear what they can type.
QUIT, ASK_FOR_HELP = frozenset({"quit", "exit", "q", ":q", "bye"}), frozenset({"help", "h", "?"})
# A name that is spelt nearly like a command is most likely that command: "undoo", "resum"; but not "peach" or "ship".
ALIKE = 0.85
# In front of more words less is enough: "teech star" is a command, and few names begin like one.
ALIKE_WITH_MORE = 0.8
# Ends of file in a row after which nobody is there: Ctrl-D gives one, a terminal that was closed no end of them.
MAX_ENDS = 3

_ALONE: dict[str, Action] = {"stop": "stop", "undo": "undo", "pause": "pause", "resume": "resume", "step": "step"}
_USES: dict[str, Action] = {"own": "use-own", "fleet": "use-fleet"}
_FORGETS: dict[str, Action] = {"forget": "forget", "forget-everywhere": "forget-everywhere"}
_PAIRS: dict[str, Action] = {"rename": "rename", "merge": "merge"}
USAGE = {
    "teach": "teach NAME, or teach NAME SECONDS",
    "forget": "forget NAME",
    "forget-everywhere": "forget-everywhere NAME",
    "rename": "rename NAME = OTHER NAME",
    "merge": "merge NAME = OTHER NAME",
    "use": "use own, or use fleet",
    "look": "look LEFT,TOP,WIDTH,HEIGHT, in pixels or percent, or look whole",
}

log = logging.getLogger("robot-edge")


def parse_line(line: str) -> Command | Literal["help", "quit"] | None:
    """Return what a line asks for; None for an empty one. Raises ConfigError for what makes no sense.

    What begins like a command is never taken for a name: ``teach NAME`` is for those.
    """
    text = line.strip()
    first, _, rest = text.partition(" ")
    alone, word, rest = text.lower(), first.lower(), rest.strip()
    if not text:
        return None
    if alone in QUIT:
        return "quit"
    if alone in ASK_FOR_HELP:
        return "help"
    if word == "teach" and rest:
        name, seconds = _with_seconds(rest)
        return _command("teach", name=name, seconds=seconds)
    if word in _FORGETS and rest:
        return _command(_FORGETS[word], name=rest)
    if word == "look" and rest:
        return _command("look", region=rest)
    if word == "use" and rest.lower() in _USES:
        return _command(_USES[rest.lower()])
    if word in _PAIRS and "=" in rest:
        return _pair(word, rest)
    if alone in _ALONE:
        return _command(_ALONE[alone])
    _refuse_command(text, word)
    return _command("teach", name=text, seconds=TEACH_SECONDS)


def _pair(word: str, rest: str) -> Command:
    name, _, to = rest.partition("=")
    if not (name.strip() and to.strip()):
        raise ConfigError(USAGE[word])
    return _command(_PAIRS[word], name=name.strip(), to=to.strip())


def _refuse_command(text: str, word: str) -> None:
    """Raise ConfigError where somebody may have meant a command: to teach by mistake is the harder one to mend."""
    instead = f"Nothing is taught. To teach a class of that name: teach {text}"
    if word in USAGE:
        raise ConfigError(f"{USAGE[word]}. {instead}")
    if word in _ALONE or word in QUIT:
        raise ConfigError(f"{word} stands alone in its line. {instead}")
    whole = word == text.lower()
    commands = [*_ALONE, *USAGE, *QUIT, *ASK_FOR_HELP] if whole else [*USAGE]
    if alike := get_close_matches(word, commands, n=1, cutoff=ALIKE if whole else ALIKE_WITH_MORE):
        raise ConfigError(f"did you mean {alike[0]}? {instead}")


@contextmanager
def listening(commands: Mailbox[Command], stop: StopRequest, terminal: TextIO | None = None) -> Iterator[None]:
    """Within this context put what is typed into the mailbox, if somebody can type; ``quit`` asks to stop."""
    terminal = terminal or sys.stdin
    if terminal is None or terminal.closed or not terminal.isatty():
        yield
        return
    log.info("%s", HELP)
    thread = LoudThread("terminal", partial(_listen, commands, stop, terminal), restarts=True)
    thread.start()
    try:
        yield
    finally:
        thread.close(2 * LOOK_SECONDS)


def _listen(commands: Mailbox[Command], stop: StopRequest, terminal: TextIO, ending: threading.Event) -> None:
    # A thread that waits in readline() for good could hold up the interpreter's end, which closes the terminal.
    ends = 0
    while not ending.is_set() and ends < MAX_ENDS:
        if not select.select([terminal], [], [], LOOK_SECONDS)[0]:
            continue
        if _is_in_background(terminal):  # to read would stop the program
            ending.wait(LOOK_SECONDS)
            continue
        try:
            line = terminal.readline(MAX_CHARACTERS)
        except OSError:  # the terminal has gone
            return
        ends = 0 if line else ends + 1
        if line.endswith("\n"):
            _obey(line, commands, stop)
        else:  # Ctrl-D, in the middle of a line too: half a name is none. A robot whose terminal has gone works on.
            log.info("Ctrl-D teaches nothing and ends nothing: quit, or Ctrl-C, ends the program")


def _obey(line: str, commands: Mailbox[Command], stop: StopRequest) -> None:
    try:
        asked = parse_line(line)
    except (ConfigError, MalformedMessage) as error:
        log.warning("%s", error)
        return
    if asked == "quit":
        log.info("stopping, as Ctrl-C would")
        stop.made = True
    elif asked == "help":
        log.info("%s", HELP)
    elif asked:
        commands.put(asked)


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


def _command(action: Action, *, name: str = "", to: str = "", seconds: float = 0.0, region: str = "") -> Command:
    id_ = f"terminal-{secrets.token_hex(4)}"
    return new_command(action, id_=id_, name=name, to=to, seconds=seconds, region=region)
