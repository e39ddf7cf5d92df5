"""The robot's loop pins up what is so: from its parts to a PageState, a few times a second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hierarchy.runtime.page.history import History
from robot_edge.fleet.exits import FleetExits
from robot_edge.learning.class_edits import ClassMemory
from robot_edge.learning.framed import Viewfinder
from robot_edge.page.page_model import ClassRow, FleetRow, LessonRow, PageModel, PageState, Thumbnail
from robot_edge.run.run_metrics import RunMetrics
from robot_edge.sources.frames import PacedSource
from robot_edge.teaching.lessons import Teaching
from robot_edge.uplink.outbox import Outbox
from robot_edge.uplink.uplink import Uplink

# Between two states, and between two looks at figures that take a query or a walk through the memory.
POST_SECONDS, FIGURES_SECONDS = 0.2, 1.0


@dataclass(kw_only=True, eq=False)
class PagePublisher:
    """Makes page states of a robot's parts. Used on the thread that trains, which owns them."""

    page_model: PageModel
    metrics: RunMetrics
    uplink: Uplink
    outbox: Outbox
    memory: ClassMemory
    source: PacedSource
    teaching: Teaching | None
    viewfinder: Viewfinder
    fleet: FleetExits | None = None
    _history: History = field(default_factory=History)
    _next_post: float = -math.inf
    _next_figures: float = -math.inf
    _shown: tuple[tuple[str, ...], int] = ((), -1)

    def __post_init__(self) -> None:
        self.page_model.state = self._base = PageState(live=self.teaching is not None)

    def post(self, now: float, wall: float) -> None:
        """Put up what is so, if it is time for it. now: monotonic seconds; wall: Unix time."""
        if now < self._next_post:
            return
        self._next_post = now + POST_SECONDS
        if now >= self._next_figures:
            self._next_figures = now + FIGURES_SECONDS
            self._base = self._figured(wall)
        camera, status = self.source.status, self.fleet.status if self.fleet else None
        self.page_model.state = replace(
            self._base,
            paused=camera == "paused",
            camera=camera,
            lesson=self._lesson(),
            undoable=last.name if self.teaching and (last := self.teaching.open or self.teaching.last) else "",
            trainer_online=self.uplink.presence.trainer_online,
            link=self.uplink.waits_for,
            framing=self.viewfinder.framing,
            fleet=FleetRow(text=status.text, use=status.use, forgotten=self._forgotten) if status else None,
        )

    @property
    def _forgotten(self) -> tuple[str, ...]:
        said = self.uplink.cloud_metrics.forgotten if self.uplink.cloud_metrics else ()
        return tuple(name for name in said if name in self.memory.classes)

    def _lesson(self) -> LessonRow | None:
        teaching = self.teaching
        lesson = teaching.open if teaching else None
        if teaching is None or lesson is None:
            return None
        return LessonRow(name=lesson.name, frames=lesson.frames, seconds_left=teaching.seconds_left)

    def _figured(self, wall: float) -> PageState:
        own, cloud = self.metrics.message(), self.uplink.cloud_metrics
        # What the cloud said before it went away is no figure of now: its curve ends there.
        said = cloud if self.uplink.presence.trainer_online and not self.uplink.waits_for else None
        self._history.add(
            wall,
            own.exit_loss,
            said.cloud_loss if said else None,
            self.metrics.recent,
            said.cloud_recent if said else None,
        )
        return PageState(
            live=self.teaching is not None,
            classes=self._classes(self.memory.classes),
            outbox=self.outbox.trouble,
            quarantine=self.uplink.quarantine,
            held_back=self.metrics.held_back,
            goodput=self.uplink.pace.goodput,
            queued=own.queued,
            dropped=own.dropped,
            images=own.images,
            images_per_second=own.images_per_second,
            bytes_per_image=own.bytes_per_image,
            exit_accuracy=own.exit_accuracy,
            cloud_accuracy=cloud.cloud_accuracy if cloud else None,
            history=self._history.points(),
        )

    def _classes(self, names: Sequence[str]) -> tuple[ClassRow, ...]:
        counts, by_class = self.memory.counts(), self.metrics.held_out.by_class
        shown = (tuple(counts), self.memory.edits)
        if shown != self._shown:  # after an edit too: what was taken back should be seen no more
            self._shown = shown
            frames = self.memory.one_of_each()
            self.page_model.thumbnails = {name: Thumbnail.of(image) for name, image in frames.items()}
        return tuple(ClassRow(name=name, frames=counts.get(name, 0), accuracy=by_class.get(name)) for name in names)
