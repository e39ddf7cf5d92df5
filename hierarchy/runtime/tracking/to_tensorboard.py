"""TensorBoard, without torch: event files that `tensorboard --logdir` reads."""

from __future__ import annotations

import time
from collections.abc import Mapping

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from hierarchy.runtime.tracking.figures import Pair, as_markdown, of_classes
from hierarchy.runtime.tracking.worker import TrackedRun

FLUSH_SECONDS = 5


class TensorBoard:
    """Writes one file of events, in RUN/tracking/tensorboard."""

    def __init__(self, run: TrackedRun) -> None:
        self._writer = EventFileWriter(str(run.folder / "tensorboard"), flush_secs=FLUSH_SECONDS)
        if run.settings:
            lines = [["setting", "value"], ["---", "---"], *([name, value] for name, value in run.settings.items())]
            self._add(0, text_pb("settings", "\n".join(f"| {' | '.join(line)} |" for line in lines)))

    def scalars(self, prefix: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._add(step, scalar_pb(f"{prefix}{name}", value))

    def test(self, prefix: str, end: str, step: int, by_class: Mapping[str, float], confusion: list[Pair]) -> None:
        self.scalars(prefix, step, of_classes(end, by_class))
        self._add(step, text_pb(f"{prefix}{end}/confusion", as_markdown(confusion)))

    def close(self) -> None:
        self._writer.close()

    def _add(self, step: int, summary: Summary) -> None:
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))


def open_tracker(run: TrackedRun) -> TensorBoard:
    return TensorBoard(run)
