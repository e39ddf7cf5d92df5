"""The reference of the Python API, made from signatures and docstrings. The code is read, not imported."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import griffe

PAGES = {
    "python": (
        "Python",
        "What the two ends offer to a program. Settings are the flags of [robot-edge run](robot-edge.md) and "
        "[cloud-trainer run](cloud-trainer.md), with underscores. [Examples](../examples.md) use them.",
        ("robot_edge", "cloud_trainer", "robot_edge.sources.frames", "broker.errors"),
    ),
    "hierarchy": (
        "The divided network alone",
        "`hierarchy` needs no broker and no robot: both halves may train in one process.",
        ("hierarchy",),
    ),
    "messages": (
        "Messages and topics",
        "What robots and trainers say to each other, as the code has it. [The protocol](../protocol.md) has the bytes.",
        ("broker.wire.messages", "broker.wire.topics"),
    ),
}


def pages(root: Path) -> dict[str, str]:
    """Return the text of each page, by its path on the site."""
    loader = griffe.GriffeLoader(search_paths=[root], allow_inspection=False)
    for package in ("broker", "hierarchy", "robot_edge", "cloud_trainer"):
        loader.load(package)
    loader.resolve_aliases(external=False)
    made = {}
    for name, (title, about, modules) in PAGES.items():
        lines = [f"# {title}", "", about, ""]
        for module in modules:
            lines += _module(loader.modules_collection[module])
        made[f"reference/{name}.md"] = "\n".join(lines) + "\n"
    return made


def _module(module: griffe.Object | griffe.Alias) -> Iterator[str]:
    yield from (f"## {module.path}", "", _said(module), "")
    for member in _offered(module):
        yield from _member(member)


def _offered(module: griffe.Object | griffe.Alias) -> Iterator[griffe.Object | griffe.Alias]:
    """Yield what a module offers: what is in its __all__, or else its own public classes and functions."""
    if module.exports is not None:
        yield from (module.members[str(name)] for name in module.exports)
        return
    for member in module.members.values():
        if not member.is_alias and member.is_public and (member.is_class or member.is_function):
            yield member


def _member(member: griffe.Object | griffe.Alias) -> Iterator[str]:
    yield from (f"### {member.name}", "", "```python", *_signature(member), "```", "", _said(member), "")
    if not member.is_class:
        return
    fields = [one for one in _public(member) if one.is_attribute and one.has_docstring]
    if fields:
        yield from (f"- `{one.name}`: {' '.join(_said(one).split())}" for one in fields)
        yield ""
    for method in _public(member):
        if method.is_function:
            yield from (f"#### {member.name}.{method.name}", "", "```python", *_signature(method), "```", "")
            yield from (_said(method), "")


def _public(owner: griffe.Object | griffe.Alias) -> Iterator[griffe.Object | griffe.Alias]:
    for name, member in owner.members.items():
        if not name.startswith("_"):
            yield member


def _said(member: griffe.Object | griffe.Alias) -> str:
    """Return a docstring as Markdown. What it says of a parameter or a field, as in "bits: 1 to 8", becomes an item."""
    text = member.docstring.value.strip() if member.docstring else ""
    names = _names(member)
    if not names or "```" in text:
        return text
    name = "|".join(map(re.escape, names))
    item = re.compile(rf"(?:^|(?<=[.;]) )((?:{name})(?:(?:,| and) (?:{name}))*): ")
    return "\n\n".join(_with_items(paragraph, item) for paragraph in text.split("\n\n"))


def _with_items(paragraph: str, item: re.Pattern[str]) -> str:
    joined = " ".join(paragraph.split())
    if paragraph.startswith("    ") or not item.search(joined):
        return paragraph
    joined, *raises = re.split(r" (?=Raises [A-Z])", joined, maxsplit=1)
    before, *parts = item.split(joined)  # then names and texts in turn
    items = [f"- `{name}`: {text}" for name, text in zip(parts[::2], parts[1::2], strict=True)]
    return "\n".join([*([before, ""] if before else []), *items, *(["", *raises] if raises else [])])


def _names(member: griffe.Object | griffe.Alias) -> list[str]:
    """Return the names of a function's parameters, or of a class's and its fields."""
    if isinstance(member, griffe.Alias):
        member = member.final_target
    if isinstance(member, griffe.Class):
        fields = [one.name for one in _public(member) if one.is_attribute]
        return [*dict.fromkeys([*(one.name for one in member.parameters if one.name != "self"), *fields])]
    return [one.name for one in member.parameters] if isinstance(member, griffe.Function) else []


def _signature(member: griffe.Object | griffe.Alias) -> Iterator[str]:
    """Yield the lines of a declaration, as one would write it."""
    if isinstance(member, griffe.Alias):
        member = member.final_target
    if isinstance(member, griffe.Attribute):
        annotation = f": {member.annotation}" if member.annotation else ""
        yield f"{member.name}{annotation}" + (f" = {member.value}" if member.value else "")
    elif isinstance(member, griffe.Function):
        yield from _wrapped(f"{member.name}(", member.parameters, f") -> {member.returns}")
    elif isinstance(member, griffe.Class):
        bases = f"({', '.join(str(base) for base in member.bases)})" if member.bases else ""
        yield f"class {member.name}{bases}"
        if any(parameter.name != "self" for parameter in member.parameters):
            yield from _wrapped(f"{member.name}(", member.parameters, ")")


def _wrapped(start: str, parameters: griffe.Parameters, end: str) -> Iterator[str]:
    shown = [str(one) for one in _with_star(parameters)]
    line = f"{start}{', '.join(shown)}{end}"
    if len(line) <= 100:
        yield line
        return
    yield start
    yield from (f"    {one}," for one in shown)
    yield end


def _with_star(parameters: griffe.Parameters) -> Iterator[str]:
    """Yield the parameters but for self, with the star in front of those that are passed by keyword."""
    starred = False
    for one in parameters:
        if one.name in ("self", "cls"):
            continue
        if one.kind is griffe.ParameterKind.var_positional:
            starred = True
        if one.kind is griffe.ParameterKind.keyword_only and not starred:
            starred = True
            yield "*"
        yield _parameter(one)


def _parameter(one: griffe.Parameter) -> str:
    stars = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}
    name = f"{stars.get(one.kind, '') if one.kind else ''}{one.name}"
    default = "" if one.default is None or name.startswith("*") else str(one.default)
    if one.annotation is None:
        return f"{name}={default}" if default else name
    return f"{name}: {one.annotation}" + (f" = {default}" if default else "")
