from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from broker.errors import CutError
from hierarchy import edge
from hierarchy.device import Compute
from hierarchy.hiding import Hiding
from robot_edge.planning import edge_timing
from robot_edge.planning.config import PlanConfig
from robot_edge.planning.edge_timing import EdgeTiming, SplitCandidate, candidates
from robot_edge.run.config import RobotConfig

CPU = Compute(device=torch.device("cpu"))
CONFIG = RobotConfig.from_flags(source="sim:", image_size=16, batch=8)


def test_the_last_cut_of_each_size_is_looked_at_with_a_bottleneck_and_without() -> None:
    chosen = candidates(CONFIG, ())
    assert SplitCandidate("layer1", 64, 0) not in chosen, "an exit behind 8 x 8 of 16 pixels sees edges"
    assert [candidate for candidate in chosen if candidate.cut == "layer2"] == [
        SplitCandidate("layer2", 128, 0),
        SplitCandidate("layer2", 128, 16),
    ]
    assert {candidate.cut for candidate in chosen} == {"layer2", "layer3"}, (
        "behind layer4, 1 x 1, there is a classifier alone"
    )


def test_where_little_may_cross_that_is_looked_at_behind_each_cut() -> None:
    private = RobotConfig.from_flags(source="sim:", image_size=16, batch=8, privacy="medium")
    assert candidates(private, ("layer1", "layer2")) == [
        SplitCandidate("layer1", 64, 64, 1, 2),
        SplitCandidate("layer2", 128, 64, 1, 2),
    ]
    bits = {}
    for privacy in ("off", "medium", "high"):
        still = RobotConfig.from_flags(source="sim:", image_size=224, freeze="all", privacy=privacy)
        bits[privacy] = candidates(still, ("layer3",))[0].bits
    assert bits == {"off": 4, "medium": 2, "high": 1}
    narrow = EdgeTiming(PlanConfig(run=still).run_with("layer3", 1, 0, 2))
    assert 1 in edge_timing._compressed(narrow._segment, CPU, np.zeros((2, 224, 224, 3), np.uint8), 1)


def test_where_an_attribute_is_hidden_one_bit_is_looked_at_and_its_frames_cost_their_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hiding = RobotConfig.from_flags(source="sim:", image_size=16, batch=8, hide="people")
    chosen = candidates(hiding, ("layer2",))
    assert chosen == [SplitCandidate("layer2", 128, 0, bits=1), SplitCandidate("layer2", 128, 16, bits=1)]
    monkeypatch.setattr(edge_timing, "STEP_SECONDS", 0.0)
    monkeypatch.setattr(edge_timing, "FORWARD_SECONDS", 0.0)
    images = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3)).astype(np.uint8)
    hidden = Hiding(images, np.arange(32) % 2, 1.0)
    seen: list[int] = []
    with monkeypatch.context() as patch:
        run = edge.run_segment

        def note(segment: edge.EdgeSegment, its: NDArray[np.uint8], **how: Any) -> edge.SegmentPass:
            seen.append(len(its))
            return run(segment, its, **how)

        patch.setattr(edge, "run_segment", note)
        config = PlanConfig(run=hiding).run_with("layer2", 1, 16)
        cost = EdgeTiming(config, CPU, hidden).measure(images[:8], ["a", "b"] * 4, lambda: lambda: True)
    openly = EdgeTiming(config, CPU).measure(images[:8], ["a", "b"] * 4, lambda: lambda: True)
    assert set(seen) == {8, 24}, "a step encodes sixteen more, a test does not"
    assert cost.memory > openly.memory
    assert 1 in cost.compressed


def test_a_transformer_whose_layers_are_all_of_one_size_is_cut_at_several() -> None:
    transformer = RobotConfig.from_flags(source="sim:", backbone="vit_b_16", image_size=32)
    cuts = {candidate.cut for candidate in candidates(transformer, ())}
    assert len(cuts) > 3
    assert any("layer_3" in cut or "layer_2" in cut for cut in cuts)


def test_cuts_that_are_asked_for_are_looked_at_wherever_they_are() -> None:
    assert {candidate.cut for candidate in candidates(CONFIG, ("layer1",))} == {"layer1"}
    with pytest.raises(CutError, match="layer9"):
        candidates(CONFIG, ("layer1", "layer9"))


def test_what_a_way_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_timing, "STEP_SECONDS", 0.0)
    monkeypatch.setattr(edge_timing, "FORWARD_SECONDS", 0.0)
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
    asked: list[int] = []

    def asked_enough() -> bool:
        asked.append(0)
        return len(asked) == 6

    whole = EdgeTiming(CONFIG)
    least = whole.least_memory(images)
    cost = whole.measure(images, ["a", "b"] * 4, lambda: asked_enough)
    assert least <= cost.memory
    assert len(asked) == 6, "steps go on until the trainer is done"
    assert cost.forward > 0
    assert cost.step > 0
    assert set(cost.compressed) == set(range(2, 9))
    assert all(0.1 < share <= 1.01 for share in cost.compressed.values())
    narrow = EdgeTiming(
        PlanConfig.from_flags(source="sim:", image_size=16, batch=8).run_with("layer3", 4, 16), cost.compute
    )
    assert narrow.split.shape == (16, 2, 2)
    later = narrow.measure(images, ["a", "b"] * 4, lambda: lambda: True)
    assert later.memory > cost.memory + 20_000_000, "layer3 has two million weights of 12 bytes; activations are small"


def test_memory_counts_weights_gradients_momentum_and_what_the_backward_pass_needs() -> None:
    timing = EdgeTiming(CONFIG)
    weights = sum(one.numel() for one in timing._segment.parameters())
    few, many = (edge_timing._memory(timing._segment, CPU, np.zeros((count, 16, 16, 3), np.uint8)) for count in (4, 8))
    assert few > 12 * weights
    assert many - 12 * weights == pytest.approx(2 * (few - 12 * weights), rel=0.1)
