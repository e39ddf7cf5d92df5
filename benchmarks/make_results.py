"""Makes docs/results.md and docs/results/ from benchmarks/results/*.json and benchmarks/topics/*.toml.

    python benchmarks/make_results.py [--check]

A topic's file has what people wrote: the question, the method, the conclusion, claims with their targets, dead ends.
The figures are those of the newest run on each machine. --check writes nothing, and ends with status 1 where a page is
not what it would be.
"""

from __future__ import annotations

import json
import operator
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recording import RESULTS, Cell, markdown_row, shown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TOPICS = Path(__file__).with_name("topics")
DOCS = Path(__file__).parents[1] / "docs"
COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
    "=": operator.eq,
}
# What older runs did not say.
NOT_RECORDED = "not recorded"
MADE = "<!-- Made by benchmarks/make_results.py: change benchmarks/topics/ or benchmarks/results/, not this page. -->"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One file of results."""

    script: str
    command: str
    date: str
    """As 2026-11-28, with a time behind it where that is known."""
    commit: str
    machine: str
    conditions: str
    tables: list[dict[str, Any]]

    @property
    def day(self) -> str:
        return self.date.split()[0] if self.date[0].isdigit() else "date not recorded"

    @property
    def about(self) -> str:
        machine = "machine not recorded" if self.machine == NOT_RECORDED else f"machine {self.machine}"
        commit = "" if self.commit == NOT_RECORDED else f", commit {self.commit}"
        conditions = (
            "" if self.conditions in ("", NOT_RECORDED) else f" {self.conditions[0].upper()}{self.conditions[1:]}."
        )
        return f"`{self.command}`, {self.day}, {machine}{commit}.{conditions}"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A table, and the run that it is of."""

    run: Run
    table: dict[str, Any]


def main(arguments: list[str]) -> int:
    made = dict(pages(load_runs(), load_topics()))
    stale = [path for path, text in made.items() if not path.exists() or path.read_text("utf-8") != text]
    left = [path for path in (DOCS / "results").glob("*.md") if path not in made]
    if "--check" in arguments:
        for path in [*stale, *left]:
            print(f"{path.relative_to(DOCS.parent)} is stale: run python benchmarks/make_results.py", file=sys.stderr)
        return int(bool(stale or left))
    for path in left:
        path.unlink()
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(made[path], "utf-8")
    return 0


def load_runs() -> list[Run]:
    """Return all runs, the newest first; of one day the last by the names of their files."""
    runs = [Run(**json.loads(path.read_text("utf-8"))) for path in sorted(RESULTS.glob("*.json"), reverse=True)]
    return sorted(runs, key=lambda run: "" if run.date == NOT_RECORDED else run.date, reverse=True)


def load_topics() -> dict[str, dict[str, Any]]:
    topics = {path.stem: tomllib.loads(path.read_text("utf-8")) for path in TOPICS.glob("*.toml")}
    return dict(sorted(topics.items(), key=lambda item: item[1]["order"]))


def pages(runs: list[Run], topics: dict[str, dict[str, Any]]) -> Iterator[tuple[Path, str]]:
    yield DOCS / "results.md", "\n".join(overview(runs, topics)) + "\n"
    for name, topic in topics.items():
        if name != "overview":
            yield DOCS / "results" / f"{name}.md", "\n".join(topic_page(runs, topic)) + "\n"


def overview(runs: list[Run], topics: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield from (MADE, "", "# Results", "", topics["overview"]["text"].strip(), "")
    yield from (
        markdown_row(["claim", "target", "newest figure", "measured by", "machine", "verdict"]),
        "| --- " * 6 + "|",
    )
    rest = {name: topic for name, topic in topics.items() if name != "overview"}
    for name, topic in rest.items():
        for claim in topic.get("claims", []):
            yield claim_row(runs, claim, f"results/{name}.md")
    yield from ("", "## Topics", "")
    yield from (f"- [{topic['title']}](results/{name}.md): {topic['question'].strip()}" for name, topic in rest.items())
    yield from ("", "## Machines", "", topics["overview"]["machines"].strip(), "", "## Dead ends", "")
    for topic in topics.values():
        yield from (f"- {one}" for one in topic.get("dead_ends", []))


def topic_page(runs: list[Run], topic: dict[str, Any]) -> Iterator[str]:
    yield from (MADE, "", f"# {topic['title']}", "", topic["question"].strip(), "")
    yield from ("## Method", "", topic["method"].strip(), "", "## Figures", "")
    tables = newest_tables(runs, topic["scripts"])
    claimed = dict.fromkeys(claim["table"] for claim in topic.get("claims", []))
    for title in [*claimed, *(title for title in tables if title not in claimed)]:
        yield from (f"### {title}", "")
        for found in tables[title]:
            yield from (found.run.about, "", *table_lines(found.table), "")
    yield from (topic["pictures"].strip(), "") if "pictures" in topic else ()
    yield from ("## Conclusion", "", topic["conclusion"].strip())


def newest_tables(runs: list[Run], scripts: list[str]) -> dict[str, list[Found]]:
    """Return the tables of these scripts by their titles, of each the newest run on each machine."""
    newest: dict[str, dict[str, Found]] = {}
    for script in scripts:
        for run in runs:
            for table in run.tables if run.script == script else []:
                newest.setdefault(table["title"], {}).setdefault(run.machine, Found(run=run, table=table))
    return {title: list(by_machine.values()) for title, by_machine in newest.items()}


def table_lines(table: dict[str, Any]) -> Iterator[str]:
    yield from (markdown_row(table["columns"]), "| --- " * len(table["columns"]) + "|")
    columns = [column_cells(column) for column in zip(*table["rows"], strict=True)]
    yield from (markdown_row(row) for row in zip(*columns, strict=True))


def column_cells(column: tuple[Cell, ...]) -> list[str]:
    """Return a column as people read it: 1.20 below 1.25, and 23.4 below 0.005 as it is."""
    decimals = {len(str(one).partition(".")[2]) for one in column if isinstance(one, float)}
    if len(decimals) == 2 and max(decimals) - min(decimals) == 1:
        return [f"{one:,.{max(decimals)}f}" if isinstance(one, float) else shown(one) for one in column]
    return [shown(one) for one in column]


def claim_row(runs: list[Run], claim: dict[str, Any], page: str) -> str:
    """Return the row of a claim. Raises ValueError if no run has its figure."""
    for run in runs:
        values = list(values_of(run, claim))
        if not values:
            continue
        sign, bound = claim["target"].split()
        kept = [COMPARE[sign](value, float(bound)) for value in values]
        verdict = "met" if all(kept) else "partly met" if any(kept) else "**missed**"
        unit = claim.get("unit", "")
        figures = [shown(value) for value in (values if len(set(values)) == 1 else [min(values), max(values)])]
        figure = f"{' to '.join(dict.fromkeys(figures))} {unit}".strip()
        target = f"{sign} {bound} {unit}".strip()
        machine = run.machine.split(",")[0]
        return markdown_row(
            [f"[{claim['claim']}]({page})", target, figure, f"{run.script}, {run.day}", machine, verdict]
        )
    raise ValueError(f"no run has the figure of {claim['claim']!r}")


def values_of(run: Run, claim: dict[str, Any]) -> Iterator[float]:
    """Yield a claim's figures in a run: the column's cells in the rows that it names."""
    if run.script != claim["script"]:
        return
    for table in run.tables:
        if table["title"] != claim["table"] or claim["column"] not in table["columns"]:
            continue
        for row in table["rows"]:
            cells: dict[str, Cell] = dict(zip(table["columns"], row, strict=True))
            value = cells[claim["column"]]
            if matches(cells, claim.get("where", {}).items()) and isinstance(value, int | float):
                yield value


def matches(cells: dict[str, Cell], where: Iterable[tuple[str, Any]]) -> bool:
    return all(cells.get(column) == value for column, value in where)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
