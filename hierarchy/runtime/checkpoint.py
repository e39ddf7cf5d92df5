"""All that a network in training needs to go on, in one safetensors file that a reader never sees half of."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from broker.errors import ConfigError, MachineError
from broker.program.machine import error_number, refused
from hierarchy.learner import Parts as Parts

CHECKPOINT = "checkpoint.safetensors"
# The JSON inside the checkpoint once more, for people.
ABOUT = "checkpoint.json"


def save_checkpoint(folder: Path, parts: Mapping[str, Mapping[str, Tensor]], about: dict[str, Any]) -> None:
    """Write tensors, by part and name, and the JSON that belongs to them into the folder.

    Both are in one file that replaces the last one in one step and is on the disk when this returns. Raises OSError.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{part}/{name}": value.detach().cpu().contiguous()
        for part, named in parts.items()
        for name, value in named.items()
    }
    temporary = folder / (CHECKPOINT + ".new")
    try:
        save_file(tensors, temporary, metadata={"about": json.dumps(about)})
        _replace(temporary, folder / CHECKPOINT)
        write_json(folder / ABOUT, about)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)  # half a file would only fill a disk that is full
        if is_new and not any(folder.iterdir()):
            folder.rmdir()  # empty it would look like a checkpoint
        raise OSError(error_number(error) or errno.EIO, f"{folder} cannot be written: {error}") from error


def load_checkpoint(folder: Path, advice: str = "name another one") -> tuple[Parts, dict[str, Any]]:
    """Return the tensors and the JSON of a checkpoint folder.

    advice: what to do where it holds none, or a damaged one; then ConfigError is raised with it.
    """
    if not (folder / CHECKPOINT).exists():
        raise ConfigError(f"{folder} holds no checkpoint ({CHECKPOINT}): {advice}")
    parts: Parts = {}
    try:
        with safe_open(folder / CHECKPOINT, framework="pt") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {})["about"])
            for full_name in file.keys():  # noqa: SIM118  safetensors' own, not a dict's
                part, _, name = full_name.partition("/")
                parts.setdefault(part, {})[name] = file.get_tensor(full_name)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        if isinstance(found := refused(f"the checkpoint in {folder} cannot be read", error), MachineError):
            raise found from error
        raise ConfigError(f"the checkpoint in {folder} is damaged, or none of ours ({error}): {advice}") from error
    return parts, about


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file in one piece."""
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.write_text(json.dumps(values, indent=2) + "\n")
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
