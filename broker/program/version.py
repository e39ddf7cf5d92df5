"""Which version of Reflexarc this is. Nothing here takes time to import."""

from __future__ import annotations

import sys


def program_version() -> str:
    """Return the version of the installed package, such as ``reflexarc 0.1.0``."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"reflexarc {version('reflexarc')}"
    except PackageNotFoundError:
        return "reflexarc, not installed"


def answer_version() -> None:
    """End the program with its version where that is all that it is asked for."""
    if sys.argv[1:] == ["--version"]:
        print(program_version())
        sys.exit()
