"""Files that only their user may read: keys and passwords. The rule is that of ssh."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from broker.errors import ConfigError
from broker.program.machine import refused
from broker.program.paths import shown

# Where a service manager hands over secrets that it guards itself: systemd (whose access list looks like a mode of
# 0440), and Docker, Podman and Kubernetes, inside a container that nobody else is in.
GUARDED_VARIABLE = "CREDENTIALS_DIRECTORY"
GUARDED_FOLDERS = (Path("/run/secrets"), Path("/var/run/secrets"))


def check_private(path: Path, what: str) -> None:
    """Raise ConfigError where others may read or write a file that holds a secret, or where it cannot be read.

    what: the flag or key that names it. A file of our own must be closed to group and others. Of another user's, such
    as root's, the group may be let read it, as it may be us who are meant.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for whoever writes into it
            raise ConfigError(f"{what} {shown(path)} is no file that can be read: name a regular one")
        with path.open("rb"):
            pass
    except OSError as error:
        raise refused(f"{what} {shown(path)}", error, error.strerror) from error
    if os.name != "posix" or _is_guarded(path):
        return
    too_much = 0o077 if status.st_uid == os.geteuid() else 0o027
    open_to = status.st_mode & too_much
    if not open_to:
        return
    who = "everybody on this machine" if open_to & 0o007 else "its group"
    may = "write" if open_to & 0o022 and not open_to & 0o044 else "read and write" if open_to & 0o022 else "read"
    mended = f"{stat.S_IMODE(status.st_mode) & ~too_much:o}"
    raise ConfigError(
        f"{what} {shown(path)} holds a secret, and {who} may {may} it (mode {stat.S_IMODE(status.st_mode):04o}): "
        f"chmod {mended} {shlex.quote(shown(path))}"
    )


def read_private(path: Path, what: str) -> str:
    """Return the text of such a file, without the byte order mark of Windows editors. Raises ConfigError."""
    check_private(path, what)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise refused(f"{what} {shown(path)}", error, error.strerror) from error
    except ValueError as error:
        raise ConfigError(f"{what} {shown(path)} is not a text in UTF-8: save it as UTF-8") from error


def write_private(path: Path, text: str) -> None:
    """Write a new file that only its user may read. Raises FileExistsError, and other OSErrors."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _is_guarded(path: Path) -> bool:
    handed_over = os.environ.get(GUARDED_VARIABLE)
    folders = [*GUARDED_FOLDERS, *([Path(handed_over)] if handed_over else [])]
    place = Path(os.path.abspath(path))
    return any(place.is_relative_to(folder) for folder in folders)
