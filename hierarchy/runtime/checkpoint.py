"""All that a network in training needs to go on, in one safetensors file that a reader never sees half of."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from broker.errors import ConfigError, MachineError, ReflexarcError
from broker.program.machine import error_number, machine_error, refused
from hierarchy.runtime.state import SCHEMA, Layout, State

CHECKPOINT = "checkpoint.safetensors"
# The JSON inside the checkpoint, and once more for people.
METADATA, FOR_PEOPLE = "about", "checkpoint.json"
# The field in which a migration from version 0 finds the tensors.
TENSORS = "tensors"


def save_checkpoint(folder: Path, layout: Layout[State], state: State) -> None:
    """Write a state, in which there may be tensors, into the folder.

    All is in one file that replaces the last one in one step and is on the disk when this returns. Raises OSError.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    tensors = tensors_of(state)
    names = {id(one): name for name, one in tensors.items()}
    metadata = layout.pack(state, lambda tensor: names[id(tensor)])
    temporary = folder / (CHECKPOINT + ".new")
    try:
        whole = {name: one.detach().cpu().contiguous() for name, one in tensors.items()}
        save_file(whole, temporary, metadata={METADATA: json.dumps(metadata)})
        _replace(temporary, folder / CHECKPOINT)
        write_json(folder / FOR_PEOPLE, metadata)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)  # half a file would only fill a disk that is full
        if is_new and not any(folder.iterdir()):
            folder.rmdir()  # empty it would look like a checkpoint
        raise OSError(error_number(error) or errno.EIO, f"{folder} cannot be written: {error}") from error


def load_checkpoint(folder: Path, layout: Layout[State], advice: str = "name another one") -> State:
    """Return the state of a checkpoint folder.

    advice: what to do where it holds none, or a damaged one; then ConfigError is raised with it.
    """
    if not (folder / CHECKPOINT).exists():
        raise ConfigError(f"{folder} holds no checkpoint ({CHECKPOINT}): {advice}")
    try:
        with safe_open(folder / CHECKPOINT, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no dict
            metadata = json.loads((file.metadata() or {})[METADATA])
        if SCHEMA not in metadata:
            metadata[TENSORS] = _by_part(list(tensors))
        return layout.unpack(folder, metadata, lambda _, name: tensors[name])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise damaged(folder, error, advice) from error


def damaged(folder: Path, error: Exception, advice: str) -> ReflexarcError:
    """Return the error for a checkpoint that cannot be taken up: this machine's, or the file's, with advice."""
    found = refused(f"the checkpoint in {folder} cannot be read", error)
    if machine := found if isinstance(found, MachineError) else machine_error(error):
        return machine
    return ConfigError(f"the checkpoint in {folder} is damaged, or none of ours ({error}): {advice}")


def tensors_of(state: object, path: str = "") -> dict[str, Tensor]:
    """Return the tensors in a state by their places in it, such as trainer/learner/weights/exit.head.bias."""
    if isinstance(state, Tensor):
        return {path: state}
    if is_dataclass(state):
        members = {one.name: getattr(state, one.name) for one in fields(state)}
    elif isinstance(state, dict):
        members = state
    else:
        return {}
    below = (tensors_of(one, f"{path}/{name}" if path else str(name)) for name, one in members.items())
    return {name: tensor for some in below for name, tensor in some.items()}


def _by_part(names: list[str]) -> dict[str, dict[str, str]]:
    """Return the tensors of version 0, which did not say where they belong: names by part and by name in the part."""
    parts: dict[str, dict[str, str]] = {}
    for full_name in names:
        part, _, name = full_name.partition("/")
        parts.setdefault(part, {})[name] = full_name
    return parts


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file in one piece. Raises OSError."""
    write_bytes(path, (json.dumps(values, indent=2) + "\n").encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file in one piece. Raises OSError."""
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.write_bytes(data)
        _replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _replace(temporary: Path, path: Path) -> None:
    """Let a file take the place of another, so that after a power cut there is one of the two, and whole."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
