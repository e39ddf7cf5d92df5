"""What the system refuses, told apart by whose turn it is: a setting's, the disk's or the machine's."""

from __future__ import annotations

import errno
import re
import shutil
import sqlite3
from pathlib import Path

from broker.errors import ConfigError, MachineError, OutOfMemory, ReflexarcError, StorageError

# What no other setting mends: no room, a quota, a limit on files, a disk that fails.
DISK_TROUBLES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
# What another setting mends: there is no such file, host or address, or it is of another kind.
WRONG_SETTING = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.EINVAL),
    *(errno.ELOOP, errno.EXDEV, errno.ENOTSUP, errno.ENXIO, errno.ENODEV),
}
# As Rust's libraries, safetensors among them, name the system's error, and as Python does.
OS_ERROR = re.compile(r"(?:os error |\[Errno )(\d+)")
# As sqlite names it.
SQLITE_ERRORS = {
    "disk is full": errno.ENOSPC,
    "disk I/O error": errno.EIO,
    "readonly database": errno.EROFS,
    "unable to open database": errno.EACCES,
    "database is locked": errno.EBUSY,
}
# As PyTorch on a processor, PyTorch on an accelerator, Python's threads and the loader of libraries say it.
OUT_OF_MEMORY = re.compile(
    r"allocate memory|out of memory|not enough memory|can't start new thread|failed to map segment", re.IGNORECASE
)
# As torch says it of a torchvision that was built for another one, such as one with CUDA beside one without.
UNLIKE_BUILDS = re.compile(
    r"operator torchvision::\w+ does not exist|torchvision has been compiled with a different CUDA"
)
LIKE_BUILDS = "install both again, from one index (docs/how-to/install.md)"


def room(path: Path) -> str:
    """Say where to make room, and how much there is."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return f"make room on the disk of {place} ({error})"
    return f"make room on the disk of {place}, where {free / 1e6:,.1f} MB are free"


def error_number(error: BaseException) -> int | None:
    """Return the system's number of an error, also of one that only names it; None where there is none."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    if found := OS_ERROR.search(text):
        return int(found[1])
    return next((number for words, number in SQLITE_ERRORS.items() if words in text), None)


def refused(
    what: str, error: BaseException, reason: object = "", *, path: Path | None = None, advice: str = ""
) -> ReflexarcError:
    """Return the error for a file, folder or port that the system refuses.

    reason: what to say of it; the error's own words by default. path: of what was to be written, on whose disk to make
    room. advice: what to do where the machine is not to blame. MachineError where the setting may be right, as on a
    disk that is full or read-only, ConfigError where another one is needed.
    """
    number = error_number(error)
    said = f"{what}: {reason or error}"
    if number in DISK_TROUBLES:
        return StorageError(f"{said}: {room(path)}, and start again" if path else said)
    if number is None or number in WRONG_SETTING:
        return ConfigError(f"{what}; {advice}: {reason or error}" if advice else said)
    return MachineError(said)


def machine_error(error: BaseException) -> MachineError | None:
    """Return what an error that nobody expected there says of this machine; None where it is none of its doing."""
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | ImportError) and OUT_OF_MEMORY.search(str(error))
    ):
        reason = " ".join(str(error).split())[:300]
        said = f"out of memory ({reason})" if reason else "out of memory"
        return OutOfMemory(f"{said}: end other programs, or use a smaller --batch, --image-size or network")
    if isinstance(error, RuntimeError) and UNLIKE_BUILDS.search(str(error)):
        return MachineError(f"torch and torchvision are of different builds ({error}): {LIKE_BUILDS}")
    if isinstance(error, BrokenPipeError):
        return MachineError("nobody reads what it prints any more")
    if isinstance(error, OSError | sqlite3.OperationalError):
        found = refused("the system refuses", error)
        return found if isinstance(found, MachineError) else None
    return None
