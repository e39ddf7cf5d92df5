"""Pictures of a run: losses and accuracies over the images it has seen, and what each threshold would do."""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.colors import TABLEAU_COLORS
from matplotlib.figure import Figure

from hierarchy.calibration import ThresholdPoint
from hierarchy.evaluation import RECENT

# Points a curve is drawn with at most; a week's run has millions of steps.
MAX_POINTS = 2000

EXIT_COLOR, CLOUD_COLOR, NEW_CLASS_COLOR = "#0b7285", "#d9480f", "#adb5bd"
COLORS = {"exit": EXIT_COLOR, "cloud": CLOUD_COLOR}
# Numbers written into a heat map, and names along an axis, at most: more could not be read.
MAX_NUMBERS, MAX_NAMES = 400, 25
# Of several robots in one picture, one after the other; then the same again with the next style.
ROBOT_COLORS = tuple(map(str, TABLEAU_COLORS.values()))
STYLES = ("-", "--", ":", "-.")

# Characters of a name in a picture: a longer one leaves no room for what is drawn.
MAX_CHARACTERS = 32
FONT = "DejaVu Sans"  # matplotlib brings it along
# For what that one lacks, where they are installed.
FURTHER_FONTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans")

Points = list[tuple[int, float]]

log = logging.getLogger("run")


@contextmanager
def _text_as_it_is(what: str) -> Iterator[None]:
    """Draw names as they are, whatever the user's matplotlibrc says, and let no picture end a run.

    matplotlib takes what stands between two dollars for mathematics, and raises ValueError where it is none. Whatever
    else goes wrong is a line in the log. A disk that cannot be written is the caller's: OSError.
    """
    try:
        with matplotlib.rc_context({"text.parse_math": False, "text.usetex": False, "font.family": list(_fonts())}):
            yield
    except OSError:
        raise
    except Exception as error:
        log.warning("no %s: they cannot be drawn (%s: %s)", what, type(error).__name__, error)


@_text_as_it_is("curves")
def draw_curves(metrics: Path, picture: Path) -> None:
    """Draw the curves of a metrics.jsonl into a PNG; where there are several robots, each has a line of its own."""
    curves, arrivals = _read(metrics)
    figure = Figure(figsize=(9, 6), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(2, 1, sharex=True)
    robots = sorted({robot for robot, _ in curves})
    for (robot, name), points in sorted(curves.items()):
        end, _, quantity = name.partition("_")
        axes = loss_axes if quantity == "loss" else accuracy_axes
        label = f"{end} {shown_name(robot)}".strip() if len(robots) > 1 else end
        thinned = points[:: max(1, len(points) // MAX_POINTS)]
        number = robots.index(robot)
        color = ROBOT_COLORS[number % len(ROBOT_COLORS)] if len(robots) > 1 else COLORS[end]
        style = STYLES[number // len(ROBOT_COLORS) % len(STYLES)]
        axes.plot(*zip(*thinned, strict=True), style, color=color, label=label, linewidth=1.4)
    for axes, title in ((loss_axes, "loss"), (accuracy_axes, f"prequential accuracy, last {RECENT:,} images")):
        for images in arrivals:
            axes.axvline(images, color=NEW_CLASS_COLOR, linewidth=1, linestyle=":")
        axes.set_title(title, loc="left", fontsize=10)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    if loss_axes.lines or accuracy_axes.lines:
        lines, labels = (loss_axes if loss_axes.lines else accuracy_axes).get_legend_handles_labels()
        figure.legend(lines, labels, frameon=False, fontsize=8, loc="outside right upper")
    accuracy_axes.set_ylim(0, 1)
    accuracy_axes.set_xlabel("images (dotted: a new class)" if arrivals else "images")
    figure.savefig(picture, dpi=120)


@_text_as_it_is("threshold curves")
def draw_thresholds(curve: Sequence[ThresholdPoint], chosen: float, picture: Path, *, asked: bool) -> None:
    """Draw what each threshold of a cascade does into a PNG. asked: whether there was a cloud to ask."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    alone = [(point.threshold, point.edge_accuracy) for point in curve if point.edge_accuracy is not None]
    axes.plot(*zip(*alone, strict=True), color=EXIT_COLOR, label="accuracy of what the exit answers")
    if asked:
        cascade = [(point.threshold, point.accuracy) for point in curve]
        axes.plot(*zip(*cascade, strict=True), color=CLOUD_COLOR, label="accuracy of the cascade")
    shares = [(point.threshold, point.edge_share) for point in curve]
    axes.plot(*zip(*shares, strict=True), "--", color=NEW_CLASS_COLOR, label="share that the exit answers")
    axes.axvline(chosen, color=NEW_CLASS_COLOR, linewidth=1, linestyle=":")
    axes.set_xlabel("threshold of the exit's calibrated confidence (dotted: the one used)")
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(picture, dpi=120)


@_text_as_it_is("accuracy matrices")
def draw_accuracy_matrices(matrices: Mapping[str, Mapping[str, Any]], picture: Path, *, left_out: int = 0) -> None:
    """Draw a heat map into a PNG for each title, and a curve: how well each class is known in each test, and all are.

    left_out: how many more there would be.
    """
    tallest = max(len(matrix["rounds"]) for matrix in matrices.values())
    figure = Figure(figsize=(9, 1.5 + min(8.0, 0.45 * tallest) * len(matrices)), layout="constrained")
    grid = figure.subplots(len(matrices), 2, squeeze=False, sharey="row", width_ratios=(4, 1))
    for (axes, mean_axes), (title, matrix) in zip(grid, matrices.items(), strict=True):
        rounds = [[float("nan") if value is None else value for value in row] for row in matrix["rounds"]]
        image = axes.imshow(rounds, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axes.set_title(f"accuracy of each class in each test: {shown_name(title)}", loc="left", fontsize=10)
        axes.set_xticks(*_ticks(matrix["classes"]), rotation=45, ha="right", fontsize=8)
        axes.set_yticks(*_ticks(_names_of_tests(matrix["tests"])), fontsize=8)
        means = [fmean(value for value in row if value is not None) for row in matrix["rounds"]]
        mean_axes.plot(means, range(len(means)), "o-", color=EXIT_COLOR, markersize=3, linewidth=1.4)
        mean_axes.set_title("mean over classes", loc="left", fontsize=10)
        mean_axes.set_xlim(0, 1)
        mean_axes.grid(alpha=0.25)
        mean_axes.spines[["top", "right"]].set_visible(False)
        if len(rounds) * len(matrix["classes"]) <= MAX_NUMBERS:
            for y, row in enumerate(matrix["rounds"]):
                for x, value in enumerate(row):
                    if value is not None:
                        color = "black" if value > 0.6 else "white"
                        axes.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=color)
        figure.colorbar(image, ax=mean_axes, fraction=0.1, label="accuracy")
    if left_out:
        figure.supxlabel(f"and {left_out} more, in summary.json", fontsize=8)
    figure.savefig(picture, dpi=120)


def _names_of_tests(numbers: Sequence[int]) -> list[str]:
    """Return a name for each row of an accuracy matrix, as `AccuracyRounds.figures` numbers them."""
    names = []
    for number, before in zip(numbers, [None, *numbers], strict=False):
        again = " after idle rehearsal" if number and number == before else ""
        names.append(f"test {number}{again}" if number else "former run")
    return names


def shown_name(name: str) -> str:
    r"""Return a name as a picture shows it: its middle left out where it is long, ``\u6771`` for what has no glyph."""
    glyphs = _glyphs()
    drawn = "".join(one if ord(one) in glyphs else one.encode("unicode_escape").decode() for one in name)
    if len(drawn) <= MAX_CHARACTERS:
        return drawn
    half = (MAX_CHARACTERS - 1) // 2
    return f"{drawn[:half]}…{drawn[-half:]}"


@cache
def _fonts() -> tuple[str, ...]:
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return (FONT, *(name for name in FURTHER_FONTS if name in installed))


@cache
def _glyphs() -> frozenset[int]:
    """Return the characters that can be drawn."""
    paths = [font_manager.findfont(name) for name in _fonts()]
    return frozenset().union(*(font_manager.get_font(path).get_charmap() for path in paths))


def _ticks(names: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return where to write which names along an axis."""
    places = list(range(0, len(names), max(1, math.ceil(len(names) / MAX_NAMES))))
    return places, [shown_name(names[place]) for place in places]


def _read(metrics: Path) -> tuple[dict[tuple[str, str], Points], list[int]]:
    """Return the points of each (robot, quantity), and at how many images a class was new after the start."""
    curves: dict[tuple[str, str], Points] = defaultdict(list)
    arrivals: list[int] = []
    classes: dict[str, int] = {}
    with metrics.open() as lines:
        for line in lines:
            values = json.loads(line)
            robot = values.get("robot", "")
            for end in COLORS:
                # A robot also logs what the cloud says of itself, which is some images behind.
                images = values.get(f"{end}_images", values["images"])
                for name in (f"{end}_loss", f"{end}_recent"):
                    if values.get(name) is not None:
                        curves[robot, name].append((images, values[name]))
            if values.get("classes", 0) > classes.get(robot, values.get("classes", 0)):
                arrivals.append(values["images"])
            classes[robot] = values.get("classes", 0)
    return curves, arrivals
