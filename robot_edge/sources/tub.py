"""Frames from a tub, the recording of a donkeycar, in its second version (donkeycar/parts/datastore_v2.py)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.errors import SourceError
from broker.program.paths import shown
from robot_edge.sources.folder import read_picture
from robot_edge.sources.indexed import Record, Recording
from robot_edge.sources.json_lines import json_lines
from robot_edge.sources.labels import LABEL_FIELDS, NO_CLASS, camera_of, class_named_by, label_field, listed
from robot_edge.sources.tally import Tally

MANIFEST, IMAGES = "manifest.json", "images"
# Types of fields whose pictures are files of their own, and of those that may name a class.
PICTURE_TYPES = ("image_array", "gray16_array")
LABEL_TYPES = ("str", "int", "boolean")
# Where donkeycar has the lane or the place that a picture shows.
LIKELY = ("behavior/label", "localizer/location", *LABEL_FIELDS)
# The manifest lists the records that were deleted: a day at 20 a second are 2,000,000.
MAX_MANIFEST = 20_000_000
MAX_RECORDS = 10_000_000
CATALOG = re.compile(r"catalog_(\d+)\.catalog")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """types: of each field. catalogs: names of the files with records. deleted: records that do not count."""

    types: dict[str, str]
    catalogs: tuple[str, ...]
    deleted: frozenset[int]

    @property
    def cameras(self) -> list[str]:
        return [name for name, kind in self.types.items() if kind in PICTURE_TYPES]

    @property
    def fields(self) -> list[str]:
        return [name for name, kind in self.types.items() if kind in LABEL_TYPES]


def read_tub(path: Path, camera: str = "", field: str = "") -> Recording:
    """Return the records of a tub, in the order in which they were driven. Frames of a second share a scene.

    camera: empty for the only one. field: with the class; empty for a likely one. Raises SourceError.
    """
    where = f"tub {shown(path)}"
    manifest = read_manifest(path)
    camera = camera_of(manifest.cameras, camera, where)
    field = label_field(manifest.fields, field, where, LIKELY)
    tally = Tally()
    records = list(_records(path, manifest, camera, field, tally))
    if not records:
        raise SourceError(f"{where} has no picture of {camera}")
    fields = listed(manifest.fields)
    unlabelled = (
        f"field {field} of {where} is empty everywhere: name another with --label-field: {fields}"
        if field
        else f"nothing says what {where} shows: name a field with --label-field: {fields}"
    )
    return Recording(
        where=where,
        records=records,
        read=read_picture,
        in_order=True,
        fields=tuple(manifest.fields),
        left_out=tally.all(),
        unlabelled=unlabelled,
    )


def read_manifest(path: Path) -> Manifest:
    """Return what a tub says of itself. A last line that is missing, as a kill leaves it, is made up for.

    Raises SourceError.
    """
    file, where = path / MANIFEST, f"tub {shown(path)}"
    try:
        if file.stat().st_size > MAX_MANIFEST:
            raise SourceError(f"{where}: {MANIFEST} has {file.stat().st_size:,} bytes, limit {MAX_MANIFEST:,}")
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        there = sorted((int(found[1]), found[0]) for one in os.listdir(path) if (found := CATALOG.fullmatch(one)))
    except OSError as error:
        raise SourceError(
            f"{where}: {MANIFEST} cannot be read: {error.strerror}; expected a tub of donkeycar"
        ) from error
    inputs, types = (_line(lines, number) for number in (0, 1))
    if not (_are_texts(inputs) and _are_texts(types) and len(inputs) == len(types)):
        raise SourceError(
            f"{where}: {MANIFEST} does not begin with fields and their types; expected a tub of donkeycar"
        )
    last = _line(lines, 4)
    deleted = last.get("deleted_indexes") if isinstance(last, dict) else None
    return Manifest(
        types=dict(zip(inputs, types, strict=True)),
        catalogs=tuple(name for _, name in there),
        deleted=frozenset(one for one in deleted if isinstance(one, int)) if isinstance(deleted, list) else frozenset(),
    )


def _line(lines: list[str], number: int) -> Any:
    try:
        return json.loads(lines[number])
    except (IndexError, ValueError, RecursionError):
        return None


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _records(path: Path, manifest: Manifest, camera: str, field: str, tally: Tally) -> Iterator[Record]:
    for catalog in manifest.catalogs:
        for number, row in json_lines(path / catalog, MAX_RECORDS):
            where = f"{catalog}, line {number}"
            if isinstance(row, str):
                tally.add("records that cannot be read", f"{where}: {row}")
                continue
            name, milliseconds = row.get(camera), row.get("_timestamp_ms")
            if row.get("_index") in manifest.deleted:
                tally.add("deleted records", where)
            elif not isinstance(name, str) or os.path.basename(name) != name:
                tally.add(f"records without a picture of {camera}", where)
            elif not isinstance(milliseconds, int):
                tally.add("records without a time", where)
            else:
                label = _label(row.get(field), where, tally) if field else None
                file = os.path.join(path, IMAGES, name)
                yield Record(milliseconds // 1000, file, label, milliseconds / 1000)


def _label(value: Any, where: str, tally: Tally) -> str | None:
    try:
        return class_named_by(value)
    except ValueError as error:
        tally.add(NO_CLASS, f"{where}: {error}")
        return None
