"""Versions of a front: judged before they are let in, without a frame in them, and gone back behind."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import robot_edge as edge
import robot_edge.fronts.registry
from broker.errors import ConfigError, NothingDone, StorageError
from hierarchy.runtime.checkpoint import load_checkpoint
from robot_edge.commands import app
from robot_edge.evaluation.saved_run import load_run, saved_settings
from robot_edge.fronts import fronts
from robot_edge.fronts.fronts import let_in
from robot_edge.fronts.registry import Registry
from robot_edge.run.checkpoint import LAYOUT
from tests.small_runs import NAMES, learned, pictures, quick_start

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _quick_start() -> Iterator[None]:
    with quick_start():
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that learned next to nothing, and another robot's that learned more."""
    folder = tmp_path_factory.mktemp("runs")
    network: dict[str, Any] = {"backbone": "timm:test_resnet", "cut": "layer2"}
    return learned(folder / "little", each=40, learning_rate=1e-6, **network), learned(
        folder / "more", robot="r2", **network
    )


@pytest.fixture
def little(runs: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs[0], tmp_path / "little"))


@pytest.fixture
def more(runs: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs[1], tmp_path / "more"))


def current(run: Path) -> Path:
    return run / "fronts" / "current"


def command(*arguments: object) -> None:
    app.cli(args=["fronts", *map(str, arguments)])


def test_a_version_holds_the_network_and_no_frame(more: Path) -> None:
    command("publish", more)
    saved, version = (load_checkpoint(one / "checkpoint", LAYOUT) for one in (more, current(more)))
    weights = saved.trainer.learner.weights
    assert all((version.trainer.learner.weights[name] == one).all() for name, one in weights.items())
    assert [len(one) for one in (version.rehearsal.tensors, version.held_out.tensors)] == [0, 0]
    assert version.trainer.augmentation == {}
    assert version.batcher.images is None
    assert {one.name for one in current(more).iterdir()} == {"config.toml", "run.json", "checkpoint"}
    assert "seed" not in (current(more) / "config.toml").read_text()


def test_another_robot_takes_it_when_a_run_begins(
    little: Path, more: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command("publish", more)
    copy = shutil.copytree(current(more), tmp_path / "usb" / "front")
    command("take", little, copy)
    assert f"--weights {current(little)} --run-dir NEW" in capsys.readouterr().out
    [version] = Registry(little).versions().versions
    assert (version.origin, set(version.classes)) == ("r2", set(NAMES))
    with edge.Robot("r1", weights=str(current(little)), run_dir=str(tmp_path / "next"), batch=8) as robot:
        assert set(robot.classes) == set(NAMES)
        right = [robot.predict(one).name == name for name in NAMES for one in pictures(name, 10, seed=8)]
        assert sum(right) > 15


def test_a_worse_one_is_not_let_in_and_one_goes_back_behind_a_bad_one(
    little: Path, more: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command("publish", more)
    with pytest.raises(SystemExit) as end:
        command("take", more, little)
    assert end.value.code == 1
    assert "NOT LET IN: " in capsys.readouterr().err
    assert current(more).resolve().name == "1"
    command("take", more, little, "--most-accuracy-lost", "100")
    assert current(more).resolve().name == "2"
    command("rollback", more)
    assert current(more).resolve().name == "1"
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[-2:] for line in printed[-3:-1]] == [["in", "use"], ["rolled", "back"]]
    with pytest.raises(ConfigError, match="nothing to go back to"):
        command("rollback", more)
    with pytest.raises(ConfigError, match="is version 1 already"):
        command("publish", more)


def test_a_full_disk_leaves_the_version_in_use(more: Path, little: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command("publish", more)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for module, name in ((fronts, "save_checkpoint"), (robot_edge.fronts.registry, "write_json")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(StorageError, match="make room"):
                let_in(more, little, most_accuracy_lost=100)
        assert current(more).resolve().name == "1"
        assert [one.number for one in Registry(more).versions().versions] == [1]
    assert let_in(more, little, most_accuracy_lost=100).number == 2


def test_without_held_out_frames_nothing_judges(more: Path) -> None:
    command("publish", more)
    with pytest.raises(NothingDone, match="held out no frames to judge"):
        let_in(current(more), None, most_accuracy_lost=1)
    assert not load_run(saved_settings(current(more)), current(more)).held_out


def test_take_names_two_folders(more: Path) -> None:
    with pytest.raises(ConfigError, match="take RUN FRONT names two folders"):
        command("take", more)
