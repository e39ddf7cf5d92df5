"""What a person sees of the lessons when they are over."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from robot_edge.evaluation.evaluation_report import FrameResult
from robot_edge.photos.lessons import FIRST_SECONDS, RIGHT_SECONDS, Lesson


def lessons_table(lessons: Sequence[Lesson], tested: Sequence[FrameResult]) -> Table:
    """Return a row for each class and one for all. tested: photos that were never taught."""
    table = Table(title="Photos that were never taught, named right", title_justify="left")
    for column in ("class", "photos shown", "seconds to right", "exit", "cloud"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for lesson in lessons:
        its = [one for one in tested if one.label == lesson.name]
        table.add_row(lesson.name, str(lesson.shown), _seconds(lesson.seconds), *_right(its))
    table.add_section()
    known = sorted(lesson.seconds for lesson in lessons if lesson.seconds is not None)
    median = known[len(known) // 2] if known else None
    table.add_row("all", str(sum(lesson.shown for lesson in lessons)), _seconds(median), *_right(tested, share=True))
    return table


def print_lessons(console: Console, lessons: Sequence[Lesson], tested: Sequence[FrameResult]) -> None:
    """Print the table, and what its columns say."""
    console.print(lessons_table(lessons, tested))
    console.print(
        'seconds to right: from "teach" until most photos of the class that were never shown were named right; median '
        f"in the last row; -: not within {RIGHT_SECONDS:g} s, of the first class {FIRST_SECONDS:g} s. "
        "exit, cloud: right when all classes were taught, of the photos that it answered for.",
        highlight=False,
    )


def _right(tested: Sequence[FrameResult], *, share: bool = False) -> tuple[str, str]:
    exit_right = sum(one.exit_name == one.label for one in tested)
    answered = [one for one in tested if one.cloud_name is not None]
    cloud_right = sum(one.cloud_name == one.label for one in answered)
    return _of(exit_right, len(tested), share=share), _of(cloud_right, len(answered), share=share)


def _of(right: int, count: int, *, share: bool) -> str:
    if not count:
        return "-"
    return f"{100 * right / count:.1f} %" if share else f"{right} of {count}"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}"
