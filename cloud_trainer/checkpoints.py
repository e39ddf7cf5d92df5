"""Where checkpoints are: in a folder, or wherever fsspec gets to, such as an object store.

Names are those of folders, with slashes. A place is laid out as a run's folder is: checkpoint/LOG and
former/checkpoint/LOG.
"""

from __future__ import annotations

import errno
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from broker.errors import ConfigError, StorageError
from broker.program.paths import typed_path
from cloud_trainer.session.session_state import LAYOUT, SessionState
from cloud_trainer.store.log import Store
from hierarchy.runtime.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint

# Of networks in training; and those of runs that their robots have left, as in a run's folder of their own.
CHECKPOINTS, FORMER = "checkpoint", "former"


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """A checkpoint where it is kept. time: Unix seconds. size: bytes of all its files."""

    time: float
    size: int


class CheckpointPlace(ABC):
    """Holds checkpoints by name."""

    @abstractmethod
    def where(self, name: str) -> str:
        """Return what people call the place of a checkpoint."""

    @abstractmethod
    def look(self, name: str) -> CheckpointFile | None:
        """Return when a checkpoint was written and what it takes; None where there is none. Raises OSError."""

    @abstractmethod
    def names(self, under: str) -> list[str]:
        """Return the names of all checkpoints below a name, in their order. Raises OSError."""

    @abstractmethod
    def save(self, name: str, state: SessionState) -> None:
        """Write a checkpoint in place of the one of that name. Raises OSError."""

    @abstractmethod
    def load(self, name: str, advice: str) -> SessionState:
        """Return a checkpoint. Raises ConfigError with advice where it is damaged, and StorageError."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete a checkpoint. Raises OSError."""


class CheckpointFolder(CheckpointPlace):
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def where(self, name: str) -> str:
        return str(self._path / name)

    def look(self, name: str) -> CheckpointFile | None:
        try:
            files = [path.stat() for path in (self._path / name).iterdir() if path.is_file()]
            when = (self._path / name / CHECKPOINT).stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return None
        return CheckpointFile(time=when, size=sum(one.st_size for one in files))

    def names(self, under: str) -> list[str]:
        found = (self._path / under).glob(f"**/{CHECKPOINT}")
        return sorted(str(PurePosixPath(one.parent.relative_to(self._path))) for one in found)

    def save(self, name: str, state: SessionState) -> None:
        save_checkpoint(self._path / name, LAYOUT, state)

    def load(self, name: str, advice: str) -> SessionState:
        return load_checkpoint(self._path / name, LAYOUT, advice)

    def delete(self, name: str) -> None:
        shutil.rmtree(self._path / name)


class RemoteCheckpoints(CheckpointPlace):
    """What is behind a URL of fsspec. A checkpoint is written on this machine's disk, and read from it.

    Not every place puts a file there whole or not at all. So no checkpoint takes the name of another one, and what has
    no name in the store is none.
    """

    def __init__(self, url: str) -> None:
        """Raise ConfigError where this machine has no way to such a URL."""
        try:
            import fsspec
        except ImportError as error:
            raise ConfigError(f"--checkpoints {url}: {error}: pip install 'reflexarc[cluster]'") from error
        try:
            self._files, root = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"--checkpoints {url}: {error}") from error
        self._url, self._root = url.rstrip("/"), root.rstrip("/")

    def where(self, name: str) -> str:
        return f"{self._url}/{name}"

    def look(self, name: str) -> CheckpointFile | None:
        path = f"{self._root}/{name}/{CHECKPOINT}"
        with _as_os_errors(self.where(name)):
            self._files.invalidate_cache()  # others write here
            if not self._files.exists(path):
                return None
            return CheckpointFile(time=_when(self._files.info(path)), size=int(self._files.size(path)))

    def names(self, under: str) -> list[str]:
        with _as_os_errors(self.where(under)):
            self._files.invalidate_cache()
            found = [PurePosixPath(one) for one in self._files.find(f"{self._root}/{under}")]
        return sorted(str(one.parent.relative_to(self._root)) for one in found if one.name == CHECKPOINT)

    def save(self, name: str, state: SessionState) -> None:
        with TemporaryDirectory() as folder:
            save_checkpoint(Path(folder), LAYOUT, state)
            with _as_os_errors(self.where(name)):
                self._files.makedirs(f"{self._root}/{name}", exist_ok=True)
                self._files.put_file(str(Path(folder, CHECKPOINT)), f"{self._root}/{name}/{CHECKPOINT}")

    def load(self, name: str, advice: str) -> SessionState:
        with TemporaryDirectory() as folder:
            try:
                with _as_os_errors(self.where(name)):
                    self._files.get_file(f"{self._root}/{name}/{CHECKPOINT}", str(Path(folder, CHECKPOINT)))
            except FileNotFoundError as error:
                raise ConfigError(f"there is no checkpoint at {self.where(name)}: {advice}") from error
            except OSError as error:
                raise StorageError(f"the checkpoint at {self.where(name)} cannot be read: {error}") from error
            return load_checkpoint(Path(folder), LAYOUT, advice)

    def delete(self, name: str) -> None:
        with _as_os_errors(self.where(name)):
            self._files.rm(f"{self._root}/{name}", recursive=True)


def checkpoint_name(log: str, store: Store) -> str:
    """Return the name of the checkpoint of a log that holds; empty where the store names it, and has named none."""
    if not store.is_remote:
        return f"{CHECKPOINTS}/{log}"
    named = store.checkpoint(log)
    return f"{CHECKPOINTS}/{log}/{named}" if named else ""


def checkpoint_place(place: str | Path) -> CheckpointPlace:
    """Return the place that somebody named. Raises ConfigError for a URL that leads nowhere from here."""
    if isinstance(place, str) and "://" in place:
        return RemoteCheckpoints(place)
    return CheckpointFolder(typed_path(place))


def _when(about: dict[str, Any]) -> float:
    """Return when a file was written, as the many kinds of places say it; now where one does not."""
    when: Any = next((about[key] for key in ("mtime", "LastModified", "created", "updated") if key in about), None)
    if isinstance(when, int | float):
        return float(when)
    return float(when.timestamp()) if hasattr(when, "timestamp") else time.time()


@contextmanager
def _as_os_errors(where: str) -> Iterator[None]:
    """Raise OSError for all that a client of an object store may raise: each kind has errors of its own."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(errno.EIO, f"{where}: {type(error).__name__}: {error}") from error
