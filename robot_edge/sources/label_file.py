"""The file that says what a video shows when, as spreadsheets and annotation tools write it."""

from __future__ import annotations

import codecs
import csv
import io
import logging
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from broker.errors import MalformedMessage, SourceError
from broker.wire.bounds import check_class_name

# A line a second for a day; a file that is larger is something else.
MAX_INTERVALS = 100_000
MAX_LABEL_BYTES = 10_000_000
# Tools round times to milliseconds, so the end of one interval may lie that far behind the next one's start.
ROUNDING_SECONDS = 0.001
# Spreadsheets use the semicolon where the comma is the decimal sign. The comma comes last: "0;4,5;cup" has one, too.
SEPARATORS = "\t;|,"
# What tools call the three columns, without the unit.
START, END, CLASS = "start", "end", "class"
COLUMNS = {
    START: {"start", "begin", "from", "onset", "in", "start time", "begin time", "time start", "t start", "tmin"},
    END: {"end", "stop", "to", "until", "offset", "out", "end time", "stop time", "time end", "t end", "tmax"},
    CLASS: {"class", "label", "name", "text", "tag", "category", "annotation", "object", "class name", "behavior"},
}
# Units behind a column's name, and what one of each is in seconds.
UNITS = {"": 1.0, "s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0, "ss.msec": 1.0, "hh:mm:ss": 1.0}
UNITS |= {"hh:mm:ss.ms": 1.0, "ms": 0.001, "msec": 0.001, "msecs": 0.001, "millisecond": 0.001, "milliseconds": 0.001}
FRAMES = re.compile(r"\b(frames?|frame (nr|no|number|index))\b")
CLOCK = re.compile(r"(?:(\d{1,4}):)?(\d{1,4}):(\d{1,2}(?:\.\d+)?)")
# What is no text, by its first bytes; with what to do.
OTHER_FILES = {
    b"PK\x03\x04": "is a workbook (xlsx, ods): save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "is a workbook (xls): save the sheet as CSV",
}
EXPECTED = "expected start,end,class as in 0,12.5,cup"

log = logging.getLogger("robot-edge")


@dataclass(frozen=True, kw_only=True)
class Interval:
    """What is shown from ``start`` until before ``end``, in seconds on the clock of a video's player."""

    start: float
    end: float
    name: str


# A line of the file: its number from 1, and its cells.
Row = tuple[int, list[str]]


class Layout(NamedTuple):
    """Where start, end and class stand in a row, what 1 is in seconds, and whether a line says so."""

    places: Sequence[int] = range(3)
    factor: float = 1.0
    is_named: bool = False


def read_labels(path: Path) -> list[Interval]:
    """Read a CSV file with the columns start, end and class; sorted by time.

    Read as well: other separators, decimal commas, h:m:s, UTF-16, Windows-1252 (said), other names of the columns, and
    other orders of them where the first line names them. Raises SourceError, which names the line.
    """
    where = f"--labels {path}"
    rows, separator = table_rows(read_text(path, where), where, len(COLUMNS))
    layout = _layout(rows, where)
    if not 0 < len(rows) <= MAX_INTERVALS:
        raise SourceError(f"{where}: {len(rows):,} lines with labels; use 1 to {MAX_INTERVALS:,}")
    found = ((_interval(row, layout, separator, f"{where}, line {number}"), number) for number, row in rows)
    intervals = sorted(found, key=lambda one: one[0].start)
    for (one, number), (other, later) in pairwise(intervals):
        if other.start < one.end - ROUNDING_SECONDS:
            raise SourceError(f"{where}: lines {number} and {later} say what is shown at {other.start:g} s")
    return [interval for interval, _ in intervals]


def read_text(path: Path, where: str) -> str:
    """Return the text of a spreadsheet's file. Raises SourceError."""
    return _text(_bytes(path, where), where)


def _bytes(path: Path, where: str) -> bytes:
    try:
        if path.stat().st_size > MAX_LABEL_BYTES:
            raise SourceError(f"{where}: {path.stat().st_size:,} bytes, limit {MAX_LABEL_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{where}: {error.strerror or error}") from error


def _text(content: bytes, where: str) -> str:
    """Decode a file of a spreadsheet. Raises SourceError."""
    for begin, what in OTHER_FILES.items():
        if content.startswith(begin):
            raise SourceError(f"{where} {what}")
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if is_utf16 else "utf-8-sig"
    try:
        text = content.decode(encoding)
        if "\0" in text:
            raise SourceError(f"{where} is no text, or UTF-16 that does not say so: save it as UTF-8")
        return _lines(text)
    except UnicodeError as error:
        if is_utf16:
            raise SourceError(f"{where} begins as UTF-16, but is none: save it as UTF-8") from error
    try:
        text = content.decode("cp1252")
    except UnicodeError as error:
        raise SourceError(f"{where} is neither UTF-8 nor Windows-1252: save it as UTF-8") from error
    line = next(line for line in text.splitlines() if not line.isascii())
    log.warning("%s is no UTF-8 and was read as Windows-1252, as in %r: save it as UTF-8 if that is wrong", where, line)
    return _lines(text)


def _lines(text: str) -> str:
    """Return the text with the line ends of Unix; an old Mac's are lone carriage returns."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def table_rows(text: str, where: str, cells: int) -> tuple[list[Row], str]:
    """Return the lines with something in them, and the separator of their cells, of which there should be so many.

    Raises SourceError.
    """
    first, _, rest = text.partition("\n")
    if re.fullmatch(r"sep=.", first.strip("\ufeff ")):  # Excel's own first line
        rows, separators = "\n" + rest, first.strip()[-1]
    else:
        rows, separators = text, SEPARATORS
    try:
        tried = [(list(_split(rows, separator)), separator) for separator in separators]
    except csv.Error as error:
        raise SourceError(f"{where}: {error}") from error
    # The first one that makes enough cells of most lines, or else the most cells.
    return max(tried, key=lambda one: (_whole(one[0], cells), sum(len(row) for _, row in one[0])))


def _whole(rows: list[Row], cells: int) -> int:
    return sum(len(row) >= cells for _, row in rows)


def _split(text: str, separator: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True)
    for row in reader:
        cells = [cell.strip() for cell in row]
        if any(cells) and not cells[0].startswith("#"):
            yield reader.line_num, cells


def _layout(rows: list[Row], where: str) -> Layout:
    """Take the line with the columns' names away, where there is one, and return what it says. Raises SourceError."""
    if not rows or any(_is_time(cell) for cell in rows[0][1]) or not any(_column(cell)[0] for cell in rows[0][1]):
        return Layout()
    number, header = rows.pop(0)
    columns = [_column(cell) for cell in header]
    names = [name for name, _ in columns]
    if missing := [name for name in COLUMNS if names.count(name) != 1]:
        raise SourceError(
            f"{where}, line {number}: columns {', '.join(header)[:80]!r}: needs one for {' and '.join(missing)}"
        )
    places = [names.index(name) for name in COLUMNS]
    units = {columns[place][1] for place in places[:2]}
    factor = UNITS.get(next(iter(units))) if len(units) == 1 else None
    if factor is None:
        frames = any(FRAMES.search(unit) for unit in units)
        advice = "divide numbers of frames by the video's frames per second" if frames else "use seconds"
        raise SourceError(f"{where}, line {number}: start and end are in {' and '.join(sorted(units))!r}: {advice}")
    return Layout(places, factor, is_named=True)


def _column(cell: str) -> tuple[str, str]:
    """Return (start, end, class, or empty for none of them; the unit) of a column by its name."""
    words = re.sub(r"[\s_()\[\],-]+", " ", cell.lower()).strip()
    for column, names in COLUMNS.items():
        for name in names:
            if words == name:
                return column, ""
            if words.startswith(f"{name} "):
                unit = words[len(name) + 1 :]
                if unit in UNITS or FRAMES.search(unit):
                    return column, unit
            elif words.endswith(f" {name}") and FRAMES.fullmatch(words[: -len(name) - 1]):
                return column, "frames"
    return "", ""


def _is_time(cell: str) -> bool:
    try:
        _seconds(cell, ";")
    except ValueError:
        return False
    return True


def _seconds(cell: str, separator: str) -> float:
    """Return the seconds that a cell says: 4.5, 4,5 or 0:00:04.5. Raises ValueError."""
    number = cell.replace(",", ".") if separator != "," and cell.count(",") == 1 and "." not in cell else cell
    if clock := CLOCK.fullmatch(number):
        hours, minutes, seconds = (float(part or 0) for part in clock.groups())
        return 3600 * hours + 60 * minutes + seconds
    try:
        return float(number)
    except ValueError:
        raise ValueError(f"{cell[:40]!r} is no time in seconds") from None


def _interval(row: list[str], layout: Layout, separator: str, where: str) -> Interval:
    shown = separator.join(row)[:80]
    try:
        if len(row) <= max(layout.places) or (not layout.is_named and any(row[len(COLUMNS) :])):
            raise ValueError(f"it has {len(row)} columns")
        start, end, name = (row[place] for place in layout.places)
        times = (layout.factor * _seconds(cell, separator) for cell in (start, end))
        interval = Interval(start=next(times), end=next(times), name=name)
        if not 0 <= interval.start < interval.end < math.inf:
            raise ValueError(f"from {start} to {end} is no time")
        check_class_name(name)
    except (ValueError, MalformedMessage) as error:
        raise SourceError(f"{where}: {shown!r}: {error}; {EXPECTED}") from None
    return interval
