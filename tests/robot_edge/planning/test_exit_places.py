from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hierarchy.device import Compute
from robot_edge.planning import exit_places
from robot_edge.planning.config import PlanConfig
from robot_edge.planning.edge_timing import EdgeTiming, SplitCandidate, candidates
from robot_edge.planning.exit_places import ExitCost, better_exit, exit_cost, few_shot_accuracy, labelled_frames
from robot_edge.planning.table import print_exits

STILL: dict[str, Any] = {"image_size": 32, "freeze": "all", "exit": "end", "cut": "layer2", "weights": "none"}
SECONDS, MEMORY = 0.01, 20_000_000


def exit_(accuracy: float | None, cut: str = "", memory: int = MEMORY) -> ExitCost:
    return ExitCost(cut=cut, seconds=SECONDS, memory=memory, accuracy=accuracy)


@pytest.mark.parametrize(
    ("at_cut", "at_end", "most_memory", "better"),
    [
        (0.80, 0.90, 0, "end"),
        (0.90, 0.905, 0, "cut"),
        (None, None, 0, "end"),
        (0.20, 0.90, MEMORY - 1, "cut"),
        (0.20, 0.90, MEMORY, "end"),
    ],
)
def test_the_exit_behind_all_is_taken_for_what_it_knows_more(
    at_cut: float | None, at_end: float | None, most_memory: float, better: str
) -> None:
    assert better_exit(exit_(at_cut, "layer2", MEMORY // 2), exit_(at_end), most_memory) == better


def test_a_head_is_fitted_to_one_half_and_tested_on_the_other() -> None:
    rng = np.random.default_rng(0)
    names = ["a", "b"] * 20
    apart = np.array([[20.0, 0.0], [0.0, 20.0]] * 20) + rng.normal(0, 1, (40, 2))
    assert few_shot_accuracy(apart.astype(np.float16), names) == 1.0
    noise = rng.normal(0, 1, (40, 64)).astype(np.float16)
    assert few_shot_accuracy(noise, names) < 0.9, "what it was fitted to it would have by heart"


def test_frames_of_a_labelled_source_are_taken_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in {"many": 40, "few": 12, "one": 1}.items():
        (tmp_path / name).mkdir()
        for number in range(count):
            Image.new("RGB", (40, 30), (number, 0, 0)).save(tmp_path / name / f"{number}.png")
    config = PlanConfig.from_flags(source=f"folder:{tmp_path}", **STILL).run
    known = labelled_frames(config)
    assert known
    assert {name: known.names.count(name) for name in set(known.names)} == {"many": exit_places.OF_EACH, "few": 12}
    assert known.images.shape == (32, 32, 32, 3)
    monkeypatch.setattr(exit_places, "OF_EACH", 3)
    assert labelled_frames(config) is None, "three and three are too few"


def test_an_exit_behind_all_costs_what_all_of_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exit_places, "FORWARD_SECONDS", 0.0)
    config, compute = PlanConfig.from_flags(source="sim:", **STILL), Compute(device=torch.device("cpu"))
    image = np.zeros((32, 32, 3), np.uint8)
    end, cut = (exit_cost(config.run_with("layer2", 4, 0, exit_at=at), compute, image, None) for at in ("end", "cut"))
    assert (end.cut, cut.cut) == ("", "layer2")
    assert end.memory > 44_000_000 > 6_000_000 > cut.memory, "11 million weights of 4 bytes"
    assert min(end.seconds, cut.seconds) > 0


def test_a_network_that_stands_still_is_cut_at_stages_with_what_crosses_by_default() -> None:
    config = PlanConfig.from_flags(source="sim:", **{**STILL, "image_size": 128})
    chosen = candidates(config.run, ())
    assert [one.cut for one in chosen] == ["layer1", "layer2", "layer3", "layer4.0"]
    assert all(one.bits and one.pool for one in chosen)
    assert candidates(config.run, ("layer2",)) == [SplitCandidate("layer2", 128, 0, chosen[1].pool, chosen[1].bits)]
    assert config.bounds["least_codes"] == 0
    one = chosen[1]
    assert EdgeTiming(config.run_with(one.cut, one.bits, one.bottleneck, one.pool)).split.shape == (
        128,
        one.pool,
        one.pool,
    )


def test_the_table_says_what_each_exit_knows(capsys: pytest.CaptureFixture[str]) -> None:
    print_exits([exit_(0.905), exit_(None, "layer2")], best="", tested=None)
    printed = capsys.readouterr().out
    assert "90.5 %" in printed
    assert "end, behind the whole network" in printed
    assert "too few labelled frames" in printed
