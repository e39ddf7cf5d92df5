from __future__ import annotations

from typing import Any

import pytest

from robot_edge.run.config import RobotConfig
from robot_edge.run.outcome import one_class, verdict, why_untested, why_untested_by_cloud

REPLAY = RobotConfig.from_flags(source="folder:pictures")


def run(**figures: Any) -> dict[str, Any]:
    return {
        "images": 0,
        "frames_shown": 0,
        "unlabelled": 0,
        "unreadable": 0,
        "interrupted": False,
        "exit_accuracy_missing": None,
        **figures,
    }


@pytest.mark.parametrize(
    ("figures", "says"),
    [
        (run(images=5, frames_shown=5), ""),
        (run(), "NOTHING WAS LEARNED: no frame came from folder:pictures"),
        (run(interrupted=True), "NOTHING WAS LEARNED: it was stopped before it showed a frame"),
        (run(unreadable=7), "NOTHING WAS LEARNED: none of the 7 pictures of folder:pictures could be read"),
        (
            run(frames_shown=7, unlabelled=7),
            "NOTHING WAS LEARNED: none of the 7 frames of folder:pictures has a label; ",
        ),
        (run(frames_shown=7), "NOTHING WAS LEARNED: all labelled frames of folder:pictures were set apart"),
        (run(images=5, exit_accuracy_missing="of rain"), "NOTHING WAS TESTED: of rain"),
    ],
)
def test_a_run_says_what_it_lacks(figures: dict[str, Any], says: str) -> None:
    assert verdict(REPLAY, figures).startswith(says)
    assert bool(verdict(REPLAY, figures)) == bool(says)


@pytest.mark.parametrize("figures", [run(frames_shown=700), run(interrupted=True), run(unreadable=3)])
def test_a_robot_that_nobody_taught_says_how(figures: dict[str, Any]) -> None:
    assert "type a name while it runs" in verdict(RobotConfig.from_flags(source="sim:", live=True), figures)


def test_a_missing_accuracy_has_a_reason() -> None:
    assert why_untested(REPLAY, learned=False, kept=0) == "nothing was learned"
    assert "one scene in 10 is (--held-out-every)" in why_untested(REPLAY, learned=True, kept=0)
    assert why_untested(REPLAY, learned=True, kept=9) == "the run was stopped before its test"
    assert why_untested_by_cloud(tested=9, evaluated=None, stopped=False) == "no trainer has said anything of this run"
    assert why_untested_by_cloud(tested=9, evaluated=3, stopped=False) == "the cloud has tested 3 of the 9 frames"
    assert "stopped before" in why_untested_by_cloud(tested=9, evaluated=3, stopped=True)


def test_what_one_class_is_worth_is_said() -> None:
    assert one_class(["mug"]).startswith("'mug' is the only class")
    assert (one_class([]), one_class(["mug", "cup"])) == ("", "")
