from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from broker.errors import ConfigError, MachineError
from robot_edge import commands
from robot_edge.planning.config import PlanConfig
from robot_edge.run.config import EvaluateConfig, RobotConfig
from robot_edge.run.given_paths import check_evaluation, check_run


@pytest.fixture(name="home")
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with pictures, files that might be recordings, and a run; it is where ~ leads and the test runs."""
    (tmp_path / "pictures" / "cup").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "pictures" / "cup" / "0.png")
    for name in ("clip.mp4", "drive.mcap", "labels.csv", "r1.toml"):
        (tmp_path / name).touch()
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "metadata.yaml").touch()
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"source": "folder:~/pictrues"}, r"folder .*/pictrues does not exist .did you mean .*/pictures\?"),
        ({"source": "folder:clip.mp4"}, r"is a file .did you mean video:clip.mp4\?"),
        ({"source": "pictures"}, r"--source 'pictures' .did you mean folder:pictures\?"),
        ({"source": "~/pictures"}, r"did you mean folder:.*/pictures\?"),
        ({"source": "pictures/cup/0.png"}, r"did you mean folder:.*/pictures\?"),
        ({"source": "clip.mp4"}, r"did you mean video:clip.mp4\?"),
        ({"source": "drive.mcap"}, r"did you mean bag:drive.mcap\?"),
        ({"source": "bag"}, r"did you mean bag:bag\?"),
        ({"source": "/dev/null"}, r"did you mean camera:/dev/null\?"),
        ({"source": "Foldr:pictures"}, r"did you mean folder:pictures\?"),
        ({"source": "./pictrues"}, r"did you mean pictures\?"),
        ({"source": "video:pictures"}, r"is no file .did you mean folder:pictures\?"),
        ({"source": "video:clip.mp"}, r"does not exist .did you mean clip.mp4\?"),
        ({"source": "bag:drive.mcp"}, r"does not exist .did you mean drive.mcap\?"),
        ({"held_out": "pictures"}, r"--held-out 'pictures' .did you mean folder:pictures\?"),
        ({"held_out": "folder:nowhere"}, "folder nowhere does not exist"),
        ({"labels": "~/label.csv"}, r"--labels .* does not exist .did you mean .*/labels.csv\?"),
        ({"labels": "pictures"}, "--labels pictures is a folder; name a file"),
        ({"credentials": "~/r2.toml"}, r"--credentials .* does not exist .did you mean .*/r1.toml\?"),
        ({"run_dir": "clip.mp4"}, "--run-dir clip.mp4: clip.mp4 is no folder"),
        ({"run_dir": "clip.mp4/r1"}, "--run-dir clip.mp4/r1: clip.mp4 is no folder"),
        ({"weights": "defualt"}, r"--weights defualt does not exist .did you mean --weights default\?"),
        ({"weights": "~/rnu"}, r"--weights .*/rnu does not exist .did you mean .*/run\?"),
        ({"weights": "pictures"}, "--weights pictures: there is no run with a checkpoint; expected none, default, or"),
    ],
)
def test_a_mistyped_path_is_said_with_what_may_be_meant(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_run(RobotConfig.from_flags(**{"source": "folder:pictures", **settings}))


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("source", ["sim:", "sim", "camera:0", "torchvision:CIFAR10", "rtsp://cam/", "folder:pictures"])
def test_what_can_be_used_is_taken_with_a_tilde_too(source: str) -> None:
    check_run(
        RobotConfig.from_flags(
            source=source,
            held_out="bag:~/bag",
            labels="~/labels.csv",
            credentials="~/r1.toml",
            run_dir="~/runs/new",
            weights="~/run",
        )
    )
    check_evaluation(EvaluateConfig(source=source, checkpoint="~/run", out="~/evaluation"))


def test_every_path_means_the_one_at_home(home: Path) -> None:
    config = RobotConfig.from_flags(source="sim:", run_dir="~/run", weights="~/former")
    assert (config.run_path, config.network.former_run) == (home / "run", home / "former")
    assert EvaluateConfig(source="sim:", checkpoint="~/run", out="~/out").checkpoint == str(home / "run")


@pytest.mark.usefixtures("home")
def test_an_evaluation_of_no_run_is_said() -> None:
    with pytest.raises(ConfigError, match=r"--checkpoint .*rnu does not exist .did you mean .*run"):
        check_evaluation(EvaluateConfig(source="sim:", checkpoint="~/rnu"))


def test_a_folder_that_may_not_be_written_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(MachineError, match=f"--run-dir .*: {home} may not be written by this user"):
        check_run(RobotConfig.from_flags(source="sim:", run_dir=str(home / "new")))


@pytest.mark.usefixtures("home")
def test_a_run_goes_on_although_the_run_that_it_began_with_is_gone() -> None:
    check_run(RobotConfig.from_flags(source="sim:", run_dir="run", weights="gone"))


@pytest.mark.usefixtures("home")
def test_a_test_on_what_was_learned_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_run(RobotConfig.from_flags(source="folder:pictures", held_out="folder:./pictures/../pictures"))
    assert "--held-out is what --source shows" in caplog.text
    caplog.clear()
    check_run(RobotConfig.from_flags(source="folder:pictures", held_out="sim:"))
    assert not caplog.text


def test_paths_are_looked_at_before_pytorch_is_imported() -> None:
    program = (
        "import sys, pytest; from robot_edge.commands import run; from robot_edge.run.config import RobotConfig\n"
        "from broker.errors import ConfigError\n"
        "with pytest.raises(ConfigError): run(RobotConfig.from_flags(source='folder:nowhere'))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[3], check=True, timeout=60)


def test_the_commands_use_the_parts_of_a_data_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("train", "test"):
        (home / "set" / part / "cup").mkdir(parents=True)
    seen: list[Any] = []

    def look(config: RobotConfig | EvaluateConfig) -> None:
        seen.append(config.source)
        raise ConfigError("looked at")

    monkeypatch.setattr("robot_edge.commands.check_run", look)
    monkeypatch.setattr("robot_edge.commands.check_evaluation", look)
    with pytest.raises(ConfigError, match="looked at"):
        commands.run(RobotConfig.from_flags(source="folder:set"))
    with pytest.raises(ConfigError, match="looked at"):
        commands.plan(PlanConfig.from_flags(source="folder:set"))
    with pytest.raises(ConfigError, match="looked at"):
        commands.evaluate(EvaluateConfig(source="folder:set", checkpoint="run"))
    ran, planned, evaluated = seen
    assert (ran.source, ran.held_out) == (planned.source, planned.held_out) == ("folder:set/train", "folder:set/test")
    assert evaluated == "folder:set/test"
