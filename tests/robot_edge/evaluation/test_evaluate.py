"""What an evaluation says where there is nothing to tell."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import robot_edge.evaluation.evaluate
from broker.errors import ConfigError
from hierarchy.edge import front_digest
from robot_edge.evaluation.evaluate import _Asker, _cloud, _nothing_tested, _of_fleet, _so_far
from robot_edge.learning.segment import build_edge
from robot_edge.run.config import EvaluateConfig, RobotConfig

CONFIG = EvaluateConfig(source="folder:pictures", checkpoint="runs/r1", broker="mqtt://127.0.0.1:1883")


def one(*, taught: bool, cloud: str | None = None) -> Any:
    return SimpleNamespace(taught=taught, label="mug", exit_name="mug", cloud_name=cloud)


@pytest.mark.parametrize(
    ("tested", "position", "skipped", "says"),
    [
        ([one(taught=True), one(taught=False)], 2, 0, ""),
        ([], 40, 0, "none of the 40 frames of folder:pictures has a label"),
        ([], 0, 40, "none of the 40 frames of folder:pictures could be read"),
        ([one(taught=False)], 1, 0, "shows a class that the run learned (cat, dog)"),
    ],
)
def test_where_nothing_is_tested_it_is_said_why(tested: list[Any], position: int, skipped: int, says: str) -> None:
    source: Any = SimpleNamespace(position=position, skipped=skipped)
    said = _nothing_tested(CONFIG, tested, ("cat", "dog"), source)
    assert said.endswith(says)
    assert bool(said) == bool(says)
    assert not said or said.startswith("NOTHING WAS TESTED: ")


def test_the_line_says_how_it_goes() -> None:
    assert _so_far([one(taught=True, cloud="mug"), one(taught=True)], asked=True) == [
        "exit 100.0%",
        "the cloud answered 1 of the last 2",
    ]
    assert _so_far([one(taught=False)], asked=False) == ["no frame of a taught class yet, 1 labelled"]


@pytest.mark.parametrize(
    ("uplink", "says"),
    [
        (
            {"trainer_heard": 2.1},
            "the trainer is online (its last sign of life came 2 s ago), but none of 30 asks in 30 s",
        ),
        ({"trainer_heard": 2.1}, "It has said nothing of the run in runs/r1, so it may have no network of it"),
        ({"trainer_heard": 2.1, "cloud_metrics": object()}, "It has a network for this run. Its own log says"),
        ({"trainer_heard": 2.1, "quarantine": "too much garbage"}, "takes nothing from this robot (too much garbage)"),
        (
            {"waits_for": "a cloud trainer"},
            "none of 30 asks in 30 s was answered; what is missing by now: a cloud trainer",
        ),
    ],
)
def test_of_a_trainer_that_answers_nothing_it_says_what_is_known(uplink: dict[str, Any], says: str) -> None:
    nothing = {"waits_for": "", "quarantine": "", "cloud_metrics": None, "trainer_heard": None}
    known = SimpleNamespace(**{**nothing, **uplink})
    known.presence = known
    parts: tuple[Any, ...] = (known, None, None, "b" * 16, CONFIG, None)
    asker = _Asker(*parts)
    asker._number = 30
    assert says in asker._what_is_known()
    assert "access rules" not in asker._what_is_known(), "that would be a guess"


def test_what_a_run_has_sealed_is_asked_with_its_key_where_no_flag_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys_for(file: str, *_: object, **__: object) -> None:
        if file:
            raise ConfigError(f"sealed with {file}")

    monkeypatch.setattr(robot_edge.evaluation.evaluate, "payload_keys_for", keys_for)
    run = RobotConfig.from_flags(source="sim:", payload_key="r1/payload.key")
    nobody: Any = None
    with pytest.raises(ConfigError, match="sealed with r1/payload"), _cloud(CONFIG, run, nobody, nobody):
        pytest.fail("it connects")


@pytest.mark.parametrize("share", ["yes", "no"])
def test_whoever_shares_nothing_shares_nothing_while_it_is_evaluated(share: str) -> None:
    """Else the trainer would put the robot into its fleet's half."""
    run = RobotConfig.from_flags(source="sim:", fleet="lab", share=share, cut="layer1", image_size=16, freeze="all")
    segment, split, _ = build_edge(run.resolved().network)
    loaded: Any = SimpleNamespace(segment=segment, split=split)
    said = _of_fleet(run, loaded)
    assert (said["fleet"], said["share"], said["front"]) == ("lab", share, front_digest(segment.state_dict(), split))
    assert _of_fleet(RobotConfig.from_flags(source="sim:"), loaded) == {}
