"""One file of a data set's rows: the few columns that every frame needs at once, and pictures one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_edge.sources.lerobot.labels import SPOKEN, Labels, Named, named_by_values, named_by_words
from robot_edge.sources.lerobot.parquet import UnreadableParquet, columns_of, faults, open_parquet

EPISODE, TIME = "episode_index", "timestamp"
# Rows whose pictures, or words, are unpacked together.
PICTURES_AT_ONCE, WORDS_AT_ONCE = 8, 1024


class Rows:
    """A file, whose episodes stand one behind the other.

    times: of each row, in seconds since its episode's beginning. named: what each row shows; None without labels.
    """

    def __init__(self, path: Path, labels: Labels | None, more: tuple[str, ...] = ()) -> None:
        """Read all columns but pictures. more: further columns of numbers. Raises UnreadableParquet."""
        self.path = path
        valued = labels if labels and labels.column != SPOKEN else None
        columns = list(dict.fromkeys([EPISODE, TIME, *([valued.column] if valued else []), *more]))
        self._file = open_parquet(path, text=[valued.column] if valued and valued.is_text else [])
        try:
            table = columns_of(self._file, path, columns)
            self.times: NDArray[np.float64] = _numbers(table, TIME, np.float64)
            self.more = {name: table[name].to_numpy() for name in more}
            self._bounds = self._found(_numbers(table, EPISODE, np.int64))
            self.named: Named | None = None
            if valued and valued.name_of:
                self.named = named_by_values(table[valued.column], valued.name_of)
            elif labels:
                self.named = named_by_words(self._said(), self.times)
        except faults() as error:
            self.close()
            raise UnreadableParquet(f"{path}: {error}") from error
        except UnreadableParquet:
            self.close()
            raise

    def of(self, episode: int) -> range:
        """Return the numbers of an episode's rows."""
        return self._bounds.get(episode, range(0))

    def label(self, row: int) -> str | None:
        return self.named.names[self.named.places[row]] if self.named else None

    def pictures(self, column: str, row: int) -> Iterator[bytes | None]:
        """Yield the files of pictures from a row on, None for a row without. Raises UnreadableParquet."""
        groups, begin = self._groups_from(row)
        if column not in self._file.schema_arrow.names:
            raise UnreadableParquet(f"{self.path} has no column {column!r}")
        damaged = faults()  # known before: a generator may end when modules are gone
        try:
            for batch in self._file.iter_batches(PICTURES_AT_ONCE, row_groups=groups, columns=[column]):
                for value in batch.column(0)[max(0, row - begin) :]:
                    picture = value.as_py()
                    yield picture.get("bytes") if isinstance(picture, dict) else picture
                begin += batch.num_rows
        except damaged as error:
            raise UnreadableParquet(f"{self.path}: {error}") from error

    def close(self) -> None:
        self._file.close()

    def _groups_from(self, row: int) -> tuple[list[int], int]:
        """Return the row groups from that of a row on, and the number of their first row."""
        sizes = [self._file.metadata.row_group(one).num_rows for one in range(self._file.metadata.num_row_groups)]
        ends = np.cumsum(sizes)
        first = int(np.searchsorted(ends, row, "right"))
        return list(range(first, len(sizes))), int(ends[first - 1]) if first else 0

    def _found(self, episodes: NDArray[np.int64]) -> dict[int, range]:
        starts = [0, *(np.flatnonzero(np.diff(episodes)) + 1).tolist()] if len(episodes) else []
        found = {int(episodes[a]): range(a, b) for a, b in zip(starts, [*starts[1:], len(episodes)], strict=True)}
        if len(found) != len(starts):
            raise UnreadableParquet(f"{self.path}: the rows of an episode do not stand together")
        return found

    def _said(self) -> dict[int, Any]:
        """Return what is said of each episode, by its first row."""
        firsts, said, begin = sorted(rows.start for rows in self._bounds.values()), dict[int, Any](), 0
        for batch in self._file.iter_batches(WORDS_AT_ONCE, columns=[SPOKEN]):
            inside = [row for row in firsts if begin <= row < begin + batch.num_rows]
            said |= {row: batch.column(0)[row - begin].as_py() for row in inside}
            begin += batch.num_rows
        return said


def _numbers(table: Any, name: str, kind: type[np.generic]) -> NDArray[Any]:
    values = table[name]
    if values.null_count or not np.issubdtype(numbers := values.to_numpy().dtype, np.number):
        raise ValueError(f"column {name!r} has {values.null_count:,} rows without a value, or is {numbers}")
    return np.asarray(values.to_numpy(), kind)
