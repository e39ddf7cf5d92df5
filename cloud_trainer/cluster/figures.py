"""What a cluster's page and Prometheus are told: its processes, and what robots' training has come to. No torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from broker.wire.codec import unpack_as
from broker.wire.messages import RobotMetrics
from cloud_trainer.cluster.board import Board, Listed, Member
from cloud_trainer.cluster.reports import Report
from cloud_trainer.page.model import FleetState, RobotRow, shared_half
from cloud_trainer.page.prometheus import STORE_BYTES, STORE_LIMIT, TAKING, as_text, family, of_robots
from cloud_trainer.robots.quarantine import doubt
from cloud_trainer.store.log import Store


@dataclass(frozen=True, kw_only=True)
class Process:
    """One of the cluster's. figures: as it said them last. robots: there now, whose logs are its own.

    images_per_second: that were learned from since the last look; None for an ingest, and where nothing is known.
    """

    member: Member
    figures: Mapping[str, int]
    robots: int = 0
    images_per_second: float | None = None


@dataclass(frozen=True, kw_only=True)
class ClusterState:
    """A cluster at one moment. fleet: all robots. owners: actor and epoch of each robot's log, by robot.

    problem: why there is nothing newer; empty where there is.
    """

    fleet: FleetState = field(default_factory=FleetState)
    processes: tuple[Process, ...] = ()
    owners: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    problem: str = ""

    @property
    def images_per_second(self) -> float:
        """Of all actors together."""
        return sum(one.images_per_second or 0.0 for one in self.processes)


# Of each process, as `ROBOT_METRICS` of each robot.
Metrics = list[tuple[str, str, str, Callable[[Process], float | None]]]
ACTOR_METRICS: Metrics = [
    ("actor_logs", "gauge", "Logs that are an actor's.", lambda one: one.member.logs),
    ("actor_networks", "gauge", "Networks that an actor has in memory.", lambda one: one.figures.get("networks")),
    ("actor_robots", "gauge", "Robots that are there, whose logs are an actor's.", lambda one: one.robots),
    ("actor_messages_waiting", "gauge", "Messages stored, not learned from.", lambda one: one.figures.get("waiting")),
    ("actor_images_per_second", "gauge", "Images learned from a second.", lambda one: one.images_per_second),
]
INGEST_METRICS: Metrics = [
    (
        "ingest_robots",
        "gauge",
        "Robots that an ingest has heard of lately.",
        lambda one: one.figures.get("robots_known"),
    ),
    (
        "ingest_messages_total",
        "counter",
        "Messages that an ingest has stored.",
        lambda one: one.figures.get("messages"),
    ),
    ("ingest_paused", "gauge", "Whether an ingest takes nothing.", lambda one: one.figures.get("paused")),
]


class ClusterFigures:
    """Makes states of board and store. What has not changed since the last look is not unpacked again."""

    def __init__(self, board: Board, store: Store, store_limit: float) -> None:
        """store_limit: bytes."""
        self._board = board
        self._store = store
        self._store_limit = store_limit
        self._known: dict[str, tuple[Listed, RobotRow]] = {}
        self._looked_at: float | None = None

    def look(self, now: float) -> ClusterState:
        """Return what is so. now: monotonic seconds. Raises StorageError."""
        listed, members = self._board.robots(), self._board.members()
        before = {name: row.images for name, (_, row) in self._known.items()}
        self._known = {one.robot: (one, self._row(one)) for one in listed}
        rows = [row for _, row in self._known.values()]
        learned = {row.name: max(0, row.images - before.get(row.name, row.images)) for row in rows}
        seconds = None if self._looked_at is None else now - self._looked_at
        self._looked_at = now
        processes = tuple(_process(one, listed, learned, seconds) for one in members)
        is_paused = any(one.figures.get("paused") for one in processes)
        return ClusterState(
            fleet=FleetState(
                robots=tuple(rows),
                store_bytes=self._store.bytes_used,
                store_limit=self._store_limit,
                problem="an ingest takes nothing: its log says why" if is_paused else "",
            ),
            processes=processes,
            owners={one.robot: (one.actor, one.epoch) for one in listed},
        )

    def _row(self, one: Listed) -> RobotRow:
        before = self._known.get(one.robot)
        return before[1] if before and before[0] == one else row_of(one)


def _process(member: Member, listed: Iterable[Listed], learned: Mapping[str, int], seconds: float | None) -> Process:
    figures = json.loads(member.figures or "{}")
    if member.role != "actor":
        return Process(member=member, figures=figures)
    own = [one for one in listed if one.actor == member.name]
    return Process(
        member=member,
        figures=figures,
        robots=sum(one.online for one in own),
        images_per_second=sum(learned[one.robot] for one in own) / seconds if seconds else None,
    )


def row_of(one: Listed) -> RobotRow:
    """Return what a page shows of a robot. What only its ingest knows is not known."""
    report = Report.unpack(one.report) if one.report else None
    standing = report.standing if report else None
    figures = standing.metrics if standing else None
    said = unpack_as(RobotMetrics, one.metrics) if one.metrics else None
    return RobotRow(
        name=one.robot,
        online=one.online,
        network=f"{standing.split.backbone}, cut after {standing.split.cut}" if standing else "",
        classes=standing.classes if standing else (),
        images=figures.images if figures else 0,
        exit_loss=said.exit_loss if said else None,
        cloud_loss=figures.cloud_loss if figures else None,
        exit_prequential=said.exit_prequential if said else None,
        cloud_recent=figures.cloud_recent if figures else None,
        exit_accuracy=said.exit_accuracy if said else None,
        cloud_accuracy=figures.cloud_accuracy if figures else None,
        bytes_per_image=said.bytes_per_image if said else None,
        jpeg_bytes_per_image=said.jpeg_bytes_per_image if said else None,
        images_per_second=said.images_per_second if said else None,
        queued=said.queued if said else None,
        dropped=said.dropped if said else None,
        messages_trained=figures.messages_trained if figures else 0,
        messages_waiting=report.waiting if report else 0,
        messages_rejected=None,
        messages_dropped=None,
        problem=(report.stuck if report else "") or one.refused or one.waits,
        doubt=doubt(images=figures.images, recent=figures.cloud_recent, classes=figures.classes) if figures else "",
        shared=shared_half(one.log, figures, lambda _fleet, _front: None),
    )


def exposition(state: ClusterState) -> str:
    """Return all figures for Prometheus, as text."""
    lines: list[str] = []
    fleet = state.fleet
    for name, about, value in (
        ("store_bytes", STORE_BYTES, fleet.store_bytes),
        ("store_limit_bytes", STORE_LIMIT, fleet.store_limit),
        ("taking", TAKING, not (fleet.problem or state.problem)),
    ):
        lines += family(name, "gauge", about, [({}, value)])
    every = state.processes
    actors = [one for one in every if one.member.role == "actor"]
    ingest = [one for one in every if one.member.role == "ingest"]
    lines += family(
        "process_silent_seconds",
        "gauge",
        "Since a process said that it is there.",
        [(_labels(one) | {"role": one.member.role, "place": one.member.place}, one.member.silent) for one in every],
    )
    for metrics, processes in ((ACTOR_METRICS, actors), (INGEST_METRICS, ingest)):
        for name, kind, about, of in metrics:
            lines += family(name, kind, about, [(_labels(one), of(one)) for one in processes])
    lines += family(
        "robot_epoch",
        "gauge",
        "How often the robot's log was claimed; the actor that did so last.",
        [({"robot": robot, "actor": actor}, epoch) for robot, (actor, epoch) in state.owners.items()],
    )
    return as_text([*lines, *of_robots(fleet)])


def _labels(process: Process) -> dict[str, str]:
    return {"process": process.member.name}
