"""What tests of saved state share: state as the next process reads it, and what the commit before versions wrote."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hierarchy.runtime.state import Layout

if TYPE_CHECKING:  # much of what is saved has no tensor, and its tests need no torch
    from torch import Tensor

ARCHIVE = Path(__file__).parent / "golden" / "state-0.tar.xz"

State = TypeVar("State")


def golden_state(name: str, folder: Path) -> Path:
    """Unpack one of the folders in the archive into a folder, and return it."""
    with tarfile.open(ARCHIVE) as archive:
        members = [one for one in archive if one.name == name or one.name.startswith(f"{name}/")]
        archive.extractall(folder, members, filter="data")
    return folder / name


def read_again(state: State) -> State:
    """Return a state as it comes out of a checkpoint."""
    layout: Layout[State] = Layout(kind=type(state), migrations=(dict,))
    tensors: list[Tensor] = []

    def keep(tensor: Tensor) -> str:
        tensors.append(tensor.clone())
        return str(len(tensors) - 1)

    packed = json.loads(json.dumps(layout.pack(state, keep)))
    return layout.unpack(Path("checkpoint"), packed, lambda _, name: tensors[int(name)])
