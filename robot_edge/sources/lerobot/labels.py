"""Which class each row of a data set is of: by its task, its subtask, or any feature with one value for a row."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from broker.errors import SourceError
from broker.wire.bounds import MAX_CLASS_NAME
from robot_edge.sources.labels import class_named_by, listed
from robot_edge.sources.lerobot.meta import Feature, Info, read_names
from robot_edge.sources.lerobot.parquet import load_pyarrow

TASK, SUBTASK = "task", "subtask"
# What a language model or a person wrote of an episode: each of its rows has all that is said, with the times.
SPOKEN = "language_persistent"
# What a label can be made of; `reward` and `success` are features of such a kind.
KINDS = re.compile(r"bool|string|u?int(8|16|32|64)|float(16|32|64)")
# What every set has, and nobody means.
COUNTS = ("timestamp", "frame_index", "episode_index", "index", "task_index", "subtask_index")
# How a text ends that is longer than a class's name may be: with some digits of its digest, by which two differ.
SHORTENED = "… {}"
# What a row without a value shows.
NOTHING: tuple[str | None, bool] = (None, False)


class Named(NamedTuple):
    """What the rows of a file show. places: of each row among the names. bad: rows with a value that names no class."""

    places: NDArray[np.int64]
    names: list[str | None]
    bad: int


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Where labels stand. column: of the rows. is_text: whether that repeats few words. classes: known from the start.

    name_of: returns the class that a value names, None for none, or raises ValueError; None itself for SPOKEN.
    """

    column: str
    is_text: bool = False
    classes: frozenset[str] = frozenset()
    name_of: Callable[[Any], str | None] | None = None


def labels_of(path: Path, info: Info, field: str) -> Labels:
    """Return where labels stand. field: TASK, SUBTASK or the name of a feature. Raises SourceError."""
    index = f"{field}_index"
    if field == SUBTASK and SPOKEN in info.features and index not in info.features:
        return Labels(column=SPOKEN)
    if field in (TASK, SUBTASK):
        if index not in info.features:
            raise SourceError(f"lerobot {path} has no {field}s: {choices(info)}")
        names = {number: _short(text) for number, text in read_names(path, field).items()}
        known = frozenset(name for name in names.values() if name)
        return Labels(column=index, classes=known, name_of=lambda value: _looked_up(names, value))
    feature = info.features.get(field)
    if feature is None:
        raise SourceError(f"lerobot {path} has no feature {field!r}: {choices(info)}")
    if not _is_label(feature):
        shape = "x".join(map(str, feature.shape))
        raise SourceError(f"lerobot {path}: {field} is {feature.dtype} of {shape}, which is no label: {choices(info)}")
    return Labels(column=field, is_text=feature.dtype == "string", name_of=class_named_by)


def named_by_values(column: Any, name_of: Callable[[Any], str | None]) -> Named:
    """Return what each value of a column (pyarrow) names."""
    encoded = column.combine_chunks()
    if not load_pyarrow().types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    tried = [NOTHING, *(_attempt(name_of, value) for value in encoded.dictionary.to_pylist())]
    return _named(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) + 1, tried)


def named_by_words(said: Mapping[int, Any], times: NDArray[np.float64]) -> Named:
    """Return for each row the subtask that was begun last. said: SPOKEN of each episode, by its first row."""
    tried = [NOTHING]
    places = np.zeros(len(times), np.int64)
    firsts = sorted(said)
    for begin, end in zip(firsts, [*firsts[1:], len(times)], strict=True):
        begun = sorted((one["timestamp"], one["content"] or "") for one in said[begin] or () if one["style"] == SUBTASK)
        last = np.searchsorted([time for time, _ in begun], times[begin:end], "right")
        places[begin:end] = np.where(last, last + len(tried) - 1, 0)
        tried += [_attempt(class_named_by, _short(text)) for _, text in begun]
    return _named(places, tried)


def _attempt(name_of: Callable[[Any], str | None], value: Any) -> tuple[str | None, bool]:
    """Return the class that a value names, and whether it names none although it is there."""
    try:
        return name_of(value), False
    except ValueError:
        return None, True


def _named(places: NDArray[np.int64], tried: list[tuple[str | None, bool]]) -> Named:
    bad = np.array([is_bad for _, is_bad in tried])
    return Named(places, [name for name, _ in tried], int(bad[places].sum()))


def choices(info: Info) -> str:
    """Say what labels can be made of."""
    names = [name for name, feature in info.features.items() if _is_label(feature) and name not in COUNTS]
    words = [TASK, *([SUBTASK] if {SPOKEN, f"{SUBTASK}_index"} & info.features.keys() else [])]
    return f"--label-field is one of {listed([*words, *names])}, and --labels FILE.csv says it of episodes"


def _is_label(feature: Feature) -> bool:
    return bool(KINDS.fullmatch(feature.dtype)) and feature.shape in ([], [1])


def _short(text: str) -> str:
    name = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    if len(name) <= MAX_CLASS_NAME:
        return name
    end = SHORTENED.format(hashlib.blake2b(name.encode(), digest_size=3).hexdigest())
    return name[: MAX_CLASS_NAME - len(end)].rstrip() + end


def _looked_up(names: Mapping[int, str], value: Any) -> str | None:
    if value not in names:
        raise ValueError(f"{value} is the number of none")
    return class_named_by(names[value])
