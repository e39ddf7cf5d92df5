"""The robot's loop pins up what is so: from its parts to a PageState, a few times a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hierarchy.runtime.page.history import History
from robot_edge.learning.class_edits import ClassMemory
from robot_edge.page.page_model import ClassRow, LessonRow, PageModel, PageState, Thumbnail
from robot_edge.run.run_metrics import RunMetrics
from robot_edge.sources.frames import PacedSource
from robot_edge.teaching.lessons import Teaching
from robot_edge.uplink.outbox import Outbox
from robot_edge.uplink.uplink import Uplink

# Between two states, and between two looks at figures that take a query or a walk through the memory.
POST_SECONDS, FIGURES_SECONDS = 0.2, 1.0


class PagePublisher:
    """Makes page states of a robot's parts. Used on the thread that trains, which owns them."""

    def __init__(
        self,
        page_model: PageModel,
        *,
        metrics: RunMetrics,
        uplink: Uplink,
        outbox: Outbox,
        memory: ClassMemory,
        source: PacedSource,
        teaching: Teaching | None,
    ) -> None:
        self._page_model = page_model
        self._metrics = metrics
        self._uplink = uplink
        self._outbox = outbox
        self._memory = memory
        self._source = source
        self._teaching = teaching
        self._history = History()
        self._next_post = self._next_figures = float("-inf")
        self._base = PageState(live=teaching is not None)
        self._shown: tuple[tuple[str, ...], int] = ((), -1)
        self._page_model.state = self._base

    def post(self, now: float, wall: float) -> None:
        """Put up what is so, if it is time for it. now: monotonic seconds; wall: Unix time."""
        if now < self._next_post:
            return
        self._next_post = now + POST_SECONDS
        if now >= self._next_figures:
            self._next_figures = now + FIGURES_SECONDS
            self._base = self._figured(wall)
        status = self._source.status
        self._page_model.state = replace(
            self._base,
            paused=status == "paused",
            camera=status,
            lesson=self._lesson(),
            undoable=last.name if self._teaching and (last := self._teaching.open or self._teaching.last) else "",
            trainer_online=self._uplink.trainer_online,
            link=self._uplink.waits_for,
        )

    def _lesson(self) -> LessonRow | None:
        teaching = self._teaching
        lesson = teaching.open if teaching else None
        if teaching is None or lesson is None:
            return None
        return LessonRow(name=lesson.name, frames=lesson.frames, seconds_left=teaching.seconds_left)

    def _figured(self, wall: float) -> PageState:
        own, cloud = self._metrics.message(), self._uplink.cloud_metrics
        # What the cloud said before it went away is no figure of now: its curve ends there.
        said = cloud if self._uplink.trainer_online and not self._uplink.waits_for else None
        self._history.add(
            wall,
            own.exit_loss,
            said.cloud_loss if said else None,
            self._metrics.recent,
            said.cloud_recent if said else None,
        )
        return PageState(
            live=self._teaching is not None,
            classes=self._classes(self._memory.classes),
            outbox=self._outbox.trouble,
            quarantine=self._uplink.quarantine,
            goodput=self._uplink.goodput,
            queued=own.queued,
            dropped=own.dropped,
            images=own.images,
            images_per_second=own.images_per_second,
            bytes_per_image=own.bytes_per_image,
            exit_loss=own.exit_loss,
            cloud_loss=cloud.cloud_loss if cloud else None,
            exit_accuracy=own.exit_accuracy,
            cloud_accuracy=cloud.cloud_accuracy if cloud else None,
            history=self._history.points(),
        )

    def _classes(self, names: Sequence[str]) -> tuple[ClassRow, ...]:
        counts, by_class = self._memory.counts(), self._metrics.held_out.by_class
        shown = (tuple(counts), self._memory.edits)
        if shown != self._shown:  # after an edit too: what was taken back should be seen no more
            self._shown = shown
            frames = self._memory.one_of_each()
            self._page_model.thumbnails = {name: Thumbnail.of(image) for name, image in frames.items()}
        return tuple(ClassRow(name=name, frames=counts.get(name, 0), accuracy=by_class.get(name)) for name in names)
