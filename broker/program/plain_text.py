"""Text of others as people may see it: names, paths and messages are shown on a terminal, never obeyed by it.

An escape sequence in a class name or in a robot's message could clear a terminal, retitle it or hide a line; a line
break in one could forge a line of the log.
"""

from __future__ import annotations

import logging
import sys
import unicodedata
from typing import TextIO

# Control characters, and what is half a character: a byte of a file's name that is no UTF-8.
_HIDDEN = {"Cc", "Cs"}
# They turn the order of what follows around, so that a line reads as another one.
_TURNING = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")
_KEPT = {"\n", "\t"}
# In front of the further lines of a log message, which so cannot pass for messages.
INDENT = "    "


def visible(text: str) -> str:
    r"""Return the text with control characters written as Python does, as ``\x1b``; line breaks and tabs stay."""
    if text.isprintable():
        return text
    return "".join(_escaped(character) if _is_hidden(character) else character for character in text)


def say(text: str, file: TextIO | None = None) -> None:
    """Print a line that may hold others' text, at once. file: stdout by default."""
    print(visible(text), file=file or sys.stdout, flush=True)


def counted(number: int, one: str, several: str = "") -> str:
    """Return how many there are, as in "1 class" and "2,000 classes". several: where that is no plain plural."""
    regular = f"{one}es" if one.endswith(("s", "ch", "x")) else f"{one}s"
    return f"{number:,} {one if number == 1 else several or regular}"


class PlainFormatter(logging.Formatter):
    """Formats log lines, in which control characters are shown and a message stays one message."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802, logging's own name
        """Return the line of a record, further lines of its message indented."""
        return super().formatMessage(record).replace("\n", f"\n{INDENT}")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with a traceback where there is one."""
        return visible(super().format(record))


def let_output_take_all_characters() -> None:
    """Let stdout and stderr escape what their encoding lacks: a class named in Chinese ends no run on Latin-1."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")


def _is_hidden(character: str) -> bool:
    if character in _KEPT:
        return False
    return character in _TURNING or unicodedata.category(character) in _HIDDEN


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
