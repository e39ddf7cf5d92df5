"""Pages that are made from the programs: every flag of every command, and the examples."""

from __future__ import annotations

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

PAGE = re.compile(r"\bdocs/([\w/-]+)\.md")


def pages() -> dict[str, str]:
    """Return the text of each page, by its path on the site."""
    return {f"reference/{program}.md": flags(program, package) for program, package in PROGRAMS.items()}


def flags(program: str, package: str) -> str:
    """Return the page of a program: its commands, and the flags of each."""
    module = importlib.import_module(f"{package}.commands")
    lines = [f"# {program}", "", str(module.__doc__).strip(), ""]
    for name, command in commands(module.app):
        lines += [f"## {program} {name}", "", inspect.getdoc(command) or "", ""]
        lines += settings(parser_of(command))
    return "\n".join(lines) + "\n"


def commands(app: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, specification in app._subcommands.items():  # tyro has no public list of them
        yield name, specification.target


def parser_of(command: Callable[..., Any]) -> Any:
    """Return the parser of argparse that has a command's flags."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # without a successor so far
        return tyro.extras.get_parser(command)


def settings(parser: Any) -> Iterator[str]:
    """Yield the lines of all flags, under the headings of their groups."""
    for group in parser._action_groups:
        actions = [one for one in group._group_actions if one.help != SUPPRESS and one.dest != "help"]
        if actions:
            title = str(group.title or "options")
            yield from (f"### {(title.removesuffix(' options') or title).capitalize()}", "")
            for action in actions:
                yield from (*setting(action), "")


def setting(action: Action) -> tuple[str, str]:
    """Return a flag with what it takes and its default, and what it says."""
    said = str(action.help or "")
    end = SAID_LAST.search(said)
    default = (end["default"] or "") if end else ""
    names = " ".join([*action.option_strings, str(action.metavar or "")]).strip() or action.dest
    notes = f", default {code(default)}" if default not in ("", "''") else ""
    notes += f", {end['other']}" if end and end["other"] else ""
    return f"{code(names)}{notes}", f": {prose(SAID_LAST.sub('', said)) or '-'}"


def code(text: str) -> str:
    return f"`{' '.join(text.split())}`"


def prose(text: str) -> str:
    """Return help as Markdown: pages that it names are links."""
    line = " ".join(text.split()).replace("*", r"\*").replace("<", r"\<")
    return PAGE.sub(r"[\1](../\1.md)", line)


def examples(root: Path) -> str:
    """Return the page of the example programs."""
    lines = ["# Examples", "", "Each is a program that runs as it stands; the tests run them all.", ""]
    for path in sorted((root / "docs" / "examples").glob("*.py")):
        source = path.read_text("utf-8")
        title = path.stem.replace("_", " ").capitalize()
        lines += [f"## {title}", "", f"`docs/examples/{path.name}`", "", "```python", source.rstrip(), "```", ""]
    return "\n".join(lines)
