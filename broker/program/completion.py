"""What a shell runs to complete a program's commands and flags when Tab is pressed."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any, Literal

Shell = Literal["bash", "zsh", "fish"]

# tyro prints one completion a line, with its help behind it. Further lines of a help would be completions, too.
PRINTED, PRINTED_IN_ONE_LINE = "print(completion)", 'print(" ".join(completion.splitlines()))'


def completion_script(cli: Callable[..., Any], program: str, shell: Shell) -> str:
    """Return the script for a shell. cli: of tyro's application, which makes it."""
    with contextlib.redirect_stdout(io.StringIO()) as script, contextlib.suppress(SystemExit):
        cli(prog=program, args=["--tyro-print-completion", shell])
    return script.getvalue().replace(PRINTED, PRINTED_IN_ONE_LINE)
