"""Paths as people type them: with ~ for home, and now and then with a slip."""

from __future__ import annotations

import difflib
import os
from itertools import islice
from pathlib import Path

# Entries of a folder among which a mistyped name is looked for: comparing them takes less than 0.1 s.
MAX_COMPARED = 10_000


def typed_path(text: str | Path) -> Path:
    """Return the path that somebody typed, where ~ means home: behind a colon, and in a file, no shell replaces it."""
    return Path(os.path.expanduser(text))


def shown(path: str | Path) -> str:
    """Return a path as any terminal can show it: what is not UTF-8 in it by the numbers of its bytes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def did_you_mean(path: Path) -> str:
    """Return " (did you mean PATH?)" with what is there and is called nearly like a path that is not; else nothing."""
    missing = path
    while not os.path.lexists(missing.parent) and missing.parent != missing:
        missing = missing.parent
    likely = like(missing.name, _names_in(missing.parent))
    if not likely:
        return ""
    begin = missing.with_name(likely)
    whole = begin / path.relative_to(missing)
    return f" (did you mean {shown(whole if os.path.lexists(whole) else begin)}?)"


def like(word: str, words: list[str]) -> str:
    """Return the one of the words that is most like a word, whatever its case; empty where none is like it."""
    by_case = {one.casefold(): one for one in words}
    found = difflib.get_close_matches(word.casefold(), by_case, n=1)
    return by_case[found[0]] if found else ""


def what_is_wrong(path: Path) -> str:
    """Return why a path cannot be used at all, with what may be meant; empty where something is there."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            return f"is a link to {shown(os.readlink(path))}, which does not exist"
        return f"does not exist{did_you_mean(path)}"
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    except ValueError as error:
        return f"is no path: {error}"
    return ""


def _names_in(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in islice(entries, MAX_COMPARED)]
    except OSError:
        return []
