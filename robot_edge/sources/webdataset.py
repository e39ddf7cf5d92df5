"""Frames from WebDataset's shards: tar files in which the files of one sample lie behind each other."""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from broker.errors import SourceError
from broker.program.paths import shown, what_is_wrong
from robot_edge.sources.encoded import MAX_BYTES, decode
from robot_edge.sources.frames import Pixels
from robot_edge.sources.indexed import Record, Recording
from robot_edge.sources.labels import LABEL_FIELDS, NO_CLASS, camera_of, class_named_by, label_field, listed
from robot_edge.sources.recordings import PICTURES
from robot_edge.sources.tally import Tally

# A sample's key, and what kind of file this one of it is: all behind the first point of the file's own name.
NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")
NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")
MAX_SHARDS = 100_000
# What the picture is called of samples that have one without a name.
PICTURE = "picture"
# Kinds of files that are text with a class, and the one that is an object with fields.
TEXTS, JSON = ("cls", "class", "label", "category", "cls2", "id", "index", "txt", "text"), "json"
LIKELY = ("cls", "cls.txt", *LABEL_FIELDS, "txt")
MAX_TEXT_BYTES = 1_000_000
# Of so many samples it is looked at what they have.
SAMPLES_LOOKED_AT = 100


class Member(NamedTuple):
    """A file in a shard, by the place of its bytes."""

    shard: str
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard}, {self.name}"


class Sample(NamedTuple):
    """Files that share a key, by their kinds."""

    key: str
    files: dict[str, Member]

    @property
    def pictures(self) -> dict[str, Member]:
        """Its pictures: left of key.left.jpg, and PICTURE of key.jpg."""
        parts = {kind: kind.rpartition(".") for kind in self.files}
        return {
            name or PICTURE: self.files[kind] for kind, (name, _, suffix) in parts.items() if f".{suffix}" in PICTURES
        }

    def values(self) -> dict[str, Any]:
        """Return what may name a class: its texts, and the fields of its object. Raises ValueError."""
        found: dict[str, Any] = {}
        for kind, member in self.files.items():
            last = kind.rpartition(".")[2]
            if last == JSON:
                content = json.loads(_bytes(member, MAX_TEXT_BYTES))
                found |= content if isinstance(content, dict) else {kind: content}
            elif last in TEXTS:
                found[kind] = _bytes(member, MAX_TEXT_BYTES).decode("utf-8")
        return found


def check_is_webdataset(path: Path) -> None:
    """Raise SourceError unless there is a shard."""
    if not _shards(path):
        wrong = what_is_wrong(path) or "has no .tar file"
        raise SourceError(f"webdataset {shown(path)} {wrong}; expected a .tar file, a folder of them, or a pattern")


def cameras_in(path: Path) -> list[str]:
    """Return what the pictures of the first samples are called. Raises SourceError."""
    return list(dict.fromkeys(name for one in _first(path, Tally()) for name in one.pictures))


def read_webdataset(path: Path, camera: str = "", field: str = "") -> Recording:
    """Return the samples of all shards, mixed. Each one is a scene of its own. A shard's headers are read through once.

    path: a shard, a folder of shards, or a pattern as train-{0000..0012}.tar or train-*.tar. camera: what the pictures
    are called; empty for the only ones. field: with the class; empty for a likely one. Raises SourceError.
    """
    where, tally = f"webdataset {shown(path)}", Tally()
    check_is_webdataset(path)
    first = _first(path, damage := Tally())
    if not first:
        raise SourceError(f"{where} has no sample that can be read: {listed(damage.first.values())}")
    camera = camera_of(dict.fromkeys(name for one in first for name in one.pictures), camera, where)
    fields = list(dict.fromkeys(name for one in first for name in _values(one, Tally())))
    field = label_field(fields, field, where, LIKELY)
    samples = (sample for shard in _shards(path) for sample in _samples(shard, tally))
    records = list(_records(samples, camera, field, tally))
    if not records:
        raise SourceError(f"{where} has no sample with a picture: {listed(tally.first.values())}")
    return Recording(
        where=where,
        records=records,
        read=read_member,
        fields=tuple(fields),
        left_out=tally.all(),
        unlabelled=f"nothing says what {where} shows: name a field with --label-field: {listed(fields)}",
    )


def read_member(member: Member) -> Pixels:
    """Return a picture in a shard, (height, width, 3). Raises one of UNREADABLE."""
    return decode(_bytes(member, MAX_BYTES))


def _bytes(member: Member, most: int) -> bytes:
    if member.size > most:
        raise ValueError(f"{member.size:,} bytes, limit {most:,}")
    with open(member.shard, "rb", buffering=0) as file:
        file.seek(member.offset)
        return file.read(member.size)


def _shards(path: Path) -> list[str]:
    """Return the shards at a path, sorted."""
    if path.is_dir():
        return sorted(str(one) for one in path.iterdir() if one.suffix.lower() == ".tar")
    if path.is_file():
        return [str(path)]
    found = [
        one for pattern in _braces(str(path)) for one in (glob.glob(pattern) if _is_pattern(pattern) else [pattern])
    ]
    return sorted({one for one in found if os.path.isfile(one)})


def _is_pattern(text: str) -> bool:
    return any(sign in text for sign in "*?[")


def _braces(text: str) -> list[str]:
    """Return what a text with {0000..0012} stands for."""
    numbers = NUMBERS.search(text)
    if not numbers:
        return [text]
    first, last, width = int(numbers[1]), int(numbers[2]), len(numbers[1])
    if not 0 <= last - first < MAX_SHARDS:
        raise SourceError(f"webdataset {text}: {numbers[0]} stands for no shard, or for more than {MAX_SHARDS:,}")
    begin, end = text[: numbers.start()], text[numbers.end() :]
    return [one for number in range(first, last + 1) for one in _braces(f"{begin}{number:0{width}}{end}")]


def _first(path: Path, tally: Tally) -> list[Sample]:
    samples = (sample for shard in _shards(path) for sample in _samples(shard, tally))
    return list(islice(samples, SAMPLES_LOOKED_AT))


def _samples(shard: str, tally: Tally) -> Iterator[Sample]:
    """Yield the samples of a shard, as far as it can be read."""
    sample = Sample("", {})
    for name, member in _members(shard, tally):
        parts = NAME.fullmatch(name)
        if not parts:
            tally.add("files that belong to no sample", str(member))
            continue
        if parts[1] != sample.key:
            if sample.files:
                yield sample
            sample = Sample(parts[1], {})
        sample.files.setdefault(parts[2].lower(), member)
    if sample.files:
        yield sample


def _members(shard: str, tally: Tally) -> Iterator[tuple[str, Member]]:
    name = os.path.basename(shard)
    try:
        size = os.path.getsize(shard)
        with tarfile.open(shard, "r:") as tar:
            for one in tar:
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                member = Member(shard, one.name, one.offset_data, one.size)
                if not one.isreg():
                    continue
                if one.offset_data + one.size > size:
                    tally.add("shards that were cut off", f"{name}, in {one.name}")
                    return
                if not os.path.basename(one.name).startswith((".", "__")):
                    yield one.name, member
    except (OSError, tarfile.TarError, ValueError) as error:
        advice = ": unpack it to a .tar" if shard.endswith(("gz", "zst")) else ""
        tally.add("shards that cannot be read to their end", f"{name}: {error}{advice}")


def _records(samples: Iterator[Sample], camera: str, field: str, tally: Tally) -> Iterator[Record]:
    for scene, sample in enumerate(samples):
        picture = sample.pictures.get(camera)
        if picture is None:
            tally.add("samples without a picture" + f" {camera}" * (camera != PICTURE), sample.key)
            continue
        label = None
        if field:
            try:
                label = class_named_by(_values(sample, tally).get(field))
            except ValueError as error:
                tally.add(NO_CLASS, f"{sample.key}: {error}")
        yield Record(scene, picture, label)


def _values(sample: Sample, tally: Tally) -> dict[str, Any]:
    try:
        return sample.values()
    except (OSError, ValueError, RecursionError) as error:
        tally.add("samples with fields that cannot be read", f"{sample.key}: {error}")
        return {}
