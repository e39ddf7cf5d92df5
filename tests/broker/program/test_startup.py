"""Ctrl-C while a program still imports what it needs, and what is set before it does."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 120

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
        ({}, "1000 None 1"),
        ({"GOMP_SPINCOUNT": "5"}, "5 None 1"),
        ({"OMP_WAIT_POLICY": "active"}, "None active 1"),
        ({"THP_MEM_ALLOC_ENABLE": "0"}, "1000 None 0"),
    ],
)
def test_pytorch_finds_what_it_reads_when_it_is_imported_unless_the_user_says_otherwise(
    package: str, variables: dict[str, str], seen: str, tmp_path: Path
) -> None:
    # Stands for the first module that is imported.
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "THP_MEM_ALLOC_ENABLE")
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


# Asks for the same block of 64 MB again and again, and says how many pages of it came anew each time.
BLOCKS = """
import resource
from broker.program.startup import prepare_pytorch
prepare_pytorch()
b"x" * (64 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    b"x" * (64 << 20)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
@pytest.mark.parametrize("variable", ["", "GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"])
def test_freed_memory_is_kept_unless_the_user_says_otherwise(variable: str) -> None:
    others = {name: value for name, value in os.environ.items() if "MALLOC" not in name and "GLIBC" not in name}
    settings = {"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}.get(variable, "131072")
    environment = {**others, variable: settings} if variable else others
    printed = subprocess.check_output([sys.executable, "-c", BLOCKS], cwd=ROOT, env=environment, timeout=TIMEOUT_S)
    assert (int(printed) < 100) == (not variable)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_that_was_freed_goes_back(tmp_path: Path) -> None:
    # Blocks below the limit from which on the system takes them back by itself, with one that stays behind them.
    code = """
from broker.program.startup import give_memory_back, prepare_pytorch
def held(): return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])
prepare_pytorch()
blocks = [bytearray(b"x" * 4_000_000) for _ in range(25)]
stays = bytearray(100)
before = held()
blocks.clear()
kept = held()
give_memory_back()
print(before - kept, before - held())
"""
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    by_itself, given_back = (int(word) for word in said.split())
    assert by_itself < 20_000 < 80_000 < given_back
