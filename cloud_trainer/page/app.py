"""The trainer's page: its robots, how they learn, and what was not taken. Reads the board, and changes nothing."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Response
from nicegui import ui

from broker.wire.names import short
from cloud_trainer.page.model import FleetState, PageModel, RobotRow, SharedHalf, ago
from cloud_trainer.page.prometheus import CONTENT_TYPE, exposition
from hierarchy.runtime.page.look import (
    AXIS_COLOUR,
    Chip,
    Curves,
    Figures,
    Table,
    begin_page,
    card,
    heading,
    mode_button,
    number,
    page_title,
    percent,
    size,
)

FLEET_FIGURES = ["robots there", "images", "messages waiting", "rejected", "store", "store limit"]
ROBOT_FIGURES = ["exit loss", "cloud loss", "images/s", "of a JPEG", "messages trained", "queued there", "checkpoint"]
ROBOT_COLUMNS = [
    "robot",
    "presence",
    "images",
    "classes",
    "exit accuracy",
    "cloud accuracy",
    "bytes/image",
    "waiting",
    "checkpoint",
]
FLEET_COLUMNS = ["fleet", "front", "robots", "images", "classes", "cloud accuracy", "exit", "exit accuracy"]
# Robots of a fleet that its row names.
LISTED_ROBOTS = 12
REFRESH_SECONDS = 1.0
ENDS = ["exit, on the robot", "cloud"]
NO_CURVE = "Nothing since this trainer was started: a curve begins when the robot sends something."
NO_ROBOT = "No robot yet. Start one: robot-edge run --broker with the same URL as this trainer."
# Those that the robot says of itself, which are of before when it is away.
SAID_BY_ROBOT = ["exit loss", "images/s", "of a JPEG", "queued there"]
# Classes in the matrix; those that are mistaken most where there are more.
MAX_IN_MATRIX = 24
# From never to always. The number within can be read on all of them, in both modes: 6.9:1 at least.
MATRIX_COLOURS, MATRIX_TEXT = ["#dfe8ea", "#35b0a6"], "#10161c"
# Up to so many classes there is room for a number in each field.
MAX_WITH_NUMBERS = 12
# Rejected messages in the list, newest first.
MAX_REJECTIONS = 50


def build(app: FastAPI, page_model: PageModel) -> None:
    """Add the page and its routes."""

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(exposition(page_model.state), media_type=CONTENT_TYPE)

    ui.page("/", title=page_title(page_model.trainer))(functools.partial(_Page, page_model))


class _Page:
    """One open page."""

    def __init__(self, page_model: PageModel) -> None:
        self._page_model = page_model
        self._chosen = ""
        begin_page(page_model.trainer)
        with ui.element("header").classes("rx-head"):
            heading(page_model.trainer, 1)
            self._link = Chip()
            self._problem = Chip()
            ui.element("div").classes("rx-space")
            mode_button()
        with ui.element("div").classes("rx-grid"):
            with card("", 12):
                self._figures = Figures(FLEET_FIGURES)
            with card("Robots", 12):
                self._robots = Table(ROBOT_COLUMNS, about="Robots", choose=self._choose)
            with card("Fleets", 12) as self._fleet_card:
                self._fleets = Table(FLEET_COLUMNS, about="Fleets")
            self._of_robot()
            with card("Rejected messages", 12):
                self._rejected = Table(["when", "robot", "why"], about="Rejected messages")
        self._refresh()
        ui.timer(REFRESH_SECONDS, self._refresh)

    def _of_robot(self) -> None:
        with card("", 12):
            with ui.element("div").classes("rx-head"):
                self._name = heading("", 2).classes("rx-name", remove="rx-title")
                self._presence = Chip()
                self._quarantine = Chip()
            self._network = ui.label("").classes("rx-soft")
            self._of_it = Figures(ROBOT_FIGURES)
        with card("Loss", 6):
            self._losses = Curves(ENDS, about="Loss over time", empty=NO_CURVE)
        with card("Accuracy before learning", 6):
            self._accuracies = Curves(ENDS, about="Accuracy over time", empty=NO_CURVE, percent=True)
        with card("Held-out frames: what they are, and what the cloud takes them for", 7):
            self._matrix = _Matrix()
        with card("Cloud accuracy by class", 5):
            self._classes = Table(["class", "right"], about="Cloud accuracy by class")

    def _choose(self, index: int) -> None:
        robots = self._page_model.state.robots
        if index < len(robots):
            self._chosen = robots[index].name
            self._refresh()

    def _refresh(self) -> None:
        state = self._page_model.state
        self._link.show(state.link[:120] or "broker there", "bad" if state.link else "good")
        self._problem.show(state.problem[:120], "bad")
        self._show_fleet(state)
        row = next((one for one in state.robots if one.name == self._chosen), None) or next(iter(state.robots), None)
        if row:
            self._show_robot(row)
        else:
            self._name.set_text("No robot yet")
            self._network.set_text("Start one: robot-edge run --broker with the same URL.")
            self._presence.show("")
            self._quarantine.show("")

    def _show_fleet(self, state: FleetState) -> None:
        there = sum(row.online for row in state.robots)
        rejected = state.strangers_rejected + sum(row.messages_rejected or 0 for row in state.robots)
        self._figures.show(
            robots_there=f"{there} of {len(state.robots)}",
            images=number(sum(row.images for row in state.robots)),
            messages_waiting=number(sum(row.messages_waiting for row in state.robots)),
            rejected=number(rejected),
            store=size(state.store_bytes),
            store_limit=size(state.store_limit),
        )
        self._robots.show([_cells(row) for row in state.robots], empty=NO_ROBOT)
        self._fleet_card.set_visibility(bool(state.shared))
        self._fleets.show([_shared_cells(half, state) for half in state.shared], empty="")
        entries = [(one, row.name) for row in state.robots for one in row.rejections]
        entries += [(one, one.robot) for one in state.strangers]
        newest = sorted(entries, key=lambda entry: -entry[0].time)[:MAX_REJECTIONS]
        self._rejected.show([(_clock(one.time), robot, one.reason) for one, robot in newest], empty="None.")

    def _show_robot(self, row: RobotRow) -> None:
        self._name.set_text(row.name)
        away = "away: what is grey is the last that it said"
        self._presence.show("there" if row.online else away, "good" * row.online)
        self._quarantine.show((row.problem or row.doubt or row.apart)[:200], "bad")
        self._network.set_text(row.network)
        sent, jpeg = row.bytes_per_image, row.jpeg_bytes_per_image
        self._of_it.show(
            exit_loss=number(row.exit_loss, 2),
            cloud_loss=number(row.cloud_loss, 2),
            **{"images/s": number(row.images_per_second, 1)},
            of_a_JPEG=percent(sent / jpeg if sent and jpeg else None),
            messages_trained=number(row.messages_trained),
            queued_there=number(row.queued),
            checkpoint=size(row.checkpoint.size) if row.checkpoint else "-",
        )
        self._of_it.mark_old([] if row.online else SAID_BY_ROBOT)
        self._losses.show(row.history, 0, old=not row.online)
        self._accuracies.show(row.history, 2, old=not row.online)
        self._matrix.show(row.confusion)
        by_class = sorted(row.by_class.items(), key=lambda entry: entry[1])
        untested = [(short(name), "-") for name in row.classes if name not in row.by_class]
        self._classes.show(
            [*((short(name), percent(share)) for name, share in by_class), *untested][:200], empty="No class yet."
        )


def _cells(row: RobotRow) -> tuple[str, ...]:
    return (
        row.name,
        "not taken" if row.problem else "there" if row.online else "away",
        number(row.images),
        number(len(row.classes)),
        percent(row.exit_accuracy),
        percent(row.cloud_accuracy),
        number(row.bytes_per_image),
        number(row.messages_waiting),
        ago(row.checkpoint.time) if row.checkpoint else "-",
    )


def _shared_cells(half: SharedHalf, state: FleetState) -> tuple[str, ...]:
    its = [row.name for row in state.robots if row.shared and row.shared.log == half.log]
    return (
        half.fleet,
        half.front,
        ", ".join(its[:LISTED_ROBOTS]) + (", ..." if len(its) > LISTED_ROBOTS else ""),
        number(half.images),
        number(half.classes),
        percent(half.accuracy),
        f"version {half.exit_version}" if half.exit_version else "-",
        percent(half.exit_accuracy),
    )


def _clock(when: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(when))


class _Matrix:
    """The confusion matrix: a row for what it is, a column for what it was taken for, dark where often."""

    def __init__(self) -> None:
        label = {"color": AXIS_COLOUR, "fontSize": 11}
        axis: dict[str, Any] = {
            "type": "category",
            "data": [],
            "axisTick": {"show": False},
            "axisLine": {"show": False},
        }
        options = {
            "animation": False,
            "grid": {"left": 8, "right": 8, "top": 8, "bottom": 8, "containLabel": True},
            "tooltip": {"confine": True},
            "xAxis": {**axis, "axisLabel": {**label, "rotate": 40, "interval": 0}},
            "yAxis": {**axis, "inverse": True, "axisLabel": {**label, "interval": 0}},
            "visualMap": {
                "show": False,
                "min": 0,
                "max": 1,
                "dimension": 3,
                "inRange": {"color": MATRIX_COLOURS},
            },
            "series": [
                {
                    "type": "heatmap",
                    "data": [],
                    "encode": {"x": 0, "y": 1, "value": 2, "tooltip": [2]},
                    "label": {"show": False, "formatter": "{@[2]}", "color": MATRIX_TEXT},
                    "itemStyle": {"borderRadius": 3, "borderWidth": 2, "borderColor": "transparent"},
                }
            ],
        }
        self._nothing = ui.label(
            "No held-out frames were tested yet. A robot sets some apart by itself, or takes them from its --held-out."
        ).classes("rx-soft")
        self._chart = ui.echart(options, renderer="svg").style("height: 320px; width: 100%").props("role=img")
        self._chart.props["aria-label"] = "Confusion matrix of held-out frames"
        self._shown: Mapping[str, Mapping[str, int]] | None = None

    def show(self, confusion: Mapping[str, Mapping[str, int]]) -> None:
        """Draw counts by true and predicted class."""
        if confusion == self._shown:
            return
        self._shown = confusion
        self._nothing.set_visibility(not confusion)
        self._chart.set_visibility(bool(confusion))
        names = most_mistaken(confusion, MAX_IN_MATRIX)
        options = self._chart.options
        options["xAxis"]["data"] = options["yAxis"]["data"] = [short(one) or "(none)" for one in names]
        options["series"][0]["data"] = cells(confusion, names)
        options["series"][0]["label"]["show"] = len(names) <= MAX_WITH_NUMBERS
        self._chart.update()


def most_mistaken(confusion: Mapping[str, Mapping[str, int]], most: int) -> list[str]:
    """Return the classes in a matrix, in alphabetical order; those in most mistakes where there are too many."""
    mistakes: dict[str, int] = {}
    for name, row in confusion.items():
        mistakes.setdefault(name, 0)
        for guess, count in row.items():
            wrong = count * (guess != name)
            mistakes[name] += wrong
            mistakes[guess] = mistakes.get(guess, 0) + wrong
    return sorted(sorted(mistakes, key=lambda name: (-mistakes[name], name))[:most])


def cells(confusion: Mapping[str, Mapping[str, int]], names: list[str]) -> list[list[float]]:
    """Return a matrix's fields: column, row, how many, and which share of the row's class that is."""
    fields: list[list[float]] = []
    for row, name in enumerate(names):
        guesses = confusion.get(name, {})
        total = sum(guesses.values())
        for column, guess in enumerate(names):
            count = guesses.get(guess, 0)
            fields.append([column, row, count, round(count / total, 4) if total else 0.0])
    return fields
