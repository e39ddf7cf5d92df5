from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageColor

from hierarchy.calibration import threshold_curve
from hierarchy.runtime.curves import (
    CLOUD_COLOR,
    EXIT_COLOR,
    MAX_CHARACTERS,
    MAX_NAMES,
    MAX_POINTS,
    NEW_CLASS_COLOR,
    ROBOT_COLORS,
    _names_of_tests,
    _ticks,
    draw_accuracy_matrices,
    draw_curves,
    draw_thresholds,
    shown_name,
)

pytestmark = pytest.mark.slow


def drawn(tmp_path: Path, lines: list[dict[str, Any]]) -> dict[str, int]:
    """Draw a metrics.jsonl of these lines; return how many pixels about each colour the picture has."""
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    found = {}
    for color in (EXIT_COLOR, CLOUD_COLOR, NEW_CLASS_COLOR, *ROBOT_COLORS):
        red, green, blue = ImageColor.getrgb(color)[:3]
        # Thin lines are blended with the paper: their hue stays, and letters and grid have none.
        hue = pixels - pixels[:, :, :1] - np.array([0, green - red, blue - red])
        found[color] = int(((abs(hue) < 6).all(axis=2) & (abs(pixels[:, :, 0] - red) < 60)).sum())
    return found


def line(images: int, **values: Any) -> dict[str, Any]:
    return {"time": 1.0, "images": images, "classes": 2, **values}


def test_each_end_has_its_curves_and_a_new_class_its_line(tmp_path: Path) -> None:
    exit_alone = [line(images, exit_loss=2 / images, cloud_loss=None) for images in range(1, 9)]
    both = [{**one, "cloud_loss": 1.0, "cloud_prequential": 0.5} for one in exit_alone]
    grown = [*both, {**line(9, exit_loss=1.0), "classes": 3}]
    pictures = [drawn(tmp_path, lines) for lines in (exit_alone, both, grown)]
    assert [picture[EXIT_COLOR] > 100 for picture in pictures] == [True, True, True]
    assert [picture[CLOUD_COLOR] > 100 for picture in pictures] == [False, True, True]
    assert [picture[NEW_CLASS_COLOR] > 100 for picture in pictures] == [False, False, True]


def test_a_run_that_ended_at_once_has_an_empty_picture(tmp_path: Path) -> None:
    assert drawn(tmp_path, [])[EXIT_COLOR] == 0
    assert drawn(tmp_path, [line(1)])[EXIT_COLOR] == 0


@pytest.mark.parametrize("asked", [True, False])
def test_a_threshold_curve_has_its_picture(tmp_path: Path, asked: bool) -> None:
    confidence, right = np.array([0.9, 0.4]), np.array([True, False])
    draw_thresholds(threshold_curve(confidence, right, right), 0.5, tmp_path / "threshold.png", asked=asked)
    assert (tmp_path / "threshold.png").read_bytes().startswith(b"\x89PNG")


def test_more_robots_than_line_styles_and_more_points_than_pixels(tmp_path: Path) -> None:
    lines = [line(images, robot=f"r{images % 5}", cloud_loss=1.0 + images % 5) for images in range(12 * MAX_POINTS)]
    found = drawn(tmp_path, lines)
    assert [found[color] > 300 for color in ROBOT_COLORS[:6]] == [True] * 5 + [False]


def test_a_heat_map_names_what_can_be_read(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(200)]
    places, shown = _ticks(names)
    assert len(places) == MAX_NAMES
    assert shown == [names[place] for place in places]
    assert _ticks(names[:3]) == ([0, 1, 2], names[:3])
    assert _names_of_tests([0, 0, 1, 2, 2]) == [
        "former run",
        "former run",
        "test 1",
        "test 2",
        "test 2 after idle rehearsal",
    ]
    matrix = {"classes": names, "rounds": [[0.5] * 100 + [None] * 100, [0.7] * 200], "tests": [1, 2]}
    draw_accuracy_matrices({"r1": matrix, "r2": matrix}, tmp_path / "forgetting.png", left_out=3)
    with Image.open(tmp_path / "forgetting.png") as picture:
        assert picture.width == 1080


HOSTILE = (
    "$\\frac$",
    "a_$b^$",
    "$10$ bill",
    "_hidden",
    "{x}",
    "\\",
    "%s",
    "杯子",
    "كوب",
    "🍵",
    "x" * 10_000,
    "a\nb\x1b[2J",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_text_in_every_picture(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    matrix = {"classes": [name, "cup"], "rounds": [[0.5, 0.4], [0.7, 0.8]], "tests": [1, 2]}
    draw_accuracy_matrices({name: matrix}, tmp_path / "forgetting.png")
    lines = [line(images, robot=robot, cloud_loss=1.0) for images in (1, 2) for robot in (name, "r2")]
    assert drawn(tmp_path, lines)[ROBOT_COLORS[0]] > 20
    assert (tmp_path / "forgetting.png").exists()
    assert not caplog.records
    assert len(shown_name(name)) <= MAX_CHARACTERS


def test_names_are_shown_so_that_they_can_be_told_apart() -> None:
    assert shown_name("$5 bill") == "$5 bill"
    assert shown_name("\U0001f375") == "\\U0001f375"
    assert shown_name("a\x1b") == "a\\x1b"
    assert shown_name("x" * 40 + "1") != shown_name("x" * 40 + "2")


def test_a_users_matplotlibrc_draws_no_mathematics(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with matplotlib.rc_context({"text.usetex": True, "text.parse_math": True}):
        matrix = {"classes": ["$\\frac$"], "rounds": [[0.5], [0.7]], "tests": [1, 2]}
        draw_accuracy_matrices({"r1": matrix}, tmp_path / "forgetting.png")
    assert (tmp_path / "forgetting.png").exists()
    assert not caplog.records


def test_a_picture_that_cannot_be_drawn_is_a_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "metrics.jsonl").write_text("no JSON\n")
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == ["no curves: they cannot be drawn"]
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(OSError, match="no folder"):  # the disk is for others to tell of
        draw_curves(tmp_path / "metrics.jsonl", tmp_path / "no folder" / "curves.png")
