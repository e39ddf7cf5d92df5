"""A front that tells too much sends nothing; what it learned from goes up later, encoded anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import hierarchy.runtime.curves
import robot_edge.evaluation.evaluate
import robot_edge.learning.held_back
import robot_edge.run.release
from broker.errors import ConfigError
from hierarchy.attack.leak import Leak
from hierarchy.attack.pairs import Pairs
from robot_edge.evaluation.evaluate import name_frames
from robot_edge.run.config import EvaluateConfig
from robot_edge.run.replay import train, wait_for_trainer
from tests.robot_edge.run.test_replay import LATER, OPEN, Run, assert_same, sent

pytestmark = pytest.mark.slow

SETTINGS = {"images": 200, "privacy": "low", "pool": 0, "rehearse": 0.5, "phases": "mug,car,star|mug,car,star"}
# Frames that are held when the attack first finds little.
ENOUGH = 60


@pytest.fixture(autouse=True)
def _attack_by_count(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An attack that finds everything until it was shown enough, and that is tried often."""
    torch.set_num_threads(1)
    monkeypatch.setattr(hierarchy.runtime.curves, "draw_curves", lambda *_arguments: None)
    monkeypatch.setattr(robot_edge.run.release, "STEPS_BETWEEN", 3)
    monkeypatch.setattr(robot_edge.learning.held_back, "LEAST_FRAMES", 20)
    monkeypatch.setattr(robot_edge.run.release, "quick_leak", _finds_all_of_few)
    yield
    while OPEN:
        OPEN.pop().end()


def _finds_all_of_few(own: Pairs, attacked: Pairs) -> Leak:
    return Leak(psnr=20.0, ssim=1.0 if len(own) + len(attacked) < ENOUGH else 0.0, found=0.5)


@pytest.fixture(name="whole")
def _whole(tmp_path: Path) -> Run:
    run = Run(tmp_path / "whole", SETTINGS)
    run.all()
    return run


def test_all_goes_up_once_and_the_first_frames_as_a_later_front_encodes_them(whole: Run) -> None:
    batches = [one for one in whole.link.batches if not one.evaluation]
    first = [one for one in batches if not one.again]
    numbers = [number for one in first for number in one.samples.tolist()]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == whole.summary()["images"]
    released_at = first[0].edge_version
    assert released_at >= ENOUGH // 6, "six of eight frames in a step are fresh"
    held = [one for one in first if one.edge_version == released_at]
    assert sum(len(one.names) for one in held) >= ENOUGH
    assert min(one.edge_version for one in batches) == released_at, "nothing was rehearsed up before, either"
    assert (whole.summary()["frames_held_back"], whole.summary()["frames_never_sent"]) == (0, 0)


@pytest.mark.parametrize("checkpoint_every", [4, 1000])
@pytest.mark.parametrize("steps", [8, 14])
def test_a_killed_robot_holds_the_same_frames_and_ends_with_the_same_bits(
    whole: Run, tmp_path: Path, steps: int, checkpoint_every: int
) -> None:
    settings = {**SETTINGS, "checkpoint_every": checkpoint_every}
    first = Run(tmp_path / "run", settings)
    first.stop_after(steps)
    wait_for_trainer(first.robot)
    train(first.robot)
    assert bool(first.outbox.messages_made) == (steps == 14), "before or behind the release"
    first.end()
    second = Run(tmp_path / "run", settings, boot=LATER)
    second.all()
    assert sent(first, second) == sent(whole)
    assert_same(second, whole)


def test_where_the_line_never_holds_nothing_crosses_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(robot_edge.run.release, "quick_leak", lambda *_: Leak(psnr=60.0, ssim=1.0, found=1.0))
    run = Run(tmp_path, SETTINGS)
    summary = run.all()
    assert run.link.batches == []
    assert summary["frames_held_back"] == summary["images"] > 0
    assert summary["exit_accuracy"] is not None, "the robot itself is tested"
    assert "frames held back, and an attack gets 100 % of the way" in summary["cloud_accuracy_missing"]
    assert summary["cloud_accuracy_missing"] == summary["nothing_sent_why"]
    assert "(--bottleneck, --pool, --bits)" in " ".join(capsys.readouterr().out.split())
    assert_nobody_is_asked(run, monkeypatch)


def assert_nobody_is_asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation would ask the cloud about each frame, and so send what the front makes of it."""
    monkeypatch.setattr(robot_edge.evaluation.evaluate, "connect", lambda *_, **__: pytest.fail("it connects"))
    folder = str(run.robot.folder.path)
    asking = EvaluateConfig(source="sim:", checkpoint=folder, broker="mqtt://127.0.0.1:1", threads=1)
    with pytest.raises(ConfigError, match=r"has sent nothing so far.*leave out --broker"):
        name_frames(asking, run.robot.config, run.robot.source, run.robot.stop)


def test_what_one_attack_held_back_goes_up_where_the_source_ends_and_tells_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robot_edge.run.release, "STEPS_BETWEEN", 1000)
    found = [1.0, 0.0]
    monkeypatch.setattr(robot_edge.run.release, "quick_leak", lambda *_: Leak(psnr=9.0, ssim=found.pop(0), found=0.5))
    run = Run(tmp_path, SETTINGS)
    summary = run.all()
    numbers = [number for one in run.link.batches if not (one.evaluation or one.again) for number in one.samples]
    assert len(numbers) == len(set(numbers)) == summary["images"] > 0
    assert (summary["frames_held_back"], summary["nothing_sent_why"]) == (0, None)


def test_the_attack_of_a_robot_finds_a_front_that_copies_and_none_that_averages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(hierarchy.runtime.curves, "draw_curves", lambda *_arguments: None)
    monkeypatch.setattr(robot_edge.learning.held_back, "LEAST_FRAMES", 300)
    monkeypatch.setattr(robot_edge.run.release, "STEPS_BETWEEN", 1)
    told = []
    for pool in (0, 1):
        run = Run(
            tmp_path / str(pool),
            {"privacy": "high", "bits": 4, "pool": pool, "bottleneck": 32, "rehearse": 0, "batch": 64},
        )
        for _ in range(6):
            batch = run.robot.state.batcher.next()
            assert batch is not None
            run.robot.learning.learn(batch, rehearsed=0)
        assert run.robot.state.may_send == bool(run.outbox.messages_made) == (pool == 1)
        assert run.robot.state.held is not None
        told.append(run.robot.state.held.told or 0.0)
    assert told[1] < 0.1 < 0.2 < told[0]
