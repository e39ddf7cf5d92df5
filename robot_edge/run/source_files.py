"""Which files a run's source had when it began. A run goes on with those, whatever has come and gone meanwhile."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.errors import ConfigError
from broker.program.machine import refused
from broker.program.paths import shown, typed_path
from broker.program.plain_text import counted
from hierarchy.runtime.checkpoint import write_json
from hierarchy.runtime.state import Layout
from robot_edge.run.config import RobotConfig
from robot_edge.sources.encoded import SUFFIXES
from robot_edge.sources.frames import Numbering
from robot_edge.sources.listing import list_pictures
from robot_edge.sources.passwords import masked
from robot_edge.sources.recordings import INDEX_FILES, index_files

FILE = "source.json"
LABELS = "--labels"
# A recording that has other contents has them at its beginning or its end as well, where its index is.
COMPARED_BYTES = 65_536
# Formats in which all pictures of a camera have the same number of bytes, as most do not compress.
OF_ONE_SIZE = frozenset(suffix for kind in ("BMP", "PPM", "TIFF") for suffix in SUFFIXES[kind])

log = logging.getLogger("robot-edge")


@dataclass(frozen=True, kw_only=True)
class SourceFiles:
    """Files by their paths, each with a mark that tells other contents.

    numbers: of the same files. A picture keeps its number, by which it is held out, in every run that begins with the
    weights of this one.
    """

    marks: dict[str, str]
    numbers: dict[str, int]

    def write(self, run: Path) -> None:
        """Write them into a run's folder. Raises ConfigError."""
        if not self.marks:
            return
        try:
            write_json(run / FILE, LAYOUT.pack(self))
        except OSError as error:
            raise refused(f"--run-dir {run}", error, path=run) from error


def _with_names(entries: dict[str, Any]) -> dict[str, Any]:
    """Version 0 had a number and a mark for each path, and nothing else."""
    return {
        "marks": {path: mark for path, (_, mark) in entries.items()},
        "numbers": {path: number for path, (number, _) in entries.items()},
    }


LAYOUT = Layout(kind=SourceFiles, migrations=(_with_names,))


def read_files(run: Path) -> SourceFiles | None:
    """Return what the source of a run had when it began; None for a run that has not written it."""
    try:
        return LAYOUT.read(run / FILE)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{run / FILE} cannot be read ({error}): put a copy of it back, or remove it") from error


def files_of(config: RobotConfig) -> SourceFiles:
    """Return what the source has now; nothing for one that is no file. Raises SourceError."""
    kind, _, rest = config.source.source.partition(":")
    path = typed_path(rest)
    marks: dict[str, str] = {}
    if kind == "folder":
        listing = list_pictures(path, config.source.options.label_field)
        marks = {place: _picture_mark(os.path.join(path, place)) for place, _ in listing.pictures}
        if listing.metadata:  # which may come to say another class
            marks = {place: f"{marks[place]} {name}" for place, name in listing.pictures}
    elif kind in INDEX_FILES:
        marks = {name: _mark(file) for name, file in index_files(kind, path).items()}
    if kind in ("video", "lerobot") and config.source.options.labels:
        marks[LABELS] = _mark(typed_path(config.source.options.labels))
    return SourceFiles(marks=marks, numbers={place: number for number, place in enumerate(marks)})


def go_on_with(before: SourceFiles, now: SourceFiles, config: RobotConfig) -> Numbering | None:
    """Return how the pictures of a run that goes on are numbered: as they were, with those that are gone.

    Says what has come and gone; None where the source is no folder. Raises ConfigError where a file has other contents.
    """
    is_folder = config.source.source.startswith("folder:")
    changed = [path for path, mark in before.marks.items() if now.marks.get(path, mark) != mark]
    gone = [path for path in before.marks if path not in now.marks]
    new = [path for path in now.marks if path not in before.marks]
    if not is_folder:
        changed += gone + new
    if changed:
        raise ConfigError(
            f"{masked(config.source.source)} is not what it was when the run in {config.run_path} began "
            f"({_some(changed)}): it might be tested on what it was trained on. Put back what was there, or choose "
            f"another --run-dir, with --weights {config.run_path} to go on from what was learned"
        )
    if gone:
        log.warning("%s gone since the run began, and passed over: %s", _count(gone), _some(gone))
    if new:
        log.warning(
            "%s new since the run began, and not shown: %s. To learn from all of them choose another --run-dir, with "
            "--weights %s",
            _count(new),
            _some(new),
            config.run_path,
        )
    return Numbering(numbers=before.numbers, is_all=True) if is_folder else None


def begin_behind(former: SourceFiles, now: SourceFiles) -> SourceFiles:
    """Return the files of a run that begins with the weights of a former one.

    What that one has shown keeps its number, so that nothing which was trained on is held out. Others come behind.
    """
    kept = {path: former.numbers[path] for path, mark in now.marks.items() if former.marks.get(path) == mark}
    if not kept:
        return now
    behind = max(former.numbers.values()) + 1
    new = {path: behind + place for place, path in enumerate(path for path in now.marks if path not in kept)}
    return SourceFiles(marks=now.marks, numbers={**kept, **new})


def _picture_mark(path: str) -> str:
    """Return what tells another picture: the size of a compressed one, which hardly two have alike; else a digest."""
    if os.path.splitext(path)[1].lower() in OF_ONE_SIZE:
        return _mark(Path(path))
    try:
        return str(os.stat(path).st_size)
    except OSError:
        return "gone"


def _mark(path: Path) -> str:
    """Return what tells other contents of a file: its size, and a digest of its beginning and its end."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            begin = file.read(COMPARED_BYTES)
            file.seek(max(0, size - COMPARED_BYTES))
            digest = hashlib.blake2b(begin + file.read(COMPARED_BYTES), digest_size=8).hexdigest()
    except OSError:
        return "gone"
    return f"{size} {digest}"


def _count(paths: list[str]) -> str:
    return counted(len(paths), "picture is", "pictures are")


def _some(paths: list[str]) -> str:
    return shown(paths[0]) + (f" and {len(paths) - 1:,} more" if len(paths) > 1 else "")
