"""Pictures of a run: losses and accuracies over the images it has seen, and what each threshold would do."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from hierarchy.calibration import ThresholdPoint

# Points a curve is drawn with at most; a week's run has millions of steps.
MOST_POINTS = 2000

EXIT_COLOR, CLOUD_COLOR, NEW_CLASS_COLOR = "#0b7285", "#d9480f", "#adb5bd"
COLORS = {"exit": EXIT_COLOR, "cloud": CLOUD_COLOR}
# Numbers written into a heat map at most: more could not be read.
MOST_NUMBERS = 400
# Lines of further robots in one picture.
STYLES = ("-", "--", ":", "-.")

Points = list[tuple[int, float]]


def draw_curves(metrics: Path, picture: Path) -> None:
    """Draw the curves of a metrics.jsonl into a PNG; each robot in it gets a line style of its own."""
    curves, arrivals = _read(metrics)
    figure = Figure(figsize=(9, 6), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(2, 1, sharex=True)
    robots = sorted({robot for robot, _ in curves})
    for (robot, name), points in sorted(curves.items()):
        end, _, quantity = name.partition("_")
        axes = loss_axes if quantity == "loss" else accuracy_axes
        label = f"{end} {robot}".strip() if len(robots) > 1 else end
        thinned = points[:: max(1, len(points) // MOST_POINTS)]
        style = STYLES[robots.index(robot) % len(STYLES)]
        axes.plot(*zip(*thinned, strict=True), style, color=COLORS[end], label=label, linewidth=1.4)
    for axes, title in ((loss_axes, "loss"), (accuracy_axes, "prequential accuracy, last 1,000 images")):
        for images in arrivals:
            axes.axvline(images, color=NEW_CLASS_COLOR, linewidth=1, linestyle=":")
        axes.set_title(title, loc="left", fontsize=10)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(frameon=False)
    accuracy_axes.set_ylim(0, 1)
    accuracy_axes.set_xlabel("images (dotted: a new class)" if arrivals else "images")
    figure.savefig(picture, dpi=120)


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


def draw_accuracy_matrices(matrices: Mapping[str, Mapping[str, Any]], picture: Path) -> None:
    """Draw heat maps into a PNG, one for each title: how well each class is known in each round of tests."""
    tallest = max(len(matrix["rounds"]) for matrix in matrices.values())
    figure = Figure(figsize=(9, 1.5 + min(8.0, 0.45 * tallest) * len(matrices)), layout="constrained")
    for axes, (title, matrix) in zip(
        figure.subplots(len(matrices), squeeze=False)[:, 0], matrices.items(), strict=True
    ):
        rounds = [[float("nan") if value is None else value for value in row] for row in matrix["rounds"]]
        image = axes.imshow(rounds, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axes.set_title(f"accuracy of each class in each round of tests: {title}", loc="left", fontsize=10)
        axes.set_xticks(range(len(matrix["classes"])), matrix["classes"], rotation=45, ha="right", fontsize=8)
        axes.set_yticks(range(len(rounds)), [str(number + 1) for number in range(len(rounds))], fontsize=8)
        if len(rounds) * len(matrix["classes"]) <= MOST_NUMBERS:
            for y, row in enumerate(matrix["rounds"]):
                for x, value in enumerate(row):
                    if value is not None:
                        color = "black" if value > 0.6 else "white"
                        axes.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=color)
        figure.colorbar(image, ax=axes, fraction=0.02)
    figure.savefig(picture, dpi=120)


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
                for name in (f"{end}_loss", f"{end}_prequential"):
                    if values.get(name) is not None:
                        curves[robot, name].append((images, values[name]))
            if values.get("classes", 0) > classes.get(robot, values.get("classes", 0)):
                arrivals.append(values["images"])
            classes[robot] = values.get("classes", 0)
    return curves, arrivals
