"""Lines of JSON objects in a file that may have been left half-written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from broker.errors import SourceError
from broker.program.paths import shown

# A line describes one picture; one that is longer is something else.
MAX_LINE = 1_000_000


def json_lines(path: Path, most: int) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield the number, from 1, and the object of each line; in place of one that is none, why. Raises SourceError.

    most: lines that are read at most.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as text:
            for number in range(1, most + 1):
                line = text.readline(MAX_LINE)
                if not line:
                    return
                if line.strip():
                    yield number, _object(line)
    except OSError as error:
        raise SourceError(f"{shown(path)} cannot be read: {error.strerror}") from error


def _object(line: str) -> dict[str, Any] | str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"no JSON: {error}"[:120]
    return value if isinstance(value, dict) else f"no JSON object: {line[:80]!r}"
