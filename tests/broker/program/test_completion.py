"""What bash completes, as bash itself says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
# What bash does when Tab is pressed behind the words $@.
PRESS_TAB = """
source "$1"; shift
function=$(complete -p "$1" | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
"$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def script(program: str, shell: str, folder: Path) -> Path:
    command = [sys.executable, "-m", program, "completion", shell]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    path = folder / f"{program}.{shell}"
    path.write_text(made)
    return path


def completed(path: Path, *words: str) -> list[str]:
    command = ["bash", "-c", PRESS_TAB, "bash", str(path), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_flags_and_choices_and_no_words_of_their_help(tmp_path: Path) -> None:
    robot = script("robot_edge", "bash", tmp_path)
    assert completed(robot, "robot-edge", "doc") == ["doctor"]
    assert completed(robot, "robot-edge", "run", "--brok") == ["--broker"]
    assert completed(robot, "robot-edge", "doctor", "--device", "c") == ["cpu", "cuda"]
    assert "provision" in completed(script("broker", "bash", tmp_path), "local-broker", "pro")
    assert "replay" in completed(script("cloud_trainer", "bash", tmp_path), "cloud-trainer", "rep")


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_takes_its_script(tmp_path: Path) -> None:
    done = subprocess.run(["zsh", "-n", str(script("broker", "zsh", tmp_path))], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
