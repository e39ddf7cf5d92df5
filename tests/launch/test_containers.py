"""The containers' files: with extras, programs, settings and paths that there are."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import robot_edge.run.start
from robot_edge.commands import app
from tests.interpreters import supported

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LAUNCH = Path(__file__).parents[2] / "launch"
FILES = sorted(LAUNCH.glob("*.Dockerfile"))
PROJECT = tomllib.loads((LAUNCH.parent / "pyproject.toml").read_text())["project"]


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return each instruction of a Dockerfile with what is behind it."""
    text = re.sub(r"\\\n\s*", "", "".join(re.findall(r"^[^#].*\n|^\n", path.read_text(), re.MULTILINE)))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in text.splitlines() if line]


def test_there_is_one_for_each_end() -> None:
    assert [path.name for path in FILES] == ["robot.Dockerfile", "trainer.Dockerfile"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_installs_extras_that_there_are_and_starts_a_program_that_there_is(path: Path) -> None:
    lines = instructions(path)
    arguments = dict(value.split("=", 1) for name, value in lines if name == "ARG")
    assert set(arguments["EXTRAS"].split(",")) <= PROJECT["optional-dependencies"].keys()
    assert arguments["BASE"].removeprefix("python:").removesuffix("-slim") in supported()
    (entry,) = (json.loads(value) for name, value in lines if name == "ENTRYPOINT")
    assert entry[0] in PROJECT["scripts"]
    assert entry[0].partition("-")[0 if path.name.startswith("robot") else 2] == path.stem


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_variable_is_an_argument_that_was_given_before(path: Path) -> None:
    given = set[str]()
    for name, value in instructions(path):
        assert set(re.findall(r"\$\{(\w+)\}", value)) <= given
        if name == "ARG":
            given.add(value.split("=")[0])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_shell_takes_what_it_runs(path: Path) -> None:
    for name, value in instructions(path):
        if name == "RUN":
            done = subprocess.run([shutil.which("sh") or "sh", "-n", "-c", value], capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, "")


def test_the_robot_takes_the_command_that_its_file_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Any] = []
    monkeypatch.setattr(robot_edge.run.start, "run", runs.append)
    text = (LAUNCH / "robot.Dockerfile").read_text()
    (shown,) = re.findall(r"^#\s+reflexarc-robot (run .*)$", text, re.MULTILINE)
    app.cli(args=shlex.split(shown))
    assert (runs[0].robot, runs[0].source.source) == ("r1", "camera:0")
    (command,) = (json.loads(value) for name, value in instructions(LAUNCH / "robot.Dockerfile") if name == "CMD")
    assert command == ["doctor"]
