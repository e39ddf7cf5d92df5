from __future__ import annotations

import io

from rich.table import Table

from hierarchy.runtime.console import PlainConsole

NAMES = ("[/switch]", "cup [red]", "[unlabelled]", ":smile:", "\x1b[31mred", "https://a.b 12")


def test_names_that_rich_takes_for_markup_are_printed_as_they_are() -> None:
    out = io.StringIO()
    console = PlainConsole(file=out, width=200, force_terminal=True, color_system="truecolor")
    table = Table(title="[/switch]", caption="[red]")
    table.add_column("[/column]")
    for name in NAMES:
        console.print(f"Nothing was held out of {name}")
        table.add_row(name)
    console.print(table)
    printed = out.getvalue()
    for name in NAMES:
        shown = name.replace("\x1b", "\\x1b")
        assert printed.count(shown) >= 2
    assert "[/column]" in printed
    assert "\x1b[31m" not in printed
