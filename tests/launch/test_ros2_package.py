"""The checkout as a package of ROS 2. colcon is real; of `launch`, which comes with ROS 2 only, there is a stand-in."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

import robot_edge.run.start
from robot_edge.commands import app as robot_app

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch" / "robot.launch.py"
# What it takes of the checkout; docs/ and tests are no part of the package.
PARTS = ("broker", "hierarchy", "robot_edge", "cloud_trainer", "launch", "package.xml", "pyproject.toml")


@pytest.fixture
def project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def test_ros_and_pip_are_told_the_same(project: dict[str, Any]) -> None:
    package = ElementTree.parse(ROOT / "package.xml")
    for name in ("name", "version", "description", "license"):
        assert package.findtext(name) == project[name]
    scripts = dict(re.findall(r'"([\w-]+) = ([\w.:]+)"', (ROOT / "launch" / "colcon" / "setup.py").read_text()))
    assert scripts == project["scripts"]


@pytest.mark.colcon
def test_colcon_builds_the_checkout(tmp_path: Path) -> None:
    checkout = tmp_path / "src" / "reflexarc"
    checkout.mkdir(parents=True)
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, checkout / part)
    (checkout / "setup.py").symlink_to("launch/colcon/setup.py")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    built = subprocess.run(["colcon", "build"], cwd=tmp_path, env=plain, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert "Finished <<< reflexarc" in built.stdout
    prefix = tmp_path / "install" / "reflexarc"
    assert (prefix / "share/ament_index/resource_index/packages/reflexarc").is_file()  # how ROS 2 finds it
    assert (prefix / "share/reflexarc/package.xml").read_bytes() == (ROOT / "package.xml").read_bytes()
    assert (prefix / "share/reflexarc/launch" / LAUNCH.name).read_bytes() == LAUNCH.read_bytes()
    where = "import robot_edge, cloud_trainer.cluster; print(robot_edge.__file__)"
    script = f". install/setup.sh; command -v robot-edge; echo $AMENT_PREFIX_PATH; exec {sys.executable} -c '{where}'"
    sourced = subprocess.run(["sh", "-c", script], cwd=tmp_path, env=plain, capture_output=True, text=True, check=True)
    program, index, module = sourced.stdout.split()
    assert program == str(prefix / "bin" / "robot-edge")
    assert index == str(prefix)
    assert module.startswith(str(prefix / "lib"))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Return what a launch with arguments starts: a command line."""

    def argument(name: str, default_value: str, description: str) -> tuple[str, str]:
        assert description
        return name, default_value

    def look_up(name: str) -> Any:
        return SimpleNamespace(perform=lambda context: context[name])

    modules: dict[str, dict[str, Any]] = {
        "launch": {"LaunchDescription": list, "LaunchContext": dict},
        "launch.actions": {
            "DeclareLaunchArgument": argument,
            "ExecuteProcess": lambda cmd, **_: cmd,
            "OpaqueFunction": lambda function: function,
        },
        "launch.substitutions": {"LaunchConfiguration": look_up},
    }
    for name, names in modules.items():
        module = ModuleType(name)
        module.__dict__.update(names)
        monkeypatch.setitem(sys.modules, name, module)

    def start(**given: str) -> list[str]:
        *declared, function = runpy.run_path(str(LAUNCH))["generate_launch_description"]()
        assert given.keys() <= dict(declared).keys()
        (command,) = function(dict(declared) | given)
        return list(command)

    return start


def test_a_launch_starts_a_robot_with_what_it_is_given(
    started: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runs: list[Any] = []
    monkeypatch.setattr(robot_edge.run.start, "run", runs.append)
    for given in (
        {},
        {"run_dir": str(tmp_path), "robot": "r7", "flags": "--prediction-topic /seen --label-topic '/a b'"},
    ):
        program, *arguments = started(**given)
        assert program == "robot-edge"
        robot_app.cli(args=arguments)
    by_default, config = runs
    assert by_default.source.source == "ros2:/camera/image_raw"
    assert (by_default.robot, by_default.ros2_topic) == ("r1", "/reflexarc/r1/prediction")
    assert (config.robot, config.ros2_topic, config.run_dir) == ("r7", "/seen", str(tmp_path))
    assert config.source.options.label_topic == "/a b"
