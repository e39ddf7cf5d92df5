"""What a person sees of a run when it is over: its figures, what is missing and why, and where its files are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from broker.program.paths import shown
from broker.program.plain_text import counted
from hierarchy.evaluation import RECENT
from hierarchy.runtime.checkpoint import CHECKPOINT
from hierarchy.runtime.console import PlainConsole
from robot_edge.fleet.exits import FleetStatus
from robot_edge.run.outcome import one_class

# Classes that a line names at most.
LISTED_CLASSES = 5
COUNTED = ("taken", "receipted", "queued", "rejected", "dropped")


def print_summary(summary: dict[str, Any], console: Console | None = None) -> None:
    """Print the figures of summary.json that people ask for first, and why there is none where there is none."""
    console = console or PlainConsole()
    title = f"{counted(summary['images'], 'image')}, {counted(len(summary['classes']), 'class')}"
    table = Table(title=title, title_justify="left")
    for column in ("", "exit, on the robot", "cloud"):
        table.add_column(column, justify="left" if not column else "right")
    rows = (
        (f"held-out accuracy{_of_how_many(summary['held_out_images'])}", "accuracy"),
        ("prequential accuracy, since the start", "prequential"),
        (f"prequential accuracy, last {RECENT:,} images", "recent"),
    )
    for title, name in rows:
        table.add_row(title, _percent(summary[f"exit_{name}"]), _percent(summary[f"cloud_{name}"]))
    console.print(table)
    for line in (*_missing(summary), _bytes(summary), _samples(summary), *_notes(summary)):
        console.print(line, highlight=False, markup=False)


def _of_how_many(images: int) -> str:
    """Say of how many images an accuracy is: of 5 images 40 % is no finding."""
    return f", of {counted(images, 'image')}" if images else ""


def _missing(summary: dict[str, Any]) -> list[str]:
    """Return why an accuracy is missing from the table, where one is."""
    exit_why, cloud_why = summary["exit_accuracy_missing"], summary["cloud_accuracy_missing"]
    lines = [f"No held-out accuracy: {exit_why}."] if exit_why else []
    if cloud_why and cloud_why != exit_why:
        lines.append(f"No held-out accuracy of the cloud: {cloud_why}.")
    if summary["images"] and summary["cloud_recent"] is None:
        lines.append("No figures of the cloud: it has learned nothing of this run by now, as far as it said.")
    return lines


def _bytes(summary: dict[str, Any]) -> str:
    sent, jpeg = summary["bytes_per_image"] or 0, summary["jpeg_bytes_per_image"] or 0
    return (
        f"{sent:,.0f} bytes sent for an image; raw {summary['raw_bytes_per_image']:,}, as JPEG {jpeg:,.0f}. "
        f"{summary['images_per_second']:.0f} images/s."
    )


def _samples(summary: dict[str, Any]) -> str:
    """Say what became of the samples for the cloud. One image learned from is one sample; all of it is in samples."""
    totals = {name: sum(one[name] for one in summary["samples_by_class"].values()) for name in COUNTED}
    return (
        f"Samples for the cloud: {totals['taken']:,} made, in {counted(summary['messages_sent'], 'message')}; "
        f"{totals['receipted']:,} stored by it, {summary['cloud_images']:,} of them learned so far; "
        f"{totals['queued']:,} wait here, {totals['rejected']:,} rejected, {totals['dropped']:,} dropped."
    )


def _notes(summary: dict[str, Any]) -> list[str]:
    lines = [note] if (note := one_class(summary["classes"])) else []
    if fleet := summary.get("fleet_exit"):
        lines.append(f"Beside its own exit, which learned nothing of it: {FleetStatus(**fleet).text}.")
    if summary["cloud_accuracy"] is not None:
        lines.append(
            "The cloud's figures are of now. While it is idle it goes on rehearsing: its own summary.json tells how "
            "far it came."
        )
    if summary["held_out_images"] and (untested := summary["untested_classes"]):
        lines.append(
            f"Nothing was held out of {_some(untested)}: no accuracy counts "
            f"{'this class' if len(untested) == 1 else 'these classes'}. Give frames to test on with --held-out, or "
            "set more apart with a smaller --held-out-every."
        )
    if summary["unlabelled"] and summary["images"]:
        lines.append(f"{summary['unlabelled']:,} frames had no label and were not learned from.")
    if line := left_out_line(summary):
        lines.append(line)
    if (why := summary["nothing_sent_why"]) and why != summary["cloud_accuracy_missing"]:
        lines.append(f"Frames are held back: {why}.")
    if not why and summary["leak"] is not None and summary["leak"] > summary["leak_line"]:
        lines.append(
            f"This front stands still, and tells more than --privacy lets it: leak {summary['leak']:.2f}, line "
            f"{summary['leak_line']:.2f}. Begin another run with a higher --privacy, or with fewer bits, places or "
            "channels (--bits, --pool, --bottleneck)."
        )
    if not why and (held := summary["frames_held_back"]):
        lines.append(f"{counted(held, 'frame waits', 'frames wait')} on the robot until the outbox has room.")
    if lost := summary["frames_never_sent"]:
        lines.append(f"{counted(lost, 'frame')} will never go up: more were held back than there is room for.")
    if queued := sum(counts["queued"] for counts in summary["samples_by_class"].values()):
        lines.append(
            f"{counted(queued, 'sample waits', 'samples wait')} on the disk for the cloud. Started again with the same "
            "--run-dir, the robot sends what waits."
        )
    return lines


def print_files(folder: Path, console: Console | None = None) -> None:
    """Print which files of a run there are."""
    names = ("summary.json", "curves.png", "metrics.jsonl")
    there = [name for name in names if (folder / name).exists()]
    there += ["checkpoint/"] if (folder / "checkpoint" / CHECKPOINT).exists() else []
    files = ", ".join(there) or "nothing"
    console = console or PlainConsole()
    console.print(f"The run is in {folder}: {files}", highlight=False, soft_wrap=True, markup=False)


def _some(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - LISTED_CLASSES} more" if len(names) > LISTED_CLASSES else ""
    return ", ".join(names[:LISTED_CLASSES]) + more


def left_out_line(summary: dict[str, Any]) -> str:
    """Return what the source has and did not show; empty where that is nothing."""
    kinds = [f"{one['count']:,} {kind} (as {shown(one['first'])})" for kind, one in summary["left_out"].items()]
    unreadable = [f"{summary['unreadable']:,} that could not be read"] if summary["unreadable"] else []
    return f"Left out of the source: {', '.join([*unreadable, *kinds])}." if kinds or unreadable else ""


def print_evaluation(figures: dict[str, Any], folder: Path | None) -> None:
    """Print the figures of evaluation.json. folder: where that is; None where it was stopped, and nothing written."""
    table = Table(title=counted(figures["frames"], "frame"), title_justify="left")
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
    if exit_ := figures.get("fleet_exit"):
        lines.insert(0, f"Answered with: {FleetStatus(**exit_).text}.")
    if figures["cascade_latency"]:
        lines.append(
            f"From a confidence of {figures['threshold']:.2f} on the exit answers alone: "
            f"{_percent(figures['answered_at_the_edge'])} of the frames. When asked about all of them, the cloud "
            f"answered {_percent(figures['answered_by_the_cloud_in_time'])} in time."
        )
    written = "STOPPED before its end: nothing is written."
    if folder:
        there = [name for name in ("evaluation.json", "threshold.png") if (folder / name).exists()]
        written = f"In {folder}: {', '.join(there)}"
    for line in [*lines, written]:
        console.print(line, highlight=False)


def _milliseconds(latency: dict[str, float] | None, share: int) -> str:
    return "-" if latency is None else f"{latency[f'p{share}_ms']:.1f} ms"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
