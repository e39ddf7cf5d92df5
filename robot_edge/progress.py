"""What a person sees of a run while it lasts: a live line on a terminal, a plain one every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from broker.paths import shown
from broker.plain_text import visible
from hierarchy.console import PlainConsole

# Between two lines where the output is no terminal.
LINE_SECONDS = 5.0
# Classes that a line names at most.
LISTED_CLASSES = 5


class RunProgress:
    """Shows the progress of a run; use it as a context manager."""

    def __init__(self, total: int | None, unit: str = "images") -> None:
        self._console = PlainConsole()
        self._total = total
        self._unit = unit
        self._next_line = 0.0
        self._bar = Progress(
            BarColumn(bar_width=16),
            TextColumn("{task.completed:,.0f} " + unit, markup=False),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=self._console,
        )
        self._task = self._bar.add_task("", total=total, figures="")

    def __enter__(self) -> RunProgress:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def show(self, done: int, figures: str = "") -> None:
        """Show how far the run is."""
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, figures=visible(figures))
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            share = f" of {self._total:,}" if self._total else ""
            self._console.print(f"{done:,}{share} {self._unit}  {figures}", highlight=False, soft_wrap=True)


def print_summary(summary: dict[str, Any], folder: Path) -> None:
    """Print the figures of summary.json that people ask for first."""
    table = Table(title=f"{summary['images']:,} images, {len(summary['classes'])} classes", title_justify="left")
    for column in ("", "exit, on the robot", "cloud"):
        table.add_column(column, justify="left" if not column else "right")
    for title, name in (("held-out accuracy", "accuracy"), ("prequential accuracy", "prequential")):
        table.add_row(title, _percent(summary[f"exit_{name}"]), _percent(summary[f"cloud_{name}"]))
    console = PlainConsole()
    console.print(table)
    sent, jpeg = summary["bytes_per_image"] or 0, summary["jpeg_bytes_per_image"] or 0
    console.print(
        f"{sent:,.0f} bytes sent for an image; raw {summary['raw_bytes_per_image']:,}, as JPEG {jpeg:,.0f}. "
        f"{summary['images_per_second']:.0f} images/s. "
        f"Messages: {summary['messages_sent']:,} sent, {summary['messages_trained']:,} trained, "
        f"{summary['messages_rejected']:,} rejected; {summary['dropped']:,} samples dropped.",
        highlight=False,
    )
    if summary["cloud_accuracy"] is not None:
        console.print(
            "The cloud's figures are of now. While it is idle it goes on rehearsing: its own summary.json tells how "
            "far it came.",
            highlight=False,
        )
    if summary["held_out_images"] and (untested := summary["untested_classes"]):
        console.print(
            f"Nothing was held out of {_some(untested)}: no accuracy counts these classes. Give frames to test on with "
            "--held-out, or set more apart with a smaller --held-out-every.",
            highlight=False,
        )
    if line := _left_out(summary):
        console.print(line, highlight=False, markup=False)
    queued = sum(counts["queued"] for counts in summary["samples_by_class"].values())
    if queued:
        console.print(
            f"{queued:,} samples wait on the disk for the cloud. They go up when the robot is started again with the "
            "same --run-dir.",
            highlight=False,
        )
    checkpoint = ", checkpoint/" if (folder / "checkpoint").exists() else ""  # none where nothing was learned
    files = f"summary.json, curves.png, metrics.jsonl{checkpoint}"
    console.print(f"The run is in {folder}: {files}", highlight=False, soft_wrap=True)


def _some(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - LISTED_CLASSES} more" if len(names) > LISTED_CLASSES else ""
    return ", ".join(names[:LISTED_CLASSES]) + more


def _left_out(summary: dict[str, Any]) -> str:
    """Return what the source has and did not show; empty where that is nothing."""
    kinds = [f"{one['count']:,} {kind} (as {shown(one['first'])})" for kind, one in summary["left_out"].items()]
    unreadable = [f"{summary['unreadable']:,} that could not be read"] if summary["unreadable"] else []
    return f"Left out of the source: {', '.join([*unreadable, *kinds])}." if kinds or unreadable else ""


def print_evaluation(figures: dict[str, Any], folder: Path) -> None:
    """Print the figures of evaluation.json."""
    table = Table(title=f"{figures['frames']:,} frames", title_justify="left")
    for column in ("", "exit, on the robot", "cloud", "cascade"):
        table.add_column(column, justify="left" if not column else "right")
    ends = ("exit", "cloud", "cascade")
    table.add_row("accuracy", *(_percent(figures[f"{end}_accuracy"]) for end in ends))
    table.add_row("calibration error (ECE)", *(_percent(figures.get(f"{end}_calibration_error")) for end in ends))
    for share in (50, 99):
        table.add_row(f"latency p{share}", *(_milliseconds(figures[f"{end}_latency"], share) for end in ends))
    console = PlainConsole()
    console.print(table)
    lines = [
        f"Calibration error before calibration: {_percent(figures['exit_calibration_error_before'])}, "
        f"temperature {figures['temperature']:.2f}.",
        f"Taken for unknown: {_percent(figures['taught_taken_for_unknown'])} of the frames of taught classes, "
        f"{_percent(figures['others_taken_for_unknown'])} of the {figures['frames_of_other_classes']:,} of others.",
    ]
    if figures["cascade_latency"]:
        lines.append(
            f"From a confidence of {figures['threshold']:.2f} on the exit answers alone: "
            f"{_percent(figures['answered_at_the_edge'])} of the frames. When asked about all of them, the cloud "
            f"answered {_percent(figures['answered_by_the_cloud_in_time'])} in time."
        )
    for line in [*lines, f"In {folder}: evaluation.json, threshold.png"]:
        console.print(line, highlight=False)


def _milliseconds(latency: dict[str, float] | None, share: int) -> str:
    return "-" if latency is None else f"{latency[f'p{share}_ms']:.1f} ms"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
