"""How far a program is: a live line that fits the terminal, a plain one every few seconds where there is none."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import Progress, TextColumn
from rich.table import Column

from broker.program.plain_text import visible
from hierarchy.runtime.console import PlainConsole

# Between two lines where the output is no terminal.
LINE_SECONDS = 5.0
# The pace that the time left is told by is that of so many seconds: long enough for a steady number, short enough to
# follow a camera, or another program on the same machine, that comes or goes.
PACE_SECONDS = 60.0
# Below this a bar is worth less than the figures that it would hide.
BAR_WIDTH, WIDE = 12, 100
SEPARATOR = " | "


class RunProgress:
    """Shows the progress of a run; use it as a context manager.

    total: how much there is to do; None where nobody knows. unit: what is counted. clock: monotonic seconds.
    """

    def __init__(
        self,
        total: int | None,
        unit: str = "images",
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or PlainConsole()
        self._total = total
        self._unit = unit
        self._clock = clock
        self._pace = Pace(total)
        self._next_line = float("-inf")
        # Class names stand in a line, and are text and no markup. One column: rich would shrink several as it likes.
        line = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
        self._bar = Progress(line, console=self._console)
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> RunProgress:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def show(self, done: int, figures: Sequence[str] = ()) -> None:
        """Show how far the run is. figures: the most important first; those behind that do not fit are left out."""
        figures = [visible(one) for one in figures]
        now = self._clock()
        left = self._pace.seconds_left(done, now)
        head = f"{counted(done, self._total)} {self._unit}" + (f", {duration(left)} left" if left is not None else "")
        if self._console.is_terminal:
            width = self._console.width
            bar = bar_of(done, self._total) if width >= WIDE else ""
            self._bar.update(self._task, description=fitting(bar + head, figures, width))
        elif now >= self._next_line:
            self._next_line = now + LINE_SECONDS
            self._console.print(SEPARATOR.join([head, *figures]), highlight=False, soft_wrap=True, markup=False)


class Pace:
    """How long it will take, told by the last PACE_SECONDS."""

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._seen: deque[tuple[float, int]] = deque()

    def seconds_left(self, done: int, now: float) -> float | None:
        """Return the seconds left; None where that is not known, or nothing is left."""
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - PACE_SECONDS:
            self._seen.popleft()
        since, before = self._seen[0]
        if self._total is None or done >= self._total or done <= before:
            return None
        return (self._total - done) * (now - since) / (done - before)


def counted(done: int, total: int | None) -> str:
    """Return how much is done of how much, and as a share."""
    if not total:
        return f"{done:,}"
    return f"{done:,}/{total:,} ({min(1.0, done / total):.0%})"


def duration(seconds: float) -> str:
    """Return a time as people say it: 42 s, 3:05 min, 2:10 h, 3 days."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d} h" if hours < 48 else f"{hours / 24:.0f} days"


def bar_of(done: int, total: int | None) -> str:
    """Return a bar of fixed width, and a space behind it; empty where the total is not known."""
    if not total:
        return ""
    filled = round(BAR_WIDTH * min(1.0, done / total))
    return "━" * filled + "─" * (BAR_WIDTH - filled) + " "


def fitting(head: str, figures: Sequence[str], width: int) -> str:
    """Return the head and as many figures, from the first on, as fit the width."""
    line = head
    for figure in figures:
        longer = f"{line}{SEPARATOR}{figure}"
        if len(longer) > width:
            break
        line = longer
    return line
