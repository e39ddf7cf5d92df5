"""What a recording's own words say of a picture, as the name of a class."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

from broker.errors import MalformedMessage, SourceError
from broker.wire.bounds import check_class_name

# What fields with a class are called, the likeliest first.
LABEL_FIELDS = ("label", "class", "category", "class_name", "label_name", "target", "tag", "name", "task", "text")
# How values that no class can be called are counted.
NO_CLASS = "labels that no class can have"
FIELDS_LISTED = 20


def class_named_by(value: Any) -> str | None:
    """Return the class that a value names: text, a whole number, true or false; None where it is empty.

    Of the two ways in which Unicode writes an accent it is the composed one. Raises ValueError for what names no class.
    """
    if hasattr(value, "item") and not isinstance(value, str | bytes):  # a number of numpy's
        value = value.item() if getattr(value, "size", 1) == 1 else str(value)
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError(f"{value:g} is a measure, and no class")
        value = int(value)
    if value is None or value == "":
        return None
    if not isinstance(value, str | int):
        raise ValueError(f"{str(value)[:80]} is neither text nor a whole number")
    name = unicodedata.normalize("NFC", str(value).strip())
    if not name:
        return None
    try:
        check_class_name(name)
    except MalformedMessage as error:
        raise ValueError(str(error)) from None
    return name


def label_field(fields: Iterable[str], asked: str, where: str, likely: Iterable[str] = LABEL_FIELDS) -> str:
    """Return which of a recording's fields has the class: the one that was asked for, or else a likely one.

    Empty where none is likely. Raises SourceError where there is none as asked for, with those that there are.
    """
    there = list(dict.fromkeys(fields))
    if asked:
        if asked not in there:
            raise SourceError(f"{where} has no field {asked!r}: --label-field is one of {listed(there)}")
        return asked
    by_case = {name.casefold(): name for name in reversed(there)}
    return next((by_case[name.casefold()] for name in likely if name.casefold() in by_case), "")


def listed(names: Iterable[str]) -> str:
    """Return names as a sentence has them, not too many."""
    names = [str(name) for name in names]
    more = f" and {len(names) - FIELDS_LISTED:,} more" if len(names) > FIELDS_LISTED else ""
    return ", ".join(names[:FIELDS_LISTED]) + more or "none"


def camera_of(cameras: Iterable[str], asked: str, where: str) -> str:
    """Return the camera to show: the one asked for, or the only one. Raises SourceError, which lists all."""
    there = list(cameras)
    if asked in there:
        return asked
    if asked or len(there) != 1:
        what = f"no camera {asked!r}" if asked else f"{len(there) or 'no'} cameras"
        advice = f": choose one with --camera: {listed(there)}" if there else ""
        raise SourceError(f"{where} has {what}{advice}")
    return there[0]
