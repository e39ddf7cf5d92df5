"""From a decoded map to a message: msgspec holds it to the types and bounds of its fields, and faults are said here."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from broker.errors import MalformedMessage

AnyMessage = TypeVar("AnyMessage")

# Bytes stay bytes: msgspec would also take base64 for them.
NATIVE = (bytes,)


def read(values: Mapping[str, Any], kind: type[AnyMessage]) -> AnyMessage:
    """Return the dataclass that the values make. Names that it does not have are ignored. Raises MalformedMessage."""
    try:
        return msgspec.convert(values, kind, builtin_types=NATIVE)
    except msgspec.ValidationError as error:
        raise MalformedMessage(_fault(values, kind)) from error


def _fault(values: Mapping[str, Any], kind: type) -> str:
    """Return what is wrong with the first field that does not fit; empty where all do."""
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        name, hint = field.name, hints[field.name]
        if name in values:
            fault = _fault_of(name, values[name], hint)
        else:
            missing = f"field {name!r} is missing: run the same version of Reflexarc at both ends"
            fault = missing if field.default is dataclasses.MISSING else ""
        if fault:
            return fault
    return ""


def _fault_of(name: str, value: Any, hint: Any) -> str:
    inner = next(filter(dataclasses.is_dataclass, _members(hint)), None)
    if isinstance(inner, type) and isinstance(value, dict):
        return _fault(value, inner)
    misfit = _misfit(value, hint)
    return misfit and f"field {name!r} {misfit}"


def _misfit(value: Any, hint: Any, verb: str = "is") -> str:
    """Return why a value does not fit a type; empty where it does. verb: what its field does with the value's type."""
    try:
        msgspec.convert(value, hint, builtin_types=NATIVE)
    except msgspec.ValidationError as error:
        complaint = str(error)
    else:
        return ""
    if complaint.startswith("Expected") and complaint.endswith("`") and ", got `" in complaint and "$" not in complaint:
        return f"{verb} {type(value).__name__}"
    members = _members(hint)
    if choices := [choice for one in members if get_origin(one) is Literal for choice in get_args(one)]:
        return f"is {value[:40]!r}, not one of {', '.join(choices)}"
    for meta in (meta for one in members for meta in getattr(one, "__metadata__", ())):
        if bool(meta.pattern) == ("matching regex" in complaint):
            return str(meta.description).format(value=value, length=len(value) if isinstance(value, str) else 0)
    return next(misfit for one in value if (misfit := _misfit(one, get_args(hint)[0], "holds a")))


def _members(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one type that it is."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
