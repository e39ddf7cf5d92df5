"""What a robot's run came to: why it learned nothing, and why an accuracy is missing. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robot_edge.run.config import RobotConfig
from robot_edge.sources.passwords import masked

# So many frames without a single label are worth a warning, long before a recording's end.
FRAMES_WITHOUT_LABEL = 500
HOW_TO_LABEL = "--labels FILE.csv names a video's labels, --label-topic a bag's, and with --live it is taught by hand"


def why_nothing_was_learned(config: RobotConfig, summary: Mapping[str, Any]) -> str:
    """Say why; empty where something was learned."""
    source, shown, unreadable = masked(config.source.source), summary["frames_shown"], summary["unreadable"]
    if summary["images"]:
        return ""
    if config.is_live:  # which shows far more than lessons have
        return "nobody taught it: type a name while it runs, or use `robot-edge teach`"
    if not shown and unreadable:
        return f"none of the {unreadable:,} pictures of {source} could be read"
    if not shown and summary["interrupted"]:
        return "it was stopped before it showed a frame"
    if not shown:
        return f"no frame came from {source}"
    if summary["unlabelled"] == shown:
        return f"none of the {shown:,} frames of {source} has a label; {HOW_TO_LABEL}"
    return (
        f"all labelled frames of {source} were set apart to test on (--held-out-every {config.source.held_out_every})"
    )


def why_untested(config: RobotConfig, *, learned: bool, kept: int) -> str:
    """Say why the exit was not tested. kept: held-out frames that there are."""
    if not learned:
        return "nothing was learned"
    if config.source.held_out:
        held_out = masked(config.source.held_out)
        return f"--held-out {held_out} showed no frame of a class that was learned, or the run was stopped"
    if kept:
        return "the run was stopped before its test"
    if config.is_live:
        return "nothing was held out: each class needs a lesson of some seconds more"
    every = config.source.held_out_every
    return (
        f"nothing was held out: one scene in {every} is (--held-out-every), unless it is the first of a class, and "
        "there were too few scenes. Use a smaller number, or --held-out SOURCE"
    )


def why_untested_by_cloud(*, tested: int, evaluated: int | None, stopped: bool) -> str:
    """Say why the cloud's accuracy is missing though the exit was tested on so many frames.

    evaluated: frames that the cloud said it has tested; None where it never said anything.
    """
    if evaluated is None:
        return "no trainer has said anything of this run"
    if stopped:
        return "the run was stopped before the cloud had tested"
    return f"the cloud has tested {evaluated:,} of the {tested:,} frames"


def verdict(config: RobotConfig, summary: Mapping[str, Any]) -> str:
    """Say what a run lacks that was to learn and to test; empty for nothing."""
    if why := why_nothing_was_learned(config, summary):
        return f"NOTHING WAS LEARNED: {why}"
    if why := summary["exit_accuracy_missing"]:
        return f"NOTHING WAS TESTED: {why}"
    return ""


def one_class(classes: list[str]) -> str:
    """Say what figures are worth while there is a single class; empty where there are more, or none."""
    if len(classes) != 1:
        return ""
    name = classes[0]
    return f"{name!r} is the only class, so every frame is taken for it: no accuracy says anything until there are two."
