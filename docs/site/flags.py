"""Pages that are made from the programs: every flag of every command, and the examples."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import warnings
from argparse import SUPPRESS, Action
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tyro

PROGRAMS = {"robot-edge": "robot_edge", "cloud-trainer": "cloud_trainer", "local-broker": "broker"}
# What tyro adds to the help of a flag.
SAID_LAST = re.compile(
    r"\s*\((default: (?P<default>.*?)|(?P<other>required|optional|fixed|repeatable).*)\)$", re.DOTALL
)


def pages() -> dict[str, str]:
    """Return the text of each page, by its path on the site."""
    return {f"reference/{program}.md": flags(program, package) for program, package in PROGRAMS.items()}


def flags(program: str, package: str) -> str:
    """Return the page of a program: its commands, and the flags of each as a table."""
    module = importlib.import_module(f"{package}.commands")
    lines = [f"# {program}", "", str(module.__doc__).strip(), ""]
    for name, command in commands(module.app):
        parser = parser_of(command)
        lines += [f"## {program} {name}", "", inspect.getdoc(command) or "", ""]
        lines += table(parser)
    return "\n".join(lines) + "\n"


def commands(app: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, specification in app._subcommands.items():  # tyro has no public list of them
        yield name, specification.target


def parser_of(command: Callable[..., Any]) -> Any:
    """Return the parser of argparse that has a command's flags."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # without a successor so far
        return tyro.extras.get_parser(command)


def table(parser: Any) -> list[str]:
    """Return the rows of a table of all flags, with the headings of their groups."""
    rows: list[str] = []
    for group in parser._action_groups:
        actions = [one for one in group._group_actions if one.help != SUPPRESS and one.dest != "help"]
        if not actions:
            continue
        rows += ["| flag | takes | default | |", "| --- | --- | --- | --- |"]
        rows += [row(one) for one in actions] + [""]
    return rows


def row(action: Action) -> str:
    said = str(action.help or "")
    end = SAID_LAST.search(said)
    default = (end["default"] or end["other"] or "") if end else ""
    names = ", ".join(f"`{one}`" for one in action.option_strings) or f"`{action.metavar or action.dest}`"
    takes = str(action.metavar or "") if action.option_strings else ""
    cells = [names, code(takes), code(default if default != "''" else ""), cell(SAID_LAST.sub("", said))]
    return f"| {' | '.join(cells)} |"


def code(text: str) -> str:
    return f"`{cell(text)}`" if text.strip() else ""


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def examples(root: Path) -> str:
    """Return the page of the example programs, each with what it says of itself."""
    lines = ["# Examples", "", "Each is a program that runs as it stands; the tests run them all.", ""]
    for path in sorted((root / "docs" / "examples").glob("*.py")):
        source = path.read_text("utf-8")
        about = (ast.get_docstring(ast.parse(source)) or "").strip()
        lines += [f"## {path.stem.replace('_', ' ').capitalize()}", "", about, ""]
        lines += ["```python", source.rstrip(), "```", ""]
    return "\n".join(lines)
