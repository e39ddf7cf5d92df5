"""`--help` of a command with many settings shows those that matter first, `--help-all` shows all in their groups."""

from __future__ import annotations

import ast
import inspect
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, make_dataclass
from itertools import pairwise
from typing import Annotated, Any, get_type_hints

import tyro
from tyro.extras import SubcommandApp

HELP, HELP_ALL = ("-h", "--help"), "--help-all"
# A line of text that is longer is hard to read.
WIDTH = 80
# Defaults whose meaning the text of the setting says.
STANDS_FOR_TEXT = ("", -1.0)


@dataclass(frozen=True, kw_only=True)
class CommandHelp:
    """What is shown of a command: its settings, the names of those that matter first, and examples of its use."""

    command: Any
    settings: type
    first: str
    examples: str


def run_command(
    app: SubcommandApp, program: str, about: str | None, helps: Mapping[str, CommandHelp], arguments: Sequence[str]
) -> None:
    """Run the command that the arguments name, or show its help. Raises SystemExit behind a help."""
    name = arguments[0] if arguments else ""
    asked = [one for one in arguments if one in (*HELP, HELP_ALL)]
    if asked and name in helps:
        _show(f"{program} {name}", helps[name], whole=HELP_ALL in asked)
    arguments = [HELP[1] if one == HELP_ALL else one for one in arguments]
    app.cli(prog=program, description=about, args=arguments)


def _show(program: str, one: CommandHelp, *, whole: bool) -> None:
    count = len(one.first.split())
    more = "" if whole else f"These are the {count} settings that matter first. `{program} {HELP_ALL}` shows all."
    width = min(WIDTH, shutil.get_terminal_size().columns)
    texts = [*(inspect.getdoc(one.command) or "").split("\n\n"), more]
    examples = textwrap.indent(textwrap.dedent(one.examples).strip(), "  ")
    for text in filter(None, texts):
        print(textwrap.fill(text, width, break_on_hyphens=False), end="\n\n")
    print(f"Examples:\n{examples}\n")
    shown = _view(one.settings, None if whole else set(one.first.split()))
    tyro.cli(shown, prog=program, description="", args=[HELP[1]], config=(tyro.conf.OmitArgPrefixes,))


def _view(kind: Any, shown: set[str] | None) -> Any:
    """Return settings whose help has the named ones only, or all, each with a default that says something."""
    hints, texts = get_type_hints(kind), _texts(kind)
    new: list[tuple[str, Any, Any]] = []
    for one in fields(kind):
        hint, default = hints[one.name], field(default=one.default)
        if is_dataclass(hint):
            hint = _view(hint, shown)
            default = field() if one.default_factory is MISSING else field(default_factory=hint)
            hint = Annotated[hint, tyro.conf.arg(name=one.name, prefix_name=False)]
        elif shown is not None and one.name not in shown:
            hint = Annotated[hint, tyro.conf.Suppress]
        elif one.default in STANDS_FOR_TEXT:
            hint = Annotated[hint, tyro.conf.arg(help=texts[one.name], help_behavior_hint="")]
        else:
            hint = Annotated[hint, tyro.conf.arg(help=texts[one.name])]
        new.append((one.name, hint, default))
    view = make_dataclass(kind.__name__, new, bases=(kind,), frozen=True, kw_only=True)
    view.__doc__ = kind.__doc__
    return view


def _texts(kind: type) -> dict[str, str]:
    """Return the docstring behind each field, in one line; also of fields that it has from another class."""
    texts: dict[str, str] = {}
    for one in filter(is_dataclass, reversed(kind.__mro__)):
        texts |= _own_texts(one)
    return texts


def _own_texts(kind: type) -> dict[str, str]:
    (made,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(made, ast.ClassDef)
    return {
        one.target.id: " ".join(text.value.value.split())
        for one, text in pairwise(made.body)
        if isinstance(one, ast.AnnAssign)
        and isinstance(one.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }
