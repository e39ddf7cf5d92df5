"""A front that tells too much sends nothing; what it learned from goes up later, encoded anew."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hierarchy.runtime.curves
import robot_edge.evaluation.evaluate
import robot_edge.learning.held_back
import robot_edge.run.release
from broker.errors import ConfigError
from broker.link.mailbox import Mailbox
from hierarchy.attack.leak import Leak
from hierarchy.attack.pairs import Pairs
from robot_edge.evaluation.evaluate import name_frames
from robot_edge.learning.batcher import Batch
from robot_edge.learning.held_back import HeldBack
from robot_edge.page.page_model import PageModel, PageState
from robot_edge.run.config import EvaluateConfig
from robot_edge.run.page_publisher import PagePublisher
from robot_edge.run.release import how_much_is_told
from robot_edge.run.replay import train, wait_for_trainer
from robot_edge.uplink.outbox_tables import PAGE_BYTES
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
    monkeypatch.setattr(robot_edge.run.release, "LEAST_STEPS", 3)
    monkeypatch.setattr(robot_edge.run.release, "MOST_STEPS", 3)
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
    assert page_of(run).held_back == f"{summary['images']} frames held back until the front tells little: " + (
        "leak 1.00, line 0.30"
    )
    assert_nobody_is_asked(run, monkeypatch)


def page_of(run: Run) -> PageState:
    """Return what the robot's page shows of a run."""
    parts, page_model = run.robot, PageModel("r1", Mailbox(8))
    publisher = PagePublisher(
        page_model=page_model,
        metrics=parts.state.metrics,
        uplink=parts.uplink,
        outbox=parts.outbox,
        memory=parts.state.memory,
        source=parts.source,
        teaching=None,
        viewfinder=parts.viewfinder,
    )
    publisher.post(0.0, 0.0)
    return page_model.state


def assert_nobody_is_asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation would ask the cloud about each frame, and so send what the front makes of it."""
    monkeypatch.setattr(robot_edge.evaluation.evaluate, "connect", lambda *_, **__: pytest.fail("it connects"))
    folder = str(run.robot.folder.path)
    asking = EvaluateConfig(source="sim:", checkpoint=folder, broker="mqtt://127.0.0.1:1", threads=1)
    with pytest.raises(ConfigError, match=r"holds back.*leave out --broker"):
        name_frames(asking, run.robot.config, run.robot.source, run.robot.stop)


def test_what_one_attack_held_back_goes_up_where_the_source_ends_and_tells_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robot_edge.run.release, "LEAST_STEPS", 1000)
    monkeypatch.setattr(robot_edge.run.release, "MOST_STEPS", 1000)
    found = [1.0, 0.0]
    monkeypatch.setattr(robot_edge.run.release, "quick_leak", lambda *_: Leak(psnr=9.0, ssim=found.pop(0), found=0.5))
    run = Run(tmp_path, SETTINGS)
    summary = run.all()
    numbers = [number for one in run.link.batches if not (one.evaluation or one.again) for number in one.samples]
    assert len(numbers) == len(set(numbers)) == summary["images"] > 0
    assert (summary["frames_held_back"], summary["nothing_sent_why"]) == (0, None)


class Killed(BaseException):
    """Nothing is written behind it."""


def test_a_robot_that_is_killed_while_it_sends_what_it_held_sends_the_rest_later(
    whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Run(tmp_path / "run", SETTINGS)
    taken: list[int] = []

    def take(held: HeldBack, size: int) -> Batch | None:
        if len(taken) == 3:
            first.outbox.sync(time.monotonic())
            raise Killed
        taken.append(size)
        return untroubled(held, size)

    untroubled = HeldBack.take
    wait_for_trainer(first.robot)
    monkeypatch.setattr(HeldBack, "take", take)
    with pytest.raises(Killed):
        train(first.robot)
    monkeypatch.setattr(HeldBack, "take", untroubled)
    assert first.outbox.messages_made == 3
    first.end()
    second = Run(tmp_path / "run", SETTINGS, boot=LATER)
    second.all()
    assert sent(first, second) == sent(whole)


@pytest.mark.parametrize("when_full", ["block", "drop-oldest"])
def test_more_is_held_than_the_outbox_takes_and_nothing_is_given_up(tmp_path: Path, when_full: str) -> None:
    run = Run(tmp_path, {**SETTINGS, "when_full": when_full})
    run.outbox.limit = 3 * PAGE_BYTES
    fullest, dropped, is_released = 0, 0, False
    put = run.outbox.put

    def note(*arguments: Any, **settings: Any) -> None:
        nonlocal fullest, dropped, is_released
        put(*arguments, **settings)
        is_released |= bool(settings.get("again"))  # rehearsed frames go up when nothing is held back any more
        if not is_released:
            fullest = max(fullest, run.outbox.bytes_held)
            dropped = sum(one.dropped for one in run.outbox.counts().values())

    run.outbox.put = note  # type: ignore[method-assign]
    summary = run.all()
    numbers = [number for one in run.link.batches if not (one.evaluation or one.again) for number in one.samples]
    assert numbers == sorted(set(numbers)), "each goes up once, in its order"
    assert (len(numbers) + summary["dropped"], summary["frames_held_back"]) == (summary["images"], 0)
    assert dropped == 0
    assert summary["dropped"] == 0 or when_full == "drop-oldest", "what is fresh makes room for itself"
    assert 2 * PAGE_BYTES < fullest <= 4 * PAGE_BYTES, "one message may come on top"


def test_a_front_that_tells_more_by_and_by_is_held_back_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found: list[float] = []
    steps: list[int] = []

    def attack(*_: Pairs) -> Leak:
        steps.append(run.trainer.steps)
        found.append(1.0 if len(found) in {2, 3} else 0.0)
        return Leak(psnr=9.0, ssim=found[-1], found=0.5)

    monkeypatch.setattr(robot_edge.run.release, "quick_leak", attack)
    run = Run(tmp_path, SETTINGS)
    summary = run.all()
    assert found[:5] == [0.0, 0.0, 1.0, 1.0, 0.0]
    held_at, released_at = steps[2], steps[4]
    batches = [one for one in run.link.batches if not one.evaluation]
    # What is learned in a step goes up as the front before it encodes it.
    assert not [one.edge_version for one in batches if held_at <= one.edge_version < released_at]
    numbers = [number for one in batches if not one.again for number in one.samples.tolist()]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == summary["images"]
    assert "tells more by now than --privacy low lets it" in caplog.text
    assert (summary["leak"], summary["leak_line"], summary["frames_held_back"]) == (0.0, 0.3, 0)


def test_a_front_is_attacked_again_and_again_and_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    held = HeldBack(16, "medium")
    held.attacked(0.1, 40)
    held.tried, due = 40, []
    for step in range(41, 4000):
        if robot_edge.run.release._is_due(held, step, at_an_end=False):
            due.append(step)
            held.tried = step
    assert due == [65, 90, 140, 240, 440, 840, 1640, 2440, 3240], "the time from the release on doubles, up to a bound"


@pytest.mark.parametrize(("telling", "least", "most"), [(1024, 0.1, 1.0), (0, 0.0, 0.01), (1280, 0.99, 1.0)])
def test_a_front_is_found_out_that_shows_no_more_of_the_newest_frames(
    telling: int, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (1280, 2, 2, 3))
    values = rng.uniform(size=(1280, 12, 1, 1)).astype(np.float32)
    values[:telling] = coarse.reshape(1280, 12, 1, 1)[:telling] / 255
    pictures = coarse.repeat(8, 1).repeat(8, 2).astype(np.uint8)
    assert least <= how_much_is_told(Pairs(values=values, pictures=pictures)) <= most


def test_the_attack_of_a_robot_finds_a_front_that_copies_and_none_that_averages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(hierarchy.runtime.curves, "draw_curves", lambda *_arguments: None)
    monkeypatch.setattr(robot_edge.learning.held_back, "LEAST_FRAMES", 300)
    monkeypatch.setattr(robot_edge.run.release, "LEAST_STEPS", 1)
    monkeypatch.setattr(robot_edge.run.release, "MOST_STEPS", 1)
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
