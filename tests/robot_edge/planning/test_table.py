from __future__ import annotations

import re
from dataclasses import replace

import pytest

from robot_edge.planning.config import PlanConfig
from robot_edge.planning.probing import LinkRate
from robot_edge.planning.runtime_model import Cost, choose, options
from robot_edge.planning.table import SHOWN, print_table


def test_numbers_are_whole_beside_a_long_name_and_slow_ones_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    cut = "features.denseblock2.denselayer12.conv2"
    cost = Cost(
        cut=cut,
        bottleneck=128,
        forward=2.0,
        step=20.0,
        cloud=8.0,
        sent={8: 123456.0},
        codes={8: 131072},
        memory=1_200_000_000,
    )
    found = options([cost], 1e7)
    print_table(PlanConfig.from_flags(source="sim:"), LinkRate(goodput=1e7, round_trip=0.01), found, found[0])
    printed = capsys.readouterr().out
    assert "…" not in printed
    for number in ("123,456", " 1200.0 ", " 0.05 "):
        assert number in printed


def test_what_leaks_stands_beside_bytes_and_what_leaks_too_much_is_marked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    costs = [
        Cost(cut=cut, bottleneck=0, forward=0.1, step=1, cloud=1, sent={2: 10}, codes={2: 1000}, memory=1)
        for cut in ("a", "b", "c")
    ]
    leaks = ((0.57, 0.99), (0.31, 0.12), (None, None))
    found = [
        replace(one, leak=leak, found=share) for one, (leak, share) in zip(options(costs, 1e7), leaks, strict=True)
    ]
    config = PlanConfig.from_flags(source="sim:", most_leak=0.35)
    print_table(config, LinkRate(goodput=1e7, round_trip=0.01), found, found[1], blind=0.14)
    printed = capsys.readouterr().out
    for row in (r"│ a .* 0.57 ! │", r"│ b .* 0.31 │", r"│ c .* \? │"):
        assert re.search(row, printed)
    assert re.search(r"0.14 without\s+any\s+activation", printed)
    assert "recognises 12 % of frames" in printed
    assert "…" not in printed


def test_the_plan_is_in_the_table_however_many_are_faster(capsys: pytest.CaptureFixture[str]) -> None:
    # All within 3 %, of which the slowest sends least.
    costs = [
        Cost(
            cut=f"layer{number}",
            bottleneck=0,
            forward=0.001,
            step=0.004 * (1 + number / 1000),
            cloud=0.002,
            sent={2: 1000.0 - number, 4: 2000.0},
            codes={2: 1200, 4: 2400},
            memory=1000,
        )
        for number in range(SHOWN + 5)
    ]
    config = PlanConfig.from_flags(source="sim:")
    found = options(costs, 1e7)
    best = choose(found, **config.bounds)
    assert best.cut == f"layer{SHOWN + 4}"
    print_table(config, LinkRate(goodput=1e7, round_trip=0.01), found, best)
    printed = capsys.readouterr().out
    assert f"{best.cut} " in printed
    assert "link 80.00 Mbit/s, round trip 10 ms" in printed
