from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import cloud_trainer.session.session_start
from broker.errors import ConfigError
from broker.wire.messages import RobotState, SplitSpec
from cloud_trainer.config import TrainerConfig, TrainingSettings
from cloud_trainer.session.session_start import new_start, open_session
from cloud_trainer.session.session_state import LAYOUT
from cloud_trainer.session.start import SessionStart
from hierarchy.device import Compute
from hierarchy.runtime.checkpoint import save_checkpoint
from tests.cloud_trainer.world import CPU, SPLIT, STATE, TinySegment, use_tiny_networks

SETTINGS = TrainerConfig(batch=4).training(1)
BFLOAT = Compute(device=CPU, dtype=torch.bfloat16, channels_last=True)


def started(
    state: RobotState, *, settings: TrainingSettings = SETTINGS, known: tuple[bytes, ...] = (), room: int = 10**9
) -> SessionStart:
    return new_start("r1", state, settings, CPU, known=known, room=room)


def weights(start: SessionStart, settings: TrainingSettings = SETTINGS) -> dict[str, torch.Tensor]:
    session = open_session("r1", start, settings, CPU, lambda _events: [])
    return session.checkpoint().learner.weights


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_what_starts_a_session_is_packed_and_unpacked() -> None:
    start = SessionStart(state=STATE, dtype="bfloat16", channels_last=True)
    assert SessionStart.unpack(start.pack()) == start
    assert start.compute(CPU) == BFLOAT


def test_the_same_start_and_seed_give_the_same_network(tiny: None) -> None:
    start = SessionStart(state=STATE)
    assert equal(weights(start), weights(start))
    assert not equal(weights(start), weights(start, replace(SETTINGS, seed=1)))


def test_the_world_s_random_numbers_are_left_alone(tiny: None) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    weights(SessionStart(state=STATE))
    assert torch.equal(torch.rand(3), expected)


def test_the_fastest_way_is_measured_once_for_a_network(monkeypatch: pytest.MonkeyPatch, tiny: None) -> None:
    times: list[Compute] = []

    def measure(*_arguments: object) -> Compute:
        times.append(BFLOAT)
        return BFLOAT

    monkeypatch.setattr(cloud_trainer.session.session_start, "fastest_compute", measure)
    first = started(STATE)
    assert first == SessionStart(state=STATE, dtype="bfloat16", channels_last=True)
    back = replace(STATE, boot="c" * 16)
    assert started(back, known=(first.pack(),)) == replace(first, state=back)
    assert len(times) == 1
    started(replace(back, split=replace(SPLIT, bits=3)), known=(first.pack(),))
    assert len(times) == 1, "bits make no difference to a step"
    started(replace(back, split=replace(SPLIT, backbone="shufflenet_v2_x1_0")), known=(first.pack(),))
    assert len(times) == 2
    assert started(STATE, room=-1) == SessionStart(state=STATE), "there is no room for copies to measure with"
    assert len(times) == 2


def test_a_former_run_is_gone_on_from(tmp_path: Path, tiny: None) -> None:
    session = open_session("r1", SessionStart(state=STATE), replace(SETTINGS, seed=9), CPU, lambda _events: [])
    saved = session.checkpoint()
    save_checkpoint(tmp_path / "checkpoint" / "r1", LAYOUT, saved)
    later = replace(SETTINGS, weights=str(tmp_path))
    assert equal(weights(started(STATE, settings=later), later), saved.learner.weights)


def test_weights_of_another_front_are_warned_of(tmp_path: Path, tiny: None, caplog: pytest.LogCaptureFixture) -> None:
    session = open_session("r1", SessionStart(state=STATE), SETTINGS, CPU, lambda _events: [])
    save_checkpoint(tmp_path / "checkpoint" / "r1", LAYOUT, session.checkpoint())
    later = replace(SETTINGS, weights=str(tmp_path))
    started(replace(STATE, weights="checkpoint"), settings=later)
    started(replace(STATE, run="e" * 16, former=STATE.run), settings=later)
    assert not caplog.messages
    started(replace(STATE, run="e" * 16), settings=later)
    assert "behind another front" in caplog.messages[0]


@pytest.mark.parametrize(
    ("robot", "change", "reason"),
    [("r2", {}, "r2 holds no checkpoint"), ("r1", {"bottleneck": 0, "shape": (7, 2, 2)}, "not of this split")],
)
def test_a_former_run_without_this_robot_or_of_another_split_is_refused_before_it_is_entered(
    tmp_path: Path, tiny: None, robot: str, change: dict[str, Any], reason: str
) -> None:
    session = open_session("r1", SessionStart(state=STATE), SETTINGS, CPU, lambda _events: [])
    save_checkpoint(tmp_path / "checkpoint" / "r1", LAYOUT, session.checkpoint())
    state, later = replace(STATE, split=replace(SPLIT, **change)), replace(SETTINGS, weights=str(tmp_path))
    with pytest.raises(ConfigError, match=reason):
        new_start(robot, state, later, CPU, known=(), room=10**9)


def test_networks_that_go_on_are_built_once_for_a_kind_and_share_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    built = 0

    class Counted(TinySegment):
        def __init__(self, split: SplitSpec, *, weights: object) -> None:
            nonlocal built
            built += 1
            super().__init__(split, weights=weights)

    use_tiny_networks(monkeypatch)
    monkeypatch.setattr(cloud_trainer.session.session_start, "CloudSegment", Counted)
    saved = open_session("r1", SessionStart(state=STATE), SETTINGS, CPU, lambda _events: []).checkpoint()
    first, second = (
        open_session(name, SessionStart(state=STATE), SETTINGS, CPU, lambda _events: [], restored=True)
        for name in ("r1", "r2")
    )
    assert built == 2, "the one that began, and one that is copied"
    first.restore(saved)
    second.restore(saved)
    with torch.no_grad():
        for parameter in first.trainer.segment.parameters():
            parameter.add_(1.0)
    weights = second.checkpoint().learner.weights
    assert all(torch.equal(weights[name], saved.learner.weights[name]) for name in saved.learner.weights)


def test_a_real_network_is_built_and_measured() -> None:
    start = started(STATE)
    assert start.state == STATE
    assert equal(weights(start), weights(start))
