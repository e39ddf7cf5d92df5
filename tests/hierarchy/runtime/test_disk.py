from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest

from broker.errors import StorageError
from hierarchy.runtime.disk import REMIND_SECONDS, DiskWatch, other_place

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


def test_another_place_is_on_another_disk_and_has_room(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second disk here")
    assert other_place(tmp_path, 10, [tmp_path, tmp_path / "gone", other]) == other
    assert other_place(tmp_path, 1 << 60, [other]) is None
