"""Rerun: a recording that `rerun FILE.rrd` shows, on a robot with pictures of what it sees."""

from __future__ import annotations

import time
from collections.abc import Mapping

import rerun as rr

from hierarchy.runtime.tracking.figures import Pair, as_markdown, of_classes
from hierarchy.runtime.tracking.worker import TrackedRun


class Rerun:
    """Writes one file for each process of the run; the viewer shows those of one run as one recording."""

    def __init__(self, run: TrackedRun) -> None:
        folder = run.folder / "rerun"
        folder.mkdir(exist_ok=True)
        self._recording = rr.RecordingStream("reflexarc", recording_id=run.id)
        self._recording.save(folder / time.strftime(f"{run.name}-%Y%m%d-%H%M%S.rrd"))
        if run.settings:
            settings = "\n".join(f"- {name}: {value}" for name, value in run.settings.items())
            self._log("settings", rr.TextDocument(settings, media_type=rr.MediaType.MARKDOWN), static=True)

    def scalars(self, prefix: str, step: int, values: Mapping[str, float]) -> None:
        self._at(step)
        for name, value in values.items():
            self._log(f"{prefix}{name}", rr.Scalars(value))

    def test(self, prefix: str, end: str, step: int, by_class: Mapping[str, float], confusion: list[Pair]) -> None:
        self.scalars(prefix, step, of_classes(end, by_class))
        table = as_markdown(confusion)
        self._log(f"{prefix}{end}/confusion", rr.TextDocument(table, media_type=rr.MediaType.MARKDOWN))

    def picture(self, jpeg: bytes, caption: str) -> None:
        self._recording.reset_time()
        self._recording.set_time("time", timestamp=time.time())
        self._log("camera", rr.EncodedImage(contents=jpeg, media_type="image/jpeg"))
        self._log("camera/seen", rr.TextLog(caption))

    def close(self) -> None:
        self._recording.flush()
        self._recording.disconnect()

    def _at(self, step: int) -> None:
        self._recording.set_time("images", sequence=step)
        self._recording.set_time("time", timestamp=time.time())

    def _log(self, path: str, what: rr.AsComponents, *, static: bool = False) -> None:
        parts = [rr.escape_entity_path_part(part) for part in path.split("/")]
        self._recording.log("/".join(parts), what, static=static)


def open_tracker(run: TrackedRun) -> Rerun:
    return Rerun(run)
