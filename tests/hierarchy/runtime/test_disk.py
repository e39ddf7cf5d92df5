from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest

from broker.errors import ConfigError, StorageError
from hierarchy.runtime.disk import REMIND_SECONDS, DiskWatch, error_number, other_place, unwritable

FULL = OSError(errno.ENOSPC, "No space left on device")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_missing_is_said_at_once_again_and_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    watch = DiskWatch(logging.getLogger("test"), tmp_path, clock)
    assert watch.error("") is None
    for _ in range(3):
        watch.failed("the checkpoint", FULL, ", training goes on")
        watch.remind()
    assert len(caplog.messages) == 1, "at once, and once"
    assert "the checkpoint cannot be written ([Errno 28] No space left on device), training goes on" in caplog.text
    assert f"make room on the disk of {tmp_path}, where " in caplog.text
    clock.now += REMIND_SECONDS
    watch.remind()
    assert "still not written: the checkpoint" in caplog.messages[1]
    watch.failed("summary.json", FULL)
    error = watch.error("Go on.")
    assert isinstance(error, StorageError)
    assert str(error).startswith("NOT SAVED: the checkpoint ([Errno 28] No space left on device); summary.json (")
    assert str(error).endswith("Go on.")
    watch.written("the checkpoint")
    watch.written("summary.json")
    assert caplog.messages[-1] == "summary.json can be written again"
    assert watch.error("") is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FULL, StorageError),
        (OSError(errno.EIO, "Input/output error"), StorageError),
        (ValueError("I/O error: No space left on device (os error 28)"), StorageError),
        (ValueError("database or disk is full"), StorageError),
        (PermissionError(errno.EACCES, "Permission denied"), ConfigError),
        (ValueError("anything"), ConfigError),
    ],
)
def test_a_full_disk_is_no_wrong_setting(tmp_path: Path, error: Exception, kind: type[Exception]) -> None:
    found = unwritable("--run-dir here", tmp_path / "not" / "there", error)
    assert type(found) is kind
    assert ("make room on the disk of " in str(found)) == (kind is StorageError)


def test_an_error_without_a_number_has_none() -> None:
    assert error_number(ValueError("os error")) is None


def test_another_place_is_on_another_disk_and_has_room(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second disk here")
    assert other_place(tmp_path, 10, [tmp_path, tmp_path / "gone", other]) == other
    assert other_place(tmp_path, 1 << 60, [other]) is None
