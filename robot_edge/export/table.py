"""What people are shown of an export."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from broker.program.plain_text import counted
from hierarchy.runtime.console import PlainConsole


@dataclass(frozen=True, kw_only=True)
class Row:
    """milliseconds: of one frame that comes alone. accuracy: of the classes named; None where no frame shows one."""

    name: str
    megabytes: float
    milliseconds: float
    accuracy: float | None


def print_export(rows: list[Row], different: float, origin: str, frames: int, written: str) -> None:
    """Print how a file compares with the run. origin: of the frames. written: where it is, empty for nowhere."""
    table = Table()
    for column in ("", "size", "a frame", "accuracy"):
        table.add_column(column, justify="left" if not column else "right")
    for row in rows:
        accuracy = "-" if row.accuracy is None else f"{100 * row.accuracy:.1f} %"
        table.add_row(row.name, f"{row.megabytes:.2f} MB", f"{row.milliseconds:.2f} ms", accuracy)
    console = PlainConsole()
    console.print(table)
    compared = (
        f"Compared on {counted(frames, 'frame')} ({origin}): {different:.2%} of the answers differ from the run's."
    )
    console.print(compared, highlight=False, soft_wrap=True, markup=False)
    if written:
        console.print(f"In {written}", highlight=False, soft_wrap=True, markup=False)
