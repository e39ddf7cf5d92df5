"""What a benchmark measured, kept: tables are printed as they grow, and `record` writes them to benchmarks/results/.

`python benchmarks/make_results.py` makes docs/results.md and docs/results/ from all files there.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).with_name("results")

# None: not measured.
Cell = str | int | float | None


def _commit() -> str:
    """Return the commit that is measured, with a plus where the working tree differs from it."""
    try:
        said = subprocess.run(["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "not recorded"
    return said.stdout.strip()


# As the benchmark began: hours may pass until it ends.
LOAD_AT_START, COMMIT_AT_START = os.getloadavg()[0], _commit()


class Table:
    """Figures of one kind. A column's name ends with its unit, as in "exit, %"; numbers come rounded."""

    def __init__(self, title: str, *columns: str) -> None:
        self.title, self.columns = title, columns
        self.rows: list[tuple[Cell, ...]] = []
        print(f"\n{title}\n\n{markdown_row(columns)}\n{'| --- ' * len(columns)}|", flush=True)

    def row(self, *cells: Cell) -> None:
        """Print a row, and keep it. Raises ValueError if it has not a cell for each column."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{self.title}: {len(cells)} cells for {len(self.columns)} columns")
        self.rows.append(cells)
        print(markdown_row(cells), flush=True)


def markdown_row(cells: tuple[Cell, ...] | list[Cell] | tuple[str, ...]) -> str:
    return f"| {' | '.join(shown(one) for one in cells)} |"


def shown(cell: Cell) -> str:
    """Return a cell as people read it."""
    if cell is None:
        return ""
    return cell if isinstance(cell, str) else f"{cell:,}"


def percent(share: float) -> float:
    """Return a share from 0 to 1 in per cent, to a tenth."""
    return round(100 * share, 1)


def record(*tables: Table) -> None:
    """Write the tables of a run that came to its end to a file of their own."""
    script = Path(sys.argv[0]).name
    run = {
        "script": script,
        "command": shlex.join(["python", f"benchmarks/{script}", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "commit": COMMIT_AT_START,
        "machine": _machine(),
        "conditions": f"load average {LOAD_AT_START:.1f} when it began",
        "tables": [{"title": one.title, "columns": one.columns, "rows": one.rows} for one in tables],
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{Path(script).stem}-{time.strftime('%Y-%m-%d-%H%M%S')}.json"
    path.write_text(as_json(run), "utf-8")
    print(f"\nkept: {path}")


def as_json(run: Mapping[str, object]) -> str:
    """Return a run as a file has it: one line for each row."""
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in run.items() if key != "tables"]
    tables = []
    for table in json.loads(json.dumps(run["tables"])):
        rows = ",\n      ".join(json.dumps(row, ensure_ascii=False) for row in table["rows"])
        columns = json.dumps(table["columns"], ensure_ascii=False)
        title = json.dumps(table["title"], ensure_ascii=False)
        tables.append(f'    {{"title": {title},\n     "columns": {columns},\n     "rows": [\n      {rows}]}}')
    joined = ",\n".join(tables)
    return "{\n" + "\n".join(lines) + f'\n  "tables": [\n{joined}]\n}}\n'


def _machine() -> str:
    """Return the machine's name from BENCH_MACHINE, or what it is."""
    if name := os.environ.get("BENCH_MACHINE"):
        return name
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = models[0].split(":", 1)[1].strip() if models else processor
    return f"{processor}, {os.cpu_count()} cores, Python {platform.python_version()}, PyTorch {version('torch')}"
