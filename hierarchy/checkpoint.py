"""One segment's weights (safetensors) and what goes with them (JSON), written so that a reader never sees half."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from broker.errors import ConfigError

WEIGHTS = "weights.safetensors"
ABOUT = "checkpoint.json"


def save_checkpoint(folder: Path, module: nn.Module, about: dict[str, Any]) -> None:
    """Write a module's parameters and buffers, and a JSON of what belongs to them, into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    temporary = folder / (WEIGHTS + ".new")
    save_file(tensors, temporary)
    os.replace(temporary, folder / WEIGHTS)
    write_json(folder / ABOUT, about)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the JSON of a checkpoint folder. Raises ConfigError where it holds none."""
    try:
        about = json.loads((folder / ABOUT).read_text())
        return load_file(folder / WEIGHTS), about
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(f"{folder} holds no checkpoint ({WEIGHTS} and {ABOUT}): {error}") from error


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file in one piece."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(temporary, path)
