"""A CSV file of what each episode shows: a number, or a first and a last one, and a class."""

from __future__ import annotations

import re
from pathlib import Path

from broker.errors import MalformedMessage, SourceError
from broker.wire.bounds import check_class_name
from robot_edge.sources.label_file import CLASS, COLUMNS, read_text, table_rows

# What the two columns are called, in any order, where the first line says so.
EPISODES = {"episode", "episodes", "episode index", "episode_index"}
CLASSES = COLUMNS[CLASS] | {"task"}
NUMBERS = re.compile(r"(\d{1,9})(?: ?(?:-|to) ?(\d{1,9}))?")
# An episode a second for a day; so a range of a typing slip does not fill memory.
MAX_EPISODES = 100_000
EXPECTED = "expected episode,class as in 3,cup or 4-9,fork"


def read_episode_labels(path: Path) -> dict[int, str]:
    """Return the class of each episode that the file names. Raises SourceError, which names the line."""
    where = f"--labels {path}"
    rows, _ = table_rows(read_text(path, where), where, 2)
    first, second = 0, 1
    if rows and not any(NUMBERS.fullmatch(cell) for cell in rows[0][1]):
        number, header = rows.pop(0)
        names = [cell.lower() for cell in header]
        places = [[place for place, name in enumerate(names) if name in known] for known in (EPISODES, CLASSES)]
        if any(len(found) != 1 for found in places):
            raise SourceError(f"{where}, line {number}: columns {', '.join(header)[:80]!r}: {EXPECTED}")
        first, second = places[0][0], places[1][0]
    labels: dict[int, str] = {}
    for number, cells in rows:
        try:
            episodes, name = _episodes(cells[first]), cells[second]
            check_class_name(name)
        except (IndexError, ValueError, MalformedMessage) as error:
            raise SourceError(f"{where}, line {number}: {','.join(cells)[:80]!r}: {error}; {EXPECTED}") from None
        if twice := [one for one in episodes if labels.setdefault(one, name) != name]:
            raise SourceError(f"{where}, line {number}: episode {twice[0]} is {labels[twice[0]]!r} on another line")
    if not labels:
        raise SourceError(f"{where} has no labels; {EXPECTED}")
    return labels


def _episodes(cell: str) -> range:
    found = NUMBERS.fullmatch(cell)
    if not found:
        raise ValueError(f"{cell[:40]!r} is no number of an episode")
    first, last = int(found[1]), int(found[2] or found[1])
    if not 0 <= last - first < MAX_EPISODES:
        raise ValueError(f"{cell[:40]!r} is no range of at most {MAX_EPISODES:,} episodes")
    return range(first, last + 1)
