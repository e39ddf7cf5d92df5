"""Recordings that are divided into a part to train on and one to test on: which they are."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from broker.errors import SourceError
from broker.program.paths import shown, typed_path
from robot_edge.sources.hdf5 import masks_in
from robot_edge.sources.metadata_file import NAMES
from robot_edge.sources.settings import SourceSettings
from robot_edge.sources.split_names import TEST_SPLITS, TRAIN_SPLITS, are_splits, first_of
from robot_edge.sources.tally import is_litter
from robot_edge.sources.yolo import read_set, set_and_part

log = logging.getLogger("robot-edge")


class Splits(NamedTuple):
    """Two sources, as written on the command line."""

    train: str
    test: str


def with_splits(settings: SourceSettings) -> SourceSettings:
    """Return the settings with the part to train on as source, and the one to test on where nobody says another."""
    source, held_out = settings.source, settings.held_out
    if splits := splits_of(source):
        source = splits.train
        held_out = held_out or splits.test
    if splits := splits_of(held_out):
        held_out = splits.test
    if (source, held_out) != (settings.source, settings.held_out):
        log.info("learning from %s, and tested on %s", source, held_out)
    return replace(settings, source=source, held_out=held_out)


def part_to_test_on(source: str) -> str:
    """Return the part of a source that is there to be tested on; the source itself where it has no parts."""
    splits = splits_of(source)
    return splits.test if splits else source


def splits_of(source: str) -> Splits | None:
    """Return the parts of a source; None where it has none, or is not there."""
    kind, _, rest = source.partition(":")
    try:
        return SPLITTERS[kind](typed_path(rest)) if rest and kind in SPLITTERS else None
    except (OSError, ValueError, SourceError):
        return None  # to open it will say why


def _of_folder(path: Path) -> Splits | None:
    with os.scandir(path) as entries:
        names = [entry.name for entry in entries if not is_litter(entry.name) and entry.is_dir()]
    if len(names) < 2 or not are_splits(names) or any((path / name).is_file() for name in NAMES):
        return None
    train, test = (first_of(names, order) for order in (TRAIN_SPLITS, TEST_SPLITS))
    return Splits(f"folder:{shown(path / train)}", f"folder:{shown(path / test)}") if train and test else None


def _of_hdf5(path: Path) -> Splits | None:
    masks = masks_in(path)
    train, test = (first_of(masks, order) for order in (TRAIN_SPLITS, TEST_SPLITS))
    return Splits(f"hdf5:{shown(path / train)}", f"hdf5:{shown(path / test)}") if train and test else None


def _of_yolo(path: Path) -> Splits | None:
    folder, part = set_and_part(path)
    parts = [] if part else list(read_set(folder).parts)
    train, test = (first_of(parts, order) for order in (TRAIN_SPLITS, TEST_SPLITS))
    return Splits(f"yolo:{shown(path / train)}", f"yolo:{shown(path / test)}") if train and test else None


def _of_webdataset(path: Path) -> Splits | None:
    """Return patterns for the shards of two parts, as set-train-000.tar, where every shard is of a part."""
    if not path.is_dir():
        return None
    shards = [one.name for one in path.iterdir() if one.suffix.lower() == ".tar"]
    words = [next((word for word in re.split(r"[^A-Za-z]+", shard) if are_splits([word])), "") for shard in shards]
    train, test = (first_of(words, order) for order in (TRAIN_SPLITS, TEST_SPLITS))
    if not (train and test and all(words)):
        return None
    return Splits(f"webdataset:{shown(path)}/*{train}*.tar", f"webdataset:{shown(path)}/*{test}*.tar")


# By kind.
SPLITTERS = {"folder": _of_folder, "hdf5": _of_hdf5, "yolo": _of_yolo, "webdataset": _of_webdataset}
