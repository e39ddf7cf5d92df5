"""What the system refuses when a program starts: a full disk is no wrong setting, which no service would try again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from broker.errors import ConfigError, CutError, MachineError, ReflexarcError, StorageError, exit_status
from hierarchy.runtime.run_folder import RunFolder
from robot_edge.planning import planner
from robot_edge.planning.config import PlanConfig
from robot_edge.run.config import RobotConfig
from robot_edge.run.identity import run_identity
from robot_edge.run.source_files import SourceFiles
from robot_edge.run.start import prepare
from robot_edge.sources.pushed import PushedCamera

WRITERS: dict[str, Callable[[Path], Any]] = {
    "run folder": lambda folder: RunFolder(folder, {}),
    "identity": lambda folder: run_identity(folder, "none"),
    "source files": lambda folder: SourceFiles(marks={"a": "1"}, numbers={"a": 0}).write(folder),
    "plan": lambda folder: planner._write(PlanConfig.from_flags(source="sim:", out=str(folder / "plan.toml")), {}),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    ("number", "kind", "status"),
    [
        (errno.ENOSPC, StorageError, 1),
        (errno.EDQUOT, StorageError, 1),
        (errno.EROFS, MachineError, 1),
        (errno.EACCES, MachineError, 1),
        (errno.EMFILE, MachineError, 1),
        (errno.ENOTDIR, ConfigError, 2),
        (errno.ENAMETOOLONG, ConfigError, 2),
    ],
)
def test_only_what_another_setting_mends_is_a_wrong_setting(
    writer: str, number: int, kind: type[ReflexarcError], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    for write in ("write_text", "write_bytes"):
        monkeypatch.setattr(Path, write, refuse)
    with pytest.raises(ReflexarcError) as caught:
        WRITERS[writer](tmp_path)
    assert type(caught.value) is kind
    assert exit_status(caught.value) == status
    assert os.strerror(number) in str(caught.value)
    assert ("make room on the disk of" in str(caught.value)) == (kind is StorageError)


def test_a_camera_is_closed_where_the_network_cannot_be_built(tmp_path: Path) -> None:
    camera = PushedCamera()
    config = RobotConfig.from_flags(source="program:", live=True, cut="layer9", broker="", run_dir=str(tmp_path))
    with pytest.raises(CutError, match="layer9"):
        prepare(config, camera)
    assert camera.ended
