"""A run's fronts on the disk: one folder for each version, a list of them, and a link to the one in use.

A version is a run's folder without a frame in it, so whatever takes a run's folder takes it: `--weights`, `evaluate`,
`export`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from broker.errors import ConfigError
from broker.program.machine import refused
from hierarchy.runtime.checkpoint import write_json
from hierarchy.runtime.run_folder import lock_folder
from hierarchy.runtime.state import Layout

FRONTS, VERSIONS, CURRENT = "fronts", "versions.json", "current"


@dataclass(frozen=True, kw_only=True)
class Version:
    """A front, and how good its exit was when it was let in.

    origin: of which robot. digest: of what decides what crosses. accuracy: on so many held-out frames of this run.
    time: Unix seconds. is_out: somebody went back behind it.
    """

    number: int
    origin: str
    digest: str
    classes: list[str]
    steps: int
    accuracy: float
    frames: int
    time: float
    is_out: bool = False


@dataclass(frozen=True)
class Versions:
    """All that there ever were, the oldest first."""

    versions: list[Version]

    @property
    def current(self) -> Version | None:
        """The newest that nobody went back behind."""
        return next((one for one in reversed(self.versions) if not one.is_out), None)


LAYOUT = Layout(kind=Versions, migrations=(dict,))


class Registry:
    """The fronts in a run's folder."""

    def __init__(self, run: Path) -> None:
        self.path = run / FRONTS

    def versions(self) -> Versions:
        """Return what is there. Raises ConfigError where the list is damaged."""
        path = self.path / VERSIONS
        try:
            return LAYOUT.read(path) if path.exists() else Versions([])
        except (OSError, ValueError, KeyError) as error:
            raise refused(f"{path} cannot be read", error, path=path, advice="put a copy of it back") from error

    def folder(self, version: Version) -> Path:
        """Return the folder of a version."""
        return self.path / str(version.number)

    @contextmanager
    def adding(self, version: Version) -> Iterator[Path]:
        """Give a folder to write a version into, and let it be the one in use when all of it is on the disk.

        Where it cannot be written, the former one stays in use. Raises StorageError and MachineError.
        """
        whole = self.folder(version)
        half = whole.with_name(f"{whole.name}.new")
        with self._alone():
            for left in (half, whole):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            try:
                half.mkdir()
                yield half
                os.replace(half, whole)
                self._use(Versions([*self.versions().versions, replace(version, time=time.time())]))
            except BaseException:
                shutil.rmtree(half, ignore_errors=True)
                raise

    def roll_back(self) -> tuple[Version, Version]:
        """Go back behind the version in use; return it, and the one in use from now on. Raises ConfigError."""
        with self._alone():
            known = self.versions()
            last = known.current
            before = Versions([replace(one, is_out=one.is_out or one == last) for one in known.versions])
            if last is None or before.current is None:
                raise ConfigError(f"{self.path} has no version before the one in use: there is nothing to go back to")
            self._use(before)
        return last, before.current

    def _use(self, versions: Versions) -> None:
        """Write the list, then let the link follow it."""
        write_json(self.path / VERSIONS, LAYOUT.pack(versions))
        assert versions.current
        link = self.path / f"{CURRENT}.new"
        link.unlink(missing_ok=True)
        link.symlink_to(str(versions.current.number), target_is_directory=True)
        os.replace(link, self.path / CURRENT)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            self.path.mkdir(exist_ok=True)
            with lock_folder(self.path):
                yield
        except OSError as error:
            raise refused(str(self.path), error, path=self.path) from error
