"""How a run ends, whatever ends it: the last checkpoint, summary, curves, and what a person sees of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from broker.errors import AccessDenied, NameTaken, StorageError
from robot_edge.run.outcome import why_untested, why_untested_by_cloud
from robot_edge.run.report import print_files, print_summary
from robot_edge.run.robot_run import RobotRun

log = logging.getLogger("robot-edge")


def go_through(run: RobotRun, loop: Callable[[RobotRun], None]) -> dict[str, Any]:
    """Go through the whole run by that loop, write down how it ended, and return its summary.

    Raises NameTaken and AccessDenied, and StorageError where the disk did not take all of it.
    """
    try:
        loop(run)
    except (NameTaken, AccessDenied):
        run.saving.save()  # and no summary: nobody would look for the error behind it
        raise
    except BaseException:
        run.saving.save()  # what a step that broke off was to learn may be all that is new
        try:
            finish(run)
        except StorageError as error:
            log.error("%s", error)  # behind it comes what ended the run
        raise
    return finish(run)


def finish(run: RobotRun) -> dict[str, Any]:
    """Write checkpoint, summary and curves, show the summary, and return it.

    Raises StorageError where the disk did not take all of it: it says what is missing, and how to go on.
    """
    run.source.close()
    run.saving.save_last()
    summary = _summary(run)
    run.uplink.publish_metrics(run.state.metrics.message())
    if run.talk.tracking:
        run.talk.tracking.end()
    print_summary(summary, run.talk.console)
    run.folder.finish(summary)
    print_files(run.folder.path, run.talk.console)
    if error := run.folder.disk.error(run.saving.how_to_go_on()):
        raise error
    return summary


def _summary(run: RobotRun) -> dict[str, Any]:
    stopped, metrics = run.stop.made, run.state.metrics
    summary = metrics.summary(interrupted=stopped)
    kept, tested = len(run.state.batcher.held_out), metrics.held_out.count
    untested = "" if tested else why_untested(run.config, learned=metrics.images > 0, kept=kept)
    evaluated = run.uplink.cloud_metrics.evaluated if run.uplink.cloud_metrics else None
    held_back = run.state.held.why if run.state.held is not None else ""
    untested_by_cloud = (
        untested or held_back or why_untested_by_cloud(tested=tested, evaluated=evaluated, stopped=stopped)
    )
    return {
        **summary,
        "exit_accuracy_missing": untested or None,
        "cloud_accuracy_missing": untested_by_cloud if summary["cloud_accuracy"] is None else None,
        "metrics_lost": run.folder.lines_lost,
        "unreadable": run.source.skipped,
        "left_out": {one.kind: {"count": one.count, "first": one.example} for one in run.source.left_out},
        "source_reconnects": run.source.reconnects,
    }
