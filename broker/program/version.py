"""Which version of Reflexarc this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def program_version() -> str:
    """Return the version of the installed package, such as ``reflexarc 0.1.0``."""
    try:
        return f"reflexarc {version('reflexarc')}"
    except PackageNotFoundError:
        return "reflexarc, not installed"
