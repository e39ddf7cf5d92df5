"""Ctrl-C while a program still imports what it needs."""

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
