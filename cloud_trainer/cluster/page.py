"""A cluster's page: its processes, its robots, and the metrics for Prometheus. It changes nothing."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace

from fastapi import FastAPI, Response
from nicegui import ui

from broker.errors import StorageError
from cloud_trainer.cluster.board import Board
from cloud_trainer.cluster.config import ClusterConfig
from cloud_trainer.cluster.figures import ClusterFigures, ClusterState, Process, exposition
from cloud_trainer.page.model import RobotRow
from cloud_trainer.page.prometheus import CONTENT_TYPE
from cloud_trainer.store.opening import open_again
from hierarchy.runtime.page.look import (
    Chip,
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
from hierarchy.runtime.page.server import PageServer

FIGURES = ["processes", "robots there", "images/s", "messages waiting", "store", "store limit"]
PROCESS_COLUMNS = ["process", "where", "heard", "robots there", "logs", "networks", "images/s", "waiting"]
ROBOT_COLUMNS = ["robot", "presence", "actor", "epoch", "images", "classes", "exit", "cloud", "waiting", "problem"]
# Robots that a page lists: those that are there first, and of those the ones that most waits for. /metrics has all.
LISTED_ROBOTS = 200
REFRESH_SECONDS = 2.0
# How often the board is looked at: it tells of all robots.
LOOK_SECONDS = 5.0
NO_ROBOT = "No robot yet. Start one: robot-edge run --broker with the same URL as this trainer."


@dataclass
class ClusterModel:
    """Where the coordinator pins up what is so; replaced as a whole, so any thread may read it."""

    trainer: str
    state: ClusterState = field(default_factory=ClusterState)


class ClusterPage:
    """Lets a server show a cluster, and tells it what is so. Belongs to the coordinator's thread."""

    def __init__(self, server: PageServer, config: ClusterConfig, board: Board) -> None:
        """Begin to serve. Raises ConfigError and StorageError."""
        self._store = open_again(config.store)
        self._figures = ClusterFigures(board, self._store, config.store_gb * 1e9)
        self._model = ClusterModel(config.trainer)
        self._next_look = 0.0
        server.start(functools.partial(build, model=self._model))

    def look(self, now: float) -> None:
        """Look at what is so, where that is due. now: monotonic seconds."""
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        try:
            self._model.state = self._figures.look(now)
        except StorageError as error:
            self._model.state = replace(self._model.state, problem=str(error))

    def close(self) -> None:
        """Look no more."""
        self._store.close()


def build(app: FastAPI, model: ClusterModel) -> None:
    """Add the page and its routes."""

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(exposition(model.state), media_type=CONTENT_TYPE)

    ui.page("/", title=page_title(model.trainer))(functools.partial(_Page, model))


class _Page:
    """One open page."""

    def __init__(self, model: ClusterModel) -> None:
        self._model = model
        begin_page(model.trainer)
        with ui.element("header").classes("rx-head"):
            heading(model.trainer, 1)
            self._problem = Chip()
            ui.element("div").classes("rx-space")
            mode_button()
        with ui.element("div").classes("rx-grid"):
            with card("", 12):
                self._figures = Figures(FIGURES)
            with card("Processes", 12):
                self._processes = Table(PROCESS_COLUMNS, about="Processes")
            with card("Robots", 12):
                self._robots = Table(ROBOT_COLUMNS, about="Robots")
                self._more = ui.label("").classes("rx-soft")
        self._refresh()
        ui.timer(REFRESH_SECONDS, self._refresh)

    def _refresh(self) -> None:
        state = self._model.state
        fleet = state.fleet
        self._problem.show((state.problem or fleet.problem)[:120], "bad")
        self._figures.show(
            processes=number(len(state.processes)),
            robots_there=f"{sum(row.online for row in fleet.robots):,} of {len(fleet.robots):,}",
            **{"images/s": number(state.images_per_second, 1)},
            messages_waiting=number(sum(row.messages_waiting for row in fleet.robots)),
            store=size(fleet.store_bytes),
            store_limit=size(fleet.store_limit),
        )
        self._processes.show([_process_cells(one) for one in state.processes], empty="None yet.")
        listed = sorted(fleet.robots, key=lambda row: (not row.online, -row.messages_waiting, row.name))
        self._robots.show([_robot_cells(row, state) for row in listed[:LISTED_ROBOTS]], empty=NO_ROBOT)
        left = len(listed) - LISTED_ROBOTS
        self._more.set_text(f"{left:,} more are in /metrics" if left > 0 else "")


def _process_cells(one: Process) -> tuple[str, ...]:
    its, figures, trains = one.member, one.figures, one.member.role == "actor"
    return (
        its.name,
        its.place,
        f"{its.silent:.0f} s ago",
        number(one.robots if trains else figures.get("robots_known")),
        number(its.logs) if trains else "-",
        number(figures.get("networks")),
        number(one.images_per_second, 1),
        number(figures.get("waiting")),
    )


def _robot_cells(row: RobotRow, state: ClusterState) -> tuple[str, ...]:
    actor, epoch = state.owners.get(row.name, ("", 0))
    return (
        row.name,
        "there" if row.online else "away",
        actor or "-",
        number(epoch),
        number(row.images),
        number(len(row.classes)),
        percent(row.exit_accuracy),
        percent(row.cloud_accuracy),
        number(row.messages_waiting),
        (row.problem or row.doubt)[:120],
    )
