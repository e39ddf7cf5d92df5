from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import hierarchy.device
from broker.errors import ConfigError
from hierarchy.device import Compute, choose_device, fastest, set_threads, ways_to_compute

CPU = torch.device("cpu")
PLAIN = Compute(device=CPU)
LAYOUT = Compute(device=CPU, channels_last=True)
HALF = Compute(device=CPU, channels_last=True, dtype=torch.bfloat16)
# All ways come to the same gradient.
ONE: Mapping[Compute, float] = {}


def set_available(monkeypatch: pytest.MonkeyPatch, *, cuda: bool, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "kind"), [(False, False, "cpu"), (True, False, "cuda"), (False, True, "mps"), (True, True, "cuda")]
)
def test_auto_is_the_fastest_kind_there_is(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, kind: str) -> None:
    set_available(monkeypatch, cuda=cuda, mps=mps)
    assert choose_device("auto").type == kind


def test_a_missing_device_names_those_that_work(monkeypatch: pytest.MonkeyPatch) -> None:
    set_available(monkeypatch, cuda=False, mps=True)
    assert choose_device("cpu").type == "cpu"
    assert choose_device("mps").type == "mps"
    with pytest.raises(ConfigError, match=r"--device cuda: .* --device auto or --device cpu"):
        choose_device("cuda")


def test_no_threads_leaves_the_choice_to_pytorch() -> None:
    set_threads(2)
    set_threads(0)
    assert torch.get_num_threads() == 2


def test_images_get_the_layout_and_other_activations_stay_as_they_are() -> None:
    images = np.arange(2 * 3 * 4 * 4, dtype=np.float32).reshape(2, 3, 4, 4)
    placed = LAYOUT.tensor(images)
    assert placed.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(placed.numpy(), images)
    assert PLAIN.tensor(images).is_contiguous()
    assert LAYOUT.tensor(images.reshape(2, 3, 16)).shape == (2, 3, 16)


def test_placing_a_module_changes_its_layout_and_not_its_parameters() -> None:
    layer = nn.Conv2d(3, 4, 3)
    parameters = list(layer.parameters())
    LAYOUT.place(layer)
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(one is other for one, other in zip(layer.parameters(), parameters, strict=True))


@pytest.mark.parametrize(("compute", "dtype"), [(PLAIN, torch.float32), (HALF, torch.bfloat16)])
def test_a_forward_pass_runs_in_the_dtype(compute: Compute, dtype: torch.dtype) -> None:
    with compute.autocast():
        assert nn.Linear(4, 4)(torch.ones(2, 4)).dtype == dtype


def test_it_reads_well_in_a_log() -> None:
    assert [str(one) for one in (PLAIN, HALF)] == ["cpu, float32", "cpu, bfloat16, channels last"]
    assert str(Compute(device=CPU, small_maps=True)) == "cpu, float32, small maps as matrices"


@pytest.mark.parametrize("compute", [PLAIN, LAYOUT, HALF, Compute(device=CPU, small_maps=True)])
def test_its_settings_are_all_of_it(compute: Compute) -> None:
    assert Compute.from_settings(CPU, json.loads(json.dumps(compute.settings))) == compute


def fastest_of(
    monkeypatch: pytest.MonkeyPatch,
    seconds: dict[Compute, list[float]],
    *,
    limit: float = 1e9,
    norms: Mapping[Compute, float] = ONE,
) -> Compute:
    """Let each way take these seconds for a step of 32 samples, one after the other; without any it has no kernel.

    norms: of its gradient, where that is not 1.
    """
    return measured(monkeypatch, seconds, limit=limit, norms=norms)[0]


def measured(
    monkeypatch: pytest.MonkeyPatch,
    seconds: dict[Compute, list[float]],
    *,
    limit: float = 1e9,
    samples: int = 64,
    norms: Mapping[Compute, float] = ONE,
) -> tuple[Compute, float, list[int]]:
    """Return the fastest of those ways, how long that took to find out, and how many samples each step had."""
    now = 0.0
    counts: list[int] = []
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    monkeypatch.setattr(hierarchy.device, "MAX_SECONDS", limit)
    monkeypatch.setattr(hierarchy.device, "has_bfloat16", lambda: True)

    def training_step(compute: Compute, count: int) -> Callable[[], float]:
        left = list(seconds.get(compute, []))

        def step() -> float:
            nonlocal now
            if not left:
                raise RuntimeError("not implemented for this dtype")
            now += left.pop(0) * count / 32
            counts.append(count)
            return norms.get(compute, 1.0)

        return step

    return fastest(CPU, training_step, samples), now, counts


def test_the_fastest_way_is_chosen_by_its_best_step_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {PLAIN: [9.0, 4, 4, 4, 4, 4], LAYOUT: [0.1, 5, 5, 5, 5, 5], HALF: [99.0, 5, 2, 50, 5, 5]}
    assert fastest_of(monkeypatch, seconds) == HALF


@pytest.mark.parametrize("norm", [0.8, 1.2, math.nan, math.inf])
def test_a_way_that_computes_something_else_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, norm: float
) -> None:
    seconds = {PLAIN: [4.0] * 6, LAYOUT: [3.0] * 6, HALF: [1.0] * 6}
    assert fastest_of(monkeypatch, seconds, norms={HALF: norm}) == LAYOUT
    assert f"not computed as {HALF}" in caplog.text
    assert fastest_of(monkeypatch, seconds, norms={HALF: 1.05}) == HALF, "as rounded values do"


def test_a_hopeless_way_is_not_timed_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {PLAIN: [1.0] * 6, LAYOUT: [0.8] * 6, HALF: [3.0] * 4}  # a fifth step would raise
    assert fastest_of(monkeypatch, seconds) == LAYOUT


def test_a_way_that_was_held_up_once_gets_another_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {PLAIN: [3.0] * 6, LAYOUT: [3.0] * 6, HALF: [1.0, 9, 9, 1, 1, 1]}
    assert fastest_of(monkeypatch, seconds) == HALF


def test_a_near_tie_keeps_plain_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fastest_of(monkeypatch, {PLAIN: [1.0] * 6, LAYOUT: [0.97] * 6, HALF: [0.96] * 6}) == PLAIN


def test_a_machine_that_is_slow_is_not_measured_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {PLAIN: [20.0] * 9, LAYOUT: [10.0] * 9, HALF: [30.0] * 9}
    best, taken, counts = measured(monkeypatch, seconds, limit=5)
    assert best == LAYOUT
    assert taken <= 20 + 5 + 30 * 2 / 32, "a whole step, the limit, and one more step of the least samples"
    assert counts == [32] + [2] * (len(counts) - 1)


def test_where_there_is_no_time_for_all_ways_the_first_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {PLAIN: [79.0] * 3, LAYOUT: [64.0] * 2, HALF: [1.0] * 2}
    best, taken, _ = measured(monkeypatch, seconds, limit=12)
    assert best == LAYOUT, "by its first step, which took what was left of the time"
    assert taken == 79 + 79 / 16 + 79 / 16 + 64 / 16


def test_a_likely_way_whose_first_step_takes_most_of_the_time_gets_another(monkeypatch: pytest.MonkeyPatch) -> None:
    likely = replace(HALF, small_maps=True)
    assert fastest_of(monkeypatch, {PLAIN: [0.4] * 6, likely: [4.0, 0.2], LAYOUT: [0.3, 0.3]}, limit=5) == likely


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_is_tried_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    monkeypatch.setattr(hierarchy.device, "has_bfloat16", lambda: has)
    ways = ways_to_compute(CPU)
    assert ways[0] == PLAIN
    assert (torch.bfloat16 in {way.dtype for way in ways}) == has
    assert LAYOUT in ways


@pytest.mark.parametrize(("samples", "most"), [(64, 32), (20, 20)])
def test_a_step_has_no_more_samples_than_it_will_have(monkeypatch: pytest.MonkeyPatch, samples: int, most: int) -> None:
    _, _, counts = measured(monkeypatch, {PLAIN: [1.0] * 6}, samples=samples)
    assert set(counts) == {most}


def test_a_way_that_the_device_cannot_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fastest_of(monkeypatch, {PLAIN: [2.0] * 6, LAYOUT: [1.0] * 6, HALF: []}) == LAYOUT
