"""The file beside pictures that says what they show: metadata.jsonl or metadata.csv, as Hugging Face's imagefolder."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from broker.errors import SourceError
from broker.program.paths import shown
from robot_edge.sources.json_lines import json_lines
from robot_edge.sources.labels import NO_CLASS, class_named_by, label_field, listed
from robot_edge.sources.tally import Tally

NAMES = ("metadata.jsonl", "metadata.csv")
FILE = "file_name"
MAX_LINES = 10_000_000
# Of so many lines the fields are looked at, to find the class's.
LINES_LOOKED_AT = 100


@dataclass(frozen=True, kw_only=True)
class MetadataFile:
    """A file in the folder of the pictures, and which of its fields has the class."""

    path: Path
    field: str

    @property
    def name(self) -> str:
        return self.path.name

    def read(self, tally: Tally) -> dict[str, str | None]:
        """Return the class of each picture, by its path below the folder; None where none is said.

        Lines that cannot be read, and labels that no class can have, are counted. Raises SourceError.
        """
        named: dict[str, str | None] = {}
        for number, row in _rows(self.path):
            where = f"line {number}"
            try:
                if isinstance(row, str):
                    raise ValueError(row)
                place = _place(row)
            except ValueError as error:
                tally.add(f"lines of {self.name} that name no picture", f"{where}: {error}")
                continue
            try:
                named[place] = class_named_by(row.get(self.field))
                if named[place] is None:
                    tally.add(f"pictures without a label in {self.name}", place)
            except ValueError as error:
                named[place] = None
                tally.add(NO_CLASS, f"{where}: {error}")
        return named


def find_metadata(path: Path, asked: str) -> MetadataFile | None:
    """Return the file of a folder's pictures that says their classes; None where there is none that does.

    asked: the field with the class; empty for a likely one. Raises SourceError.
    """
    for name in NAMES:
        file = path / name
        if not file.is_file():
            continue
        rows = (row for _, row in islice(_rows(file), LINES_LOOKED_AT) if not isinstance(row, str))
        fields = [field for row in rows for field in row if field != FILE]
        if field := label_field(fields, asked, shown(file)):
            return MetadataFile(path=file, field=field)
        if not _has_folders(path):
            raise SourceError(
                f"nothing says what the pictures in {shown(path)} show: none of the fields of {name} is called label; "
                f"name one with --label-field: {listed(dict.fromkeys(fields))}"
            )
    return None


def _has_folders(path: Path) -> bool:
    with os.scandir(path) as entries:
        return any(entry.is_dir() and not entry.name.startswith(".") for entry in entries)


def _place(row: dict[str, Any]) -> str:
    """Return the path of a line's picture below the folder. Raises ValueError."""
    name = row.get(FILE)
    if not isinstance(name, str) or not name:
        raise ValueError(f"it has no {FILE}")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name[:80]} is not below the folder")
    return str(path)


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield number and fields of each line; in place of one that cannot be read, why. Raises SourceError."""
    if file.suffix == ".jsonl":
        yield from json_lines(file, MAX_LINES)
        return
    try:
        with file.open(encoding="utf-8-sig", errors="replace", newline="") as text:
            yield from islice(_csv_rows(text), MAX_LINES)
    except OSError as error:
        raise SourceError(f"{shown(file)} cannot be read: {error.strerror}") from error


def _csv_rows(text: Any) -> Iterator[tuple[int, dict[str, Any] | str]]:
    rows = csv.DictReader(text)
    try:
        for row in rows:
            yield rows.line_num, {str(name): value for name, value in row.items() if name is not None}
    except csv.Error as error:
        yield rows.line_num, str(error)
