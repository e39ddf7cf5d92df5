"""Parquet files, by pyarrow: columns as wide as memory allows, and whatever is wrong with a file as one error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from broker.errors import SourceError

# LeRobot's files have 100 MB, and a row without its pictures some bytes at least.
MAX_ROWS = 20_000_000
# Of the columns that are read whole, unpacked so many rows at a time.
MAX_COLUMN_BYTES = 1_000_000_000
ROWS_AT_ONCE = 1 << 16
# Pages are read one after the other through this buffer, so that pictures are not read a row group at a time.
BUFFER_BYTES = 1 << 20


class UnreadableParquet(Exception):
    """A file that is missing, damaged, too large, or lacks what is asked of it. Its text says which."""


def load_pyarrow() -> Any:
    """Return pyarrow with pyarrow.parquet. Raises SourceError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise SourceError("lerobot: needs pyarrow: pip install 'reflexarc[lerobot]'") from None
    return pyarrow


def open_parquet(path: Path, *, text: Sequence[str] = ()) -> Any:
    """Return the pyarrow.parquet.ParquetFile. text: columns that repeat few words. Raises UnreadableParquet."""
    pa = load_pyarrow()
    try:
        file = pa.parquet.ParquetFile(path, read_dictionary=list(text) or None, buffer_size=BUFFER_BYTES)
        if file.metadata.num_rows > MAX_ROWS:
            raise UnreadableParquet(f"{path}: {file.metadata.num_rows:,} rows, limit {MAX_ROWS:,}")
    except FileNotFoundError:
        raise UnreadableParquet(f"{path} is missing") from None
    except faults() as error:
        raise UnreadableParquet(f"{path}: {_reason(error)}") from error
    return file


def read_columns(path: Path, columns: Sequence[str], *, text: Sequence[str] = ()) -> Any:
    """Return these columns of a file, a pyarrow.Table. text: as above. Raises UnreadableParquet."""
    with open_parquet(path, text=text) as file:
        return columns_of(file, path, columns)


def columns_of(file: Any, path: Path, columns: Sequence[str]) -> Any:
    """Return these columns of an open file, a pyarrow.Table. Raises UnreadableParquet."""
    if missing := [name for name in columns if name not in file.schema_arrow.names]:
        raise UnreadableParquet(
            f"{path} has no column {missing[0]!r}; it has {', '.join(file.schema_arrow.names)[:400]}"
        )
    pa = load_pyarrow()
    batches, size = [], 0
    try:
        # The sizes in the file's index would tell before, but pyarrow ends the process at some damaged ones.
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=list(columns)):
            size += batch.nbytes
            if size > MAX_COLUMN_BYTES:
                raise UnreadableParquet(f"{path}: {', '.join(columns)} have more than {MAX_COLUMN_BYTES:,} bytes")
            batches.append(batch)
        return pa.Table.from_batches(batches, None if batches else file.schema_arrow).unify_dictionaries()
    except faults() as error:
        raise UnreadableParquet(f"{path}: {_reason(error)}") from error


def faults() -> tuple[type[Exception], ...]:
    """Return what pyarrow raises of damaged bytes."""
    return (load_pyarrow().ArrowException, OSError, ValueError, MemoryError)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    if "magic bytes" in text or "footer" in text or "file size is 0" in text:
        return "it has no end: its recording was not ended (a parquet file has its index last)"
    return text
