"""Ctrl-C while a program still imports what it needs, and what is set before it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 30

# Stands for a module that takes long to import.
SLOW = """
import pathlib, time
pathlib.Path(__file__).with_name("importing").touch()
time.sleep(60)
"""


@pytest.mark.parametrize("package", ["robot_edge", "cloud_trainer", "broker"])
def test_ctrl_c_ends_it_without_a_word(package: str, tmp_path: Path) -> None:
    (tmp_path / "tyro.py").write_text(SLOW)
    program = subprocess.Popen(
        [sys.executable, "-m", package, "run"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while not (tmp_path / "importing").exists():
            assert program.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        program.send_signal(signal.SIGINT)
        printed, _ = program.communicate(timeout=TIMEOUT_S)
        assert (program.returncode, printed) == (130, "")
    finally:
        program.kill()
        program.wait()


@pytest.mark.parametrize("package", ["robot_edge", "cloud_trainer"])
@pytest.mark.parametrize(
    ("variables", "seen"),
    [
        ({}, "1000 None"),
        ({"GOMP_SPINCOUNT": "5"}, "5 None"),
        ({"OMP_WAIT_POLICY": "active"}, "None active"),
    ],
)
def test_waiting_threads_sleep_unless_the_user_says_otherwise(
    package: str, variables: dict[str, str], seen: str, tmp_path: Path
) -> None:
    # Stands for the first module that is imported: PyTorch reads the variables when it is.
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    (tmp_path / "tyro.py").write_text(f"import os, sys\nsys.exit(' '.join(str(os.environ.get(n)) for n in {names}))")
    others = {name: value for name, value in os.environ.items() if name not in names}
    program = subprocess.run(
        [sys.executable, "-m", package, "run"],
        cwd=ROOT,
        env={**others, **variables, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert program.stderr.strip() == seen
