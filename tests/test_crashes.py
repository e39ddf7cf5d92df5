"""`make test` over a suite whose tests hang and die: it ends, and names them."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
QUICK = ["-o", "timeout=1", "-o", "faulthandler_timeout=2"]
# Only a failure takes this long.
PATIENCE_S = 120.0

COMMON = """
import ctypes, os, subprocess, time, pytest

programs = []

def wait_in_native_code():
    "With Python's lock held, and signals are no reason to come back."
    native, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(256)
    native.pthread_mutex_lock(mutex)
    native.pthread_mutex_lock(mutex)
"""
SUITE = {
    "test_abort.py": """
def test_waits_in_python():
    time.sleep(1000)

def test_is_reached():
    programs.append(subprocess.Popen(["sleep", os.environ["UNTIL_KILLED"]]))

def test_aborts():
    os.abort()
""",
    "test_native.py": """
def test_waits_in_native_code():
    wait_in_native_code()
""",
    "test_behind_a_failure.py": """
@pytest.fixture
def lock():
    yield
    wait_in_native_code()

def test_fails_first(lock):
    assert False
""",
}


def run(folder: Path, until_killed: str) -> subprocess.CompletedProcess[str]:
    """Run the suite in a folder as the Makefile runs ours, with our conftest and settings."""
    options = re.search(r"-m pytest -n auto (.*)", (ROOT / "Makefile").read_text())
    assert options is not None
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "tests.conftest", *QUICK]
    command += ["-p", "no:cacheprovider", "--rootdir", str(folder), "-n", str(len(SUITE)), *options[1].split(), "."]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return subprocess.run(
        command,
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT), "UNTIL_KILLED": until_killed},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
    )


def test_what_hangs_or_dies_ends_the_run_and_is_named(tmp_path: Path) -> None:
    for name, tests in SUITE.items():
        (tmp_path / name).write_text(COMMON + tests)
    until_killed = f"{random.uniform(1e4, 1e5):.9f}"  # seconds, and the program's mark
    done = run(tmp_path, until_killed)
    assert done.returncode == 1, done.stdout
    assert "FAILED test_abort.py::test_waits_in_python - Failed: Timeout" in done.stdout
    for died in (
        "test_abort.py::test_aborts",
        "test_native.py::test_waits_in_native_code",
        "test_behind_a_failure.py::test_fails_first",
    ):
        assert re.search(rf"worker 'gw\d' crashed while running '{died}'", done.stdout), done.stdout
    assert "in wait_in_native_code" in done.stdout, "pytest says where it was"
    assert "1 passed" in done.stdout
    assert not [process for process in psutil.process_iter() if until_killed in _command(process)]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # gone
        return []
