"""Settings in nested groups, by the flat names that their flags, TOML files and keyword arguments have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, TypeVar, get_type_hints

from broker.errors import ConfigError

Settings = TypeVar("Settings")

# Of files that hold a state dict.
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


def is_weights_file(text: str) -> bool:
    """Whether --weights names a file, by its suffix."""
    return text.lower().endswith(WEIGHTS_SUFFIXES)


def flat_fields(kind: type) -> dict[str, Field[Any]]:
    """Return the fields of a dataclass and of the groups in it, by their names. No two groups share a name."""
    found: dict[str, Field[Any]] = {}
    for one, group in _groups(kind).items():
        found |= flat_fields(group) if group else {one.name: one}
    return found


def flattened(settings: Any) -> dict[str, Any]:
    """Return the values of settings and of the groups in them, by their names."""
    found: dict[str, Any] = {}
    for one, group in _groups(type(settings)).items():
        value = getattr(settings, one.name)
        found |= flattened(value) if group else {one.name: value}
    return found


def from_flat(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Return settings in their groups. Raises ConfigError for a name that no group has, or a required one missing."""
    known = flat_fields(kind)
    for name in values:
        if name not in known:
            meant = get_close_matches(name, known, 1)
            raise ConfigError(f"no setting is called {name}{f'; did you mean {meant[0]}?' if meant else ''}")
    for name, one in known.items():
        if name not in values and one.default is MISSING:
            raise ConfigError(f"the setting {name} is missing")
    return _built(kind, values)


def _built(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    given: dict[str, Any] = {}
    for one, group in _groups(kind).items():
        if group:
            given[one.name] = _built(group, values)
        elif one.name in values:
            given[one.name] = values[one.name]
    return kind(**given)


def _groups(kind: type) -> dict[Field[Any], type | None]:
    """Return the fields of a dataclass, each with the dataclass that it holds, or None where it holds a value."""
    hints = get_type_hints(kind)
    return {one: hints[one.name] if is_dataclass(hints[one.name]) else None for one in fields(kind)}
