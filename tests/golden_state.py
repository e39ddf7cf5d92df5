"""What the commit before versions of saved state has written: `golden/state-0.tar.xz`."""

from __future__ import annotations

import tarfile
from pathlib import Path

ARCHIVE = Path(__file__).parent / "golden" / "state-0.tar.xz"


def golden_state(name: str, folder: Path) -> Path:
    """Unpack one of the folders in the archive into a folder, and return it."""
    with tarfile.open(ARCHIVE) as archive:
        members = [one for one in archive if one.name == name or one.name.startswith(f"{name}/")]
        archive.extractall(folder, members, filter="data")
    return folder / name
