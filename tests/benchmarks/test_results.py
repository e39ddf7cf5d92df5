from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import make_results
import pytest
import recording
from make_results import Run, claim_row, newest_tables
from recording import Table, record

RUN = Run(
    script="speed.py",
    command="python benchmarks/speed.py",
    date="2026-11-27",
    commit="not recorded",
    machine="B, 2 cores",
    conditions="",
    tables=[{"title": "Speed", "columns": ["", "images/s"], "rows": [["node", 90], ["loop", 100]]}],
)
CLAIM = {
    "claim": "It is fast",
    "script": "speed.py",
    "table": "Speed",
    "column": "images/s",
    "where": {"": "node"},
    "target": ">= 80",
    "unit": "images/s",
}


def with_rate(rate: float, **changes: Any) -> Run:
    table = {"title": "Speed", "columns": ["", "images/s"], "rows": [["node", rate], ["loop", 100]]}
    return replace(RUN, tables=[table], **changes)


def test_the_pages_of_results_are_those_that_the_files_make(capsys: pytest.CaptureFixture[str]) -> None:
    assert make_results.main(["--check"]) == 0, capsys.readouterr().err


def test_a_page_that_was_changed_by_hand_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(make_results, "DOCS", tmp_path / "docs")
    assert make_results.main(["--check"]) == 1
    make_results.main([])
    assert make_results.main(["--check"]) == 0
    (tmp_path / "docs" / "results.md").write_text("We are fast.")
    capsys.readouterr()
    assert make_results.main(["--check"]) == 1
    assert "docs/results.md is stale" in capsys.readouterr().err


def test_what_is_recorded_is_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recording, "RESULTS", tmp_path)
    monkeypatch.setattr(make_results, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["benchmarks/speed.py", "--data", "a b"])
    monkeypatch.setenv("BENCH_MACHINE", "C")
    table = Table("Speed", "", "images/s")
    table.row("node", 1234.5)
    table.row("loop", None)
    record(table)
    assert "| node | 1,234.5 |\n| loop |  |" in capsys.readouterr().out
    [run] = make_results.load_runs()
    assert (run.machine, run.command) == ("C", "python benchmarks/speed.py --data 'a b'")
    assert run.tables == [{"title": "Speed", "columns": ["", "images/s"], "rows": [["node", 1234.5], ["loop", None]]}]


def test_a_row_has_a_cell_for_each_column() -> None:
    with pytest.raises(ValueError, match="Speed: 1 cells for 2 columns"):
        Table("Speed", "", "images/s").row("node")


@pytest.mark.parametrize(
    ("target", "where", "figure", "verdict"),
    [
        (">= 80", {"": "node"}, "90", "met"),
        ("< 90", {"": "node"}, "90", "**missed**"),
        (">= 95", {}, "90 to 100", "partly met"),
    ],
)
def test_a_claim_is_held_against_its_target(target: str, where: dict[str, str], figure: str, verdict: str) -> None:
    row = claim_row([RUN], {**CLAIM, "target": target, "where": where}, "results/speed.md")
    expected = f"{target} images/s | {figure} images/s | speed.py, 2026-11-27 | B | {verdict} |"
    assert row == f"| [It is fast](results/speed.md) | {expected}"


def test_a_claim_without_a_figure_is_an_error() -> None:
    with pytest.raises(ValueError, match="no run has the figure of 'It is fast'"):
        claim_row([RUN], {**CLAIM, "column": "images/h"}, "results/speed.md")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Run], None]:
    monkeypatch.setattr(make_results, "RESULTS", tmp_path)

    def keep(name: str, run: Run) -> None:
        (tmp_path / f"{name}.json").write_text(json.dumps(vars(run)))

    return keep


def test_the_newest_run_on_each_machine_is_shown(kept: Callable[[str, Run], None]) -> None:
    kept("z", with_rate(1, date="not recorded"))
    kept("a", with_rate(2))
    kept("b", with_rate(3, date="2026-11-28 09:00"))
    kept("c", with_rate(4, machine="C"))
    found = newest_tables(make_results.load_runs(), ["speed.py"])["Speed"]
    assert [(one.run.machine, one.table["rows"][0][1]) for one in found] == [("B, 2 cores", 3), ("C", 4)]
