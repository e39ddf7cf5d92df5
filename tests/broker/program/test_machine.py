from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest

from broker.errors import ConfigError, MachineError, OutOfMemory, StorageError
from broker.program.machine import error_number, machine_error, refused


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StorageError),
        (OSError(errno.EIO, "Input/output error"), StorageError),
        (ValueError("I/O error: No space left on device (os error 28)"), StorageError),
        (ValueError("database or disk is full"), StorageError),
        (sqlite3.OperationalError("disk I/O error"), StorageError),
        (PermissionError(errno.EACCES, "Permission denied"), MachineError),
        (OSError(errno.EROFS, "Read-only file system"), MachineError),
        (OSError(errno.EMFILE, "Too many open files"), MachineError),
        (sqlite3.OperationalError("attempt to write a readonly database"), MachineError),
        (sqlite3.OperationalError("unable to open database file"), MachineError),
        (sqlite3.DatabaseError("file is not a database"), ConfigError),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), ConfigError),
        (ValueError("anything"), ConfigError),
    ],
)
def test_a_full_disk_is_no_wrong_setting(tmp_path: Path, error: Exception, kind: type[Exception]) -> None:
    found = refused("--run-dir here", error, path=tmp_path / "not" / "there")
    assert type(found) is kind
    assert ("make room on the disk of " in str(found)) == (kind is StorageError)


def test_an_error_without_a_number_has_none() -> None:
    assert error_number(ValueError("os error")) is None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_a_memory_that_is_used_up_is_the_machine_s(error: Exception) -> None:
    found = machine_error(error)
    assert isinstance(found, OutOfMemory)
    assert "use a smaller --batch" in str(found)


def test_a_torchvision_of_another_build_is_named() -> None:
    found = machine_error(RuntimeError("operator torchvision::nms does not exist"))
    assert str(found).startswith("torch and torchvision are of different builds")


@pytest.mark.parametrize("error", [KeyError("bits"), ValueError("disk is full"), RuntimeError("shape"), OSError("?")])
def test_what_the_machine_cannot_help_is_none_of_its_errors(error: Exception) -> None:
    assert machine_error(error) is None
