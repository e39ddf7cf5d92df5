"""Files that are written together: beside what is there, and renamed when all of them are on the disk."""

from __future__ import annotations

import os
from pathlib import Path

from broker.program.machine import refused


def write_together(files: dict[Path, bytes]) -> None:
    """Write files whose folder may be new. Where one cannot be written, what was there stays.

    Raises StorageError for a full disk, MachineError and ConfigError for a place that may not be written.
    """
    new = {path: path.with_name(path.name + ".new") for path in files}
    path = next(iter(files))
    try:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with new[path].open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in new.items():
            os.replace(temporary, path)
    except OSError as error:
        for temporary in new.values():
            temporary.unlink(missing_ok=True)  # half a file would only fill a disk that is full
        raise refused(f"--out {path}", error, path=path, advice="choose another one") from error
