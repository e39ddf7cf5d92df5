"""Reads frames of which an attribute is known that the cloud must not learn."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from broker.errors import ConfigError, SourceError
from broker.program.paths import shown, what_is_wrong
from hierarchy.hiding import Hiding
from robot_edge.learning.framed import framing_for
from robot_edge.learning.settings import NetworkSettings
from robot_edge.sources.encoded import UNREADABLE
from robot_edge.sources.folder import read_picture
from robot_edge.sources.frames import Pixels
from robot_edge.sources.listing import list_pictures

# What the frames take of memory at most: 21,800 of 32 pixels.
MOST_BYTES = 64_000_000
# Of each value at least: the front would else learn to hide these few frames.
LEAST_OF_VALUE = 8
# A file of more lines is something else.
MOST_LINES = 1_000_000
FILE, VALUE = "file", "value"
EXPECTED = "expected a folder with a sub-folder of frames for each value, or a CSV file with the columns file,value"
# Beside the exit's loss (docs/decisions/0076-the-front-tells-less.md).
STRENGTH = 1.0

log = logging.getLogger("robot-edge")


def hiding_of(network: NetworkSettings, seed: int) -> Hiding | None:
    """Return the frames that say what to hide; None for nothing. seed: as of read_hidden. Raises ConfigError."""
    if not (path := network.hidden_path):
        return None
    if network.stands_still:
        raise ConfigError("--hide needs a front that learns, and this one stands still: use --freeze none")
    return read_hidden(network.hide, path, framing_for(network).input, seed)


def read_hidden(text: str, path: Path, see: Callable[[Pixels], Pixels], seed: int) -> Hiding:
    """Return the frames that --hide names, as the network sees them.

    text: as it was typed, for people. see: makes the network's square of a frame. seed: of the choice of frames where
    there are more than fit. Raises ConfigError.
    """
    if wrong := what_is_wrong(path):
        raise ConfigError(f"--hide {text} {wrong}; {EXPECTED}")
    try:
        named = _in_folder(path) if path.is_dir() else _in_file(path)
    except (SourceError, OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"--hide {text}: {error}; {EXPECTED}") from error
    chosen = [named[row] for row in np.random.default_rng(seed).permutation(len(named))]
    images, values, room, unreadable = list[Pixels](), list[str](), MOST_BYTES, 0
    for place, value in chosen:
        try:
            image = see(read_picture(str(place)))
        except UNREADABLE as error:
            log.debug("%s: %s", place, error)
            unreadable += 1
            continue
        room -= image.nbytes
        if room < 0:
            log.info("--hide: %s of %s frames are used, which take 64 MB", f"{len(images):,}", f"{len(named):,}")
            break
        images.append(image)
        values.append(value)
    counts = Counter(values)
    few = [value for value in sorted({value for _, value in named}) if counts[value] < LEAST_OF_VALUE]
    if len(counts) < 2 or few:
        skipped = f"; {unreadable:,} could not be read" if unreadable else ""
        known = ", ".join(f"{shown(value)}: {counts[value]}" for value in sorted({value for _, value in named})[:8])
        raise ConfigError(
            f"--hide {text}: two values at least need {LEAST_OF_VALUE} frames each; there are {known or 'none'}"
            f"{skipped}"
        )
    known_values = sorted(counts)
    log.info("the cloud is not to learn which of %s values a frame has: %s frames say so", len(counts), len(images))
    return Hiding(np.stack(images), np.array([known_values.index(value) for value in values], np.int64), STRENGTH)


def _in_folder(path: Path) -> Sequence[tuple[Path, str]]:
    return [(path / picture, value) for picture, value in list_pictures(path).pictures]


def _in_file(path: Path) -> Sequence[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    with path.open(encoding="utf-8-sig", newline="") as text:
        lines = csv.DictReader(text)
        if not {FILE, VALUE} <= set(lines.fieldnames or ()):
            raise SourceError(f"its first line is {', '.join(lines.fieldnames or ()) or 'empty'}")
        for number, line in enumerate(lines):
            if number >= MOST_LINES:
                raise SourceError(f"more than {MOST_LINES:,} lines")
            if line[FILE] and line[VALUE]:
                found.append((path.parent / line[FILE], line[VALUE]))
    return found
