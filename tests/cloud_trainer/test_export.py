"""The cloud's half of a network, as a robot is given it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from broker.errors import ConfigError
from cloud_trainer.checkpoints import CheckpointFolder
from cloud_trainer.commands import app
from cloud_trainer.export import export
from cloud_trainer.session.session_state import LAYOUT
from cloud_trainer.store.opening import STORE
from hierarchy.rest_file import LAYOUT as REST
from hierarchy.runtime.checkpoint import load_checkpoint
from tests.cloud_trainer.world import SPLIT, STATE, Cloud, batches


@pytest.fixture
def run(start: Callable[..., Cloud]) -> Path:
    cloud = start()
    cloud.say("r1", STATE, *batches(3, size=4))
    cloud.work(60)
    cloud.finish()
    return cloud.path


def test_it_is_what_the_last_checkpoint_has(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rest"
    app.cli(args=["export", "--store", str(run / STORE), "--robot", "r1", "--out", str(out)])
    assert f"robot-edge export RUN --part whole --rest {out}" in capsys.readouterr().out
    saved, half = load_checkpoint(run / "checkpoint" / "r1", LAYOUT), load_checkpoint(out, REST)
    assert (half.split, half.stands_still) == (SPLIT, False)
    assert half.learner.classes == saved.learner.classes == ["cat", "dog"]
    weights = saved.learner.weights
    assert half.learner.weights.keys() == weights.keys()
    assert all((half.learner.weights[name] == one).all() for name, one in weights.items())
    assert not half.learner.momentum


def test_of_a_robot_that_nobody_knows_there_is_none(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="knows no robot of that name; it knows r1"):
        export(run / STORE, CheckpointFolder(run), "r2", tmp_path / "rest")
    with pytest.raises(ConfigError, match="robot r1 has no checkpoint yet"):
        export(run / STORE, CheckpointFolder(tmp_path), "r1", tmp_path / "rest")
    assert not (tmp_path / "rest").exists()
