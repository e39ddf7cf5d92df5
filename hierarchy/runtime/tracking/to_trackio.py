"""Trackio: a database in the run's folder, or where TRACKIO_DIR, TRACKIO_SPACE_ID or TRACKIO_SERVER_URL say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from hierarchy.runtime.tracking.figures import Pair, as_markdown, of_classes
from hierarchy.runtime.tracking.worker import TrackedRun


class Trackio:
    """Logs to one run of the project."""

    def __init__(self, run: TrackedRun) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(run.folder / "trackio"))  # which it reads when it is imported
        import trackio

        self._markdown: Any = trackio.Markdown
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", "reflexarc"),
            name=f"{run.name}-{run.id}",
            resume="allow",
            config=dict(run.settings),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def scalars(self, prefix: str, step: int, values: Mapping[str, float]) -> None:
        self._run.log({f"{prefix}{name}": value for name, value in values.items()}, step=step)

    def test(self, prefix: str, end: str, step: int, by_class: Mapping[str, float], confusion: list[Pair]) -> None:
        self.scalars(prefix, step, of_classes(end, by_class))
        self._run.log({f"{prefix}{end}/confusion": self._markdown(as_markdown(confusion))}, step=step)

    def close(self) -> None:
        self._run.finish()


def open_tracker(run: TrackedRun) -> Trackio:
    return Trackio(run)
