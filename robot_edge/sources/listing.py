"""Which pictures a folder has of which class, and what it has besides: nothing is left out without a word."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from broker.errors import MalformedMessage, SourceError
from broker.program.paths import shown
from broker.wire.bounds import check_class_name
from robot_edge.sources.frames import LeftOut
from robot_edge.sources.metadata_file import MetadataFile, find_metadata
from robot_edge.sources.recordings import PICTURES, check_is_folder
from robot_edge.sources.split_names import TEST_SPLITS, TRAIN_SPLITS, are_splits
from robot_edge.sources.tally import OTHERS, Tally, describe, is_litter

LONGEST_SUFFIX = 8
# Names that a line lists before it only counts.
NAMES_LISTED = 5
HIDDEN, BESIDE, TWICE = "hidden files", "pictures that lie in no class's folder", "folders that were met before"
BROKEN, SPECIAL, NO_SUFFIX = "broken links", "no regular files", "files without a suffix"
CLOSED, EMPTY = "folders that cannot be read", "class folders without a picture"


# Device and number of a file; its path where it has none that can be had.
Identity = tuple[int, int] | str


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A folder of pictures.

    pictures: path below the folder and class name of each, sorted by the parts of its path. A picture is of the class
    whose folder it lies in, however deep, or of the one that the file ``metadata`` says. left_out: all else that is
    there. hints: what looks like a slip.
    """

    pictures: list[tuple[str, str]]
    left_out: tuple[LeftOut, ...]
    hints: tuple[str, ...]
    metadata: str = ""


def list_pictures(path: Path, label_field: str = "") -> Listing:
    """Return what a folder has. Raises SourceError where that is no picture, or no classes.

    label_field: of the file that names classes, where there is one; empty for a likely one.
    """
    check_is_folder(path)
    if metadata := find_metadata(path, label_field):
        return _list_named(path, metadata)
    tally, found = Tally(), dict[str, list[str]]()
    entries = _entries(path, "", tally)
    others = {_identity(path), *(_identity(path / entry.name) for entry in entries)}
    for entry in entries:
        if is_litter(entry.name):
            tally.add(HIDDEN, entry.name)
        elif _is_folder(entry):
            found[entry.name] = _pictures_below(path, entry.name, tally, others - {_identity(path / entry.name)})
            if not found[entry.name]:
                tally.add(EMPTY, entry.name)
        else:
            _count_file(entry, entry.name, tally, picture=BESIDE)
    classes = {name: pictures for name, pictures in found.items() if pictures}
    _refuse_no_classes(path, classes, tally)
    named = {name: class_name(path, name) for name in classes}
    pictures = [(picture, named[name]) for name, below in classes.items() for picture in below]
    pictures.sort(key=lambda one: one[0].split(os.sep))
    hints = _hints(classes, named)
    if label_field:
        hints += (f"--label-field {label_field} is not read: no file names the classes, so its folders do",)
    return Listing(pictures=pictures, left_out=tally.all(), hints=hints)


def _list_named(path: Path, metadata: MetadataFile) -> Listing:
    """Return the pictures that a file names the classes of."""
    tally = Tally()
    named = metadata.read(tally)
    there = set(_pictures_below(path, "", tally, set(), but=metadata.name))
    for place in sorted(there - named.keys()):
        tally.add(f"pictures of which {metadata.name} says nothing", place)
    for place in sorted(named.keys() - there):
        tally.add(f"pictures that {metadata.name} names and that are not there", place)
    pictures = [(place, name) for place, name in named.items() if place in there and name is not None]
    if not pictures:
        found = "; ".join(map(describe, tally.all()))
        raise SourceError(
            f"folder {shown(path)} has no picture of which {metadata.name} says the class; it has {found}"
        )
    pictures.sort(key=lambda one: one[0].split(os.sep))
    return Listing(pictures=pictures, left_out=tally.all(), hints=(), metadata=metadata.name)


def class_of(place: str) -> str:
    """Return the class name of a picture by its path below the folder."""
    return unicodedata.normalize("NFC", place.partition(os.sep)[0])


def class_name(path: Path, folder: str) -> str:
    """Return what the class of a folder below a path is called. Raises SourceError.

    Of the two ways in which Unicode writes an accent it is the composed one: a Mac's files have the other.
    """
    name = unicodedata.normalize("NFC", folder)
    try:
        check_class_name(name)  # or the trainer could not read a message with it
    except MalformedMessage as error:
        blanks = ", without blanks at its ends" if name != name.strip() else ""
        raise SourceError(f"folder {shown(path)}: {shown(str(error))}{blanks}: rename that folder") from error
    return name


def _entries(path: Path, below: str, tally: Tally) -> list[os.DirEntry[str]]:
    """Return what a folder below the path has, sorted; nothing where it cannot be read, which is counted."""
    try:
        with os.scandir(path / below) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        if not below:
            raise SourceError(f"folder {shown(path)} cannot be read: {error.strerror}") from error
        tally.add(CLOSED, f"{below}, {error.strerror}")
        return []


def _pictures_below(path: Path, name: str, tally: Tally, others: Set[Identity], but: str = "") -> list[str]:
    """Return the paths of all pictures of a class. Links are followed, each folder once: they may lead in a circle.

    others: what is not of this class, wherever a link leads: the whole folder, and the other classes. but: a file that
    is no picture, and not left out either.
    """
    pictures, waiting, met = list[str](), [name], set(others)
    while waiting:
        below = waiting.pop()
        identity = _identity(path / below)
        if identity in met:
            tally.add(TWICE, below)
            continue
        met.add(identity)
        for entry in _entries(path, below, tally):
            place = os.path.join(below, entry.name)
            if place == but:
                continue
            if is_litter(entry.name):
                tally.add(HIDDEN, place)
            elif _is_folder(entry):
                waiting.append(place)
            elif _count_file(entry, place, tally):
                pictures.append(place)
    return pictures


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _identity(path: Path) -> Identity:
    """Return what tells a file from all others, whichever links lead to it."""
    try:
        about = path.stat()
    except OSError:
        return str(path)  # to read it will fail, too
    return about.st_dev, about.st_ino


def _count_file(entry: os.DirEntry[str], place: str, tally: Tally, picture: str = "") -> bool:
    """Return whether it is a picture that can be shown; count what it is else. picture: why none here is shown."""
    suffix = shown(os.path.splitext(entry.name)[1].lower())
    try:
        is_file = entry.is_file()
    except OSError:  # a link in a circle
        is_file = False
    if not is_file:
        tally.add(BROKEN if entry.is_symlink() else SPECIAL, place)
    elif suffix not in PICTURES:
        tally.add(suffix if suffix and len(suffix) <= LONGEST_SUFFIX else NO_SUFFIX if not suffix else OTHERS, place)
    elif picture:
        tally.add(picture, place)
    else:
        return True
    return False


def _refuse_no_classes(path: Path, classes: Mapping[str, list[str]], tally: Tally) -> None:
    """Raise SourceError where the folders have no pictures, or are no classes: parts of a data set, or one above."""
    expected = f"({shown(path)}/<class>/*.jpg, *.png and so on)"
    is_nested = {name: all(one.count(os.sep) > 1 for one in pictures) for name, pictures in classes.items()}
    if len(classes) > 1 and are_splits(list(classes)):
        use = _use_of_splits(path, classes)
        raise SourceError(f"folder {shown(path)} has parts of a data set, {_some(classes)}, and no classes: use {use}")
    if len(classes) == 1 and all(is_nested.values()):
        likely = shown(path / next(iter(classes)))
        raise SourceError(
            f"folder {shown(path)} has no pictures in class folders {expected}; did you mean folder:{likely}?"
        )
    if not classes:
        found = "; ".join(map(describe, tally.all()))
        raise SourceError(
            f"folder {shown(path)} has no pictures in class folders {expected}{f'; it has {found}' if found else ''}"
        )


def _use_of_splits(path: Path, names: Iterable[str]) -> str:
    """Return the flags with which the parts of a data set are used."""
    order = [*TRAIN_SPLITS, *TEST_SPLITS]
    train, *others = sorted(names, key=lambda name: order.index(name.lower()))
    return f"--source folder:{shown(path / train)} --held-out folder:{shown(path / others[0])}"


def _hints(classes: Mapping[str, list[str]], named: Mapping[str, str]) -> tuple[str, ...]:
    """Return what is likely to be a slip in how folders are called, and which classes are too small to be tested."""
    hints, by_name, by_case = list[str](), dict[str, str](), dict[str, str]()
    for folder, name in sorted(named.items()):
        if name in by_name:
            hints.append(f"two folders are called {name}, in two ways of writing an accent: they are one class")
        elif (key := name.casefold()) in by_case:
            hints.append(f"the classes {by_case[key]} and {name} differ in case alone: they are two classes")
        by_name[name], by_case[name.casefold()] = folder, name
    counts = dict[str, int]()
    for folder, pictures in classes.items():
        counts[named[folder]] = counts.get(named[folder], 0) + len(pictures)
    if single := [name for name, count in sorted(counts.items()) if count == 1]:
        hints.append(f"{_some(single)}: of a single picture, which is learned and, without --held-out, not tested")
    return tuple(hints)


def _some(names: Mapping[str, object] | list[str]) -> str:
    listed = [shown(name) for name in list(names)[:NAMES_LISTED]]
    return ", ".join(listed) + (f" and {len(names) - NAMES_LISTED} more" if len(names) > NAMES_LISTED else "")
