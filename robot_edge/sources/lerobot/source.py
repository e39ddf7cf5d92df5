"""Frames from a LeRobot data set, episode after episode, in the order in which they were recorded."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Generator, Iterator
from itertools import accumulate, repeat
from pathlib import Path

import numpy as np

from broker.errors import SourceError
from broker.program.paths import shown
from hierarchy.runtime.command_line import SparseLog
from robot_edge.sources.encoded import UNREADABLE, decode
from robot_edge.sources.frames import Frame, Pixels
from robot_edge.sources.lerobot.episode_labels import read_episode_labels
from robot_edge.sources.lerobot.film import Film, UnreadableFilm
from robot_edge.sources.lerobot.labels import TASK, Labels, choices, labels_of
from robot_edge.sources.lerobot.meta import Episode, Feature, read_meta
from robot_edge.sources.lerobot.parquet import UnreadableParquet
from robot_edge.sources.lerobot.rows import Rows
from robot_edge.sources.replay import Replay

# What `robot-edge record` writes beside pictures and tasks: which frames are near-duplicates, in which lesson they were
# taught, and when they were taken, in seconds.
SCENE, LESSON, TIME = "scene", "lesson", "time"
OWN = {SCENE: Feature("int64", [1]), LESSON: Feature("int64", [1]), TIME: Feature("float64", [1])}
# Frames whose distance differs by more than this share from what the set says are said to be of another rate.
OTHER_RATE = 0.1

log = logging.getLogger("robot-edge")


class LeRobotSource(Replay):
    """Replays one camera of a set. An episode is a scene, unless `robot-edge record` wrote other ones.

    Opening reads meta/ alone. Rows and films are opened when their first frame is due. A frame whose row, film or
    picture is missing or damaged is skipped and counted; all others are shown.
    """

    def __init__(
        self, path: Path, *, camera: str = "", label_field: str | None = "", labels: Path | None = None
    ) -> None:
        """Read meta/. Raises SourceError.

        camera: one of several. label_field: TASK (or empty), SUBTASK or a feature; None for no labels. labels: a CSV
        file of what each episode shows, in place of that.
        """
        self._path = path
        self._where = f"lerobot {shown(path)}"
        self._meta = read_meta(path, camera)
        self._by_episode = read_episode_labels(labels) if labels and label_field is not None else {}
        self._labels: Labels | None = None
        if self._by_episode:
            self._check_episode_labels(labels)
        elif label_field is not None:
            self._labels = labels_of(path, self._meta.info, label_field or TASK)
            if not label_field and len(self._labels.classes) == 1:
                task = next(iter(self._labels.classes))
                log.warning("%s: all frames are of the task %r. %s", self._where, task, choices(self._meta.info))
        features = self._meta.info.features
        self._own = tuple(OWN) if all(features.get(name) == feature for name, feature in OWN.items()) else ()
        self.left_out = self._meta.left_out
        for lacking in self.left_out:
            log.warning("%s: left out: %d %s: %s", self._where, lacking.count, lacking.kind, lacking.example)
        self._begins = [0, *accumulate(episode.length for episode in self._meta.episodes)]
        self.length: int = self._begins[-1]
        self.position = self.skipped = 0
        self._seen = False
        self._why_skipped = ""
        self._skips = SparseLog(log)
        self._broken = dict[str, UnreadableParquet | UnreadableFilm]()
        self._rows: Rows | None = None
        self._film: Film | None = None
        self._frames = self._from(0)

    @property
    def unlabelled(self) -> str:
        is_known = self._labels and self._labels.name_of and self._labels.column.endswith("_index")
        if self._by_episode or not is_known or self.classes:
            return ""
        return f"nothing says what {self._where} shows: its tasks have no text. {choices(self._meta.info)}"

    @property
    def classes(self) -> frozenset[str]:
        return frozenset(self._by_episode.values()) or (self._labels.classes if self._labels else frozenset())

    @property
    def ended(self) -> bool:
        return self.position >= self.length

    def next(self, timeout: float | None = None) -> Frame | None:
        """Return the next frame that can be read; None at the end. Raises SourceError where there is not one."""
        while not self.ended:
            frame = next(self._frames)
            self.position += 1
            if frame is not None:
                self._seen = True
                return frame
            self.skipped += 1
        if self.skipped == self.length and not self._seen:
            raise SourceError(f"{self._where}: none of its {self.length:,} frames can be read: {self._why_skipped}")
        return None

    def seek(self, position: int) -> None:
        """Go on behind so many frames, without reading them."""
        self.position = min(position, self.length)
        self._frames = self._from(self.position)

    def close(self) -> None:
        self._frames.close()
        for one in (self._rows, self._film):
            if one:
                one.close()

    def _check_episode_labels(self, labels: Path | None) -> None:
        there = {episode.number for episode in self._meta.episodes}
        if not there & self._by_episode.keys():
            raise SourceError(
                f"--labels {labels}: {self._where} has {len(there):,} episodes, {min(there)} to {max(there)}, and none "
                f"of those with a label: {min(self._by_episode)} to {max(self._by_episode)}"
            )

    def _from(self, place: int) -> Generator[Frame | None, None, None]:
        """Yield all frames from a place on, None for one that is skipped."""
        first = bisect_right(self._begins, place) - 1
        for episode, begin in zip(self._meta.episodes[first:], self._begins[first:], strict=False):
            number = max(0, place - begin)
            try:
                for frame in self._read(episode, begin, number):
                    yield frame
                    number += 1
            except (UnreadableParquet, UnreadableFilm) as error:
                self._skip(str(error))
            yield from repeat(None, episode.length - number)

    def _read(self, episode: Episode, begin: int, first: int) -> Iterator[Frame | None]:
        """Yield an episode's frames from a number on, as far as it has any."""
        rows = self._opened_rows(episode.rows)
        whole = rows.of(episode.number)
        shown = whole[first : episode.length]
        pictures = self._filmed(episode, rows, shown) if self._meta.is_filmed else self._stored(rows, shown)
        label, start = self._by_episode.get(episode.number), begin / self._meta.info.fps
        for row, image in zip(shown, pictures, strict=False):
            if image is None:
                yield None
                continue
            name = label if self._labels is None else rows.label(row)
            scene, lesson, time = (
                (int(rows.more[SCENE][row]), int(rows.more[LESSON][row]), float(rows.more[TIME][row]))
                if self._own
                else (episode.number, 0, start + float(rows.times[row]))
            )
            yield Frame(image=image, label=name, scene=scene, time=time, session=lesson if name is not None else 0)
        if len(whole) < episode.length:
            self._skip(f"{rows.path} has {len(whole)} of the {episode.length} frames of episode {episode.number}")

    def _stored(self, rows: Rows, shown: range) -> Iterator[Pixels | None]:
        """Yield pictures that stand in the rows."""
        for row, encoded in zip(shown, rows.pictures(self._meta.camera, shown.start), strict=False):
            yield self._decoded(encoded or b"", f"{rows.path}, row {row}")

    def _decoded(self, encoded: bytes, where: str) -> Pixels | None:
        try:
            return decode(encoded)
        except UNREADABLE as error:
            self._skip(f"{where}: {error}")
            return None

    def _filmed(self, episode: Episode, rows: Rows, shown: range) -> Iterator[Pixels | None]:
        """Yield pictures of a film."""
        if not episode.film:
            raise UnreadableFilm(f"meta/ names no film for episode {episode.number}: was it encoded?")
        film = self._opened_film(episode.film)
        nominal = 1 / self._meta.info.fps
        distances = np.diff(rows.times[shown.start : shown.stop])
        distance = float(np.median(distances)) if len(distances) else nominal
        self._check_rate(1 / distance if distance > 0 else 0, f"frames of episode {episode.number} have their times")
        tolerance = min(nominal, distance if distance > 0 else nominal) / 2
        for row in shown:
            second = episode.begin + float(rows.times[row])
            image = film.at(second, tolerance)
            if image is None:
                self._skip(f"{film.path} has no picture at {second:.3f} s that can be decoded")
            yield image

    def _opened_rows(self, place: str) -> Rows:
        path = self._path / place
        if self._rows is None or self._rows.path != path:
            if self._rows:
                self._rows.close()
                self._rows = None
            self._refuse_broken(place)
            try:
                self._rows = Rows(path, self._labels, self._own)
            except UnreadableParquet as error:
                self._broken[place] = error
                raise
            if self._labels and self._rows.named and self._rows.named.bad:
                what = f"{self._rows.named.bad:,} rows have a {self._labels.column} that names no class"
                self._skips.warn(f"{path}: {what}, and so no label")
        return self._rows

    def _opened_film(self, place: str) -> Film:
        path = self._path / place
        if self._film is None or self._film.path != path:
            if self._film:
                self._film.close()
                self._film = None
            self._refuse_broken(place)
            try:
                self._film = Film(path)
            except UnreadableFilm as error:
                self._broken[place] = error
                raise
            self._check_rate(self._film.fps, f"{path} has its pictures")
        return self._film

    def _refuse_broken(self, place: str) -> None:
        if place in self._broken:
            raise self._broken[place]

    def _check_rate(self, rate: float, what: str) -> None:
        said = self._meta.info.fps
        if rate and abs(rate / said - 1) > OTHER_RATE:
            self._skips.warn(f"{self._where}: {what} {rate:.3g} times a second, and meta/info.json says {said:g}")

    def _skip(self, why: str) -> None:
        self._why_skipped = self._why_skipped or why
        self._skips.warn(f"{self._where}: skipping: {why}")
