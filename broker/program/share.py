"""What comes with the programs beside code: docs/ and two pages for people, launch/ with settings and services."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from broker.program.machine import refused

FOLDERS = ("docs", "launch")
# What pages in docs/ link to beside it.
PAGES = ("README.md", "ARCHITECTURE.md")


def shared() -> Path:
    """Return the folder that docs/ and launch/ lie in."""
    packages = Path(__file__).resolve().parents[2]
    installed = packages / "broker" / "share"
    return installed if installed.is_dir() else packages  # of a source tree


def copy_shared(to: Path) -> None:
    """Copy FOLDERS and PAGES into a folder that has none of them yet. Raises ConfigError and MachineError."""
    try:
        if there := [name for name in (*FOLDERS, *PAGES) if (to / name).exists()]:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(to / there[0]))
        for name in FOLDERS:
            shutil.copytree(shared() / name, to / name)
        for name in PAGES:
            shutil.copyfile(shared() / name, to / name)
    except OSError as error:
        why = error.args[0][0][2] if isinstance(error, shutil.Error) else error  # else of each file
        raise refused(f"--to {to}", error, f"{why}: choose another folder", path=to) from error
