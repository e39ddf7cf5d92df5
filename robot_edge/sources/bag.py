"""Frames from a ROS bag: ROS 1, and ROS 2 as sqlite3 or mcap, read by rosbags; no ROS is needed."""

from __future__ import annotations

import contextlib
import logging
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from broker.errors import MalformedMessage, SourceError
from broker.wire.codec import unpack_as
from broker.wire.messages import ClassEdit
from robot_edge.sources.bag_file import open_bag
from robot_edge.sources.bag_labels import DETECTION_NANOSECONDS, BagLabels
from robot_edge.sources.encoded import UNREADABLE
from robot_edge.sources.frames import Frame, Pixels, relabelled
from robot_edge.sources.message_video import CODECS, MessageVideo
from robot_edge.sources.replay import Replay
from robot_edge.sources.ros_images import (
    DETECTIONS,
    PICTURE_TYPES,
    RAW_TYPES,
    STRING,
    VIDEO,
    UnknownEncoding,
    crop,
    decode_compressed,
    decode_image,
    stamp_of,
)

LABEL_TOPIC = "/label"
# Written by `robot-edge record`: which frames are near-duplicates, and in which lesson they were taught, std_msgs/Int64
# at every change; and what was changed about classes afterwards, in the bytes that a robot tells the cloud.
SCENE_TOPIC, LESSON_TOPIC, EDIT_TOPIC = "/scene", "/lesson", "/class_edit"
NUMBER, BYTES = "std_msgs/msg/Int64", "std_msgs/msg/UInt8MultiArray"
LABELS = (STRING, DETECTIONS)
# How far the stamps of pictures and detections may lie apart before they are said to be of two clocks.
CLOCK_NANOSECONDS = 60_000_000_000
# Ten a second for a day.
MAX_LABELS = 1_000_000
NANOSECONDS = 1_000_000_000

log = logging.getLogger("robot-edge")


class BagSource(Replay):
    """Replays the pictures of one topic, with the label of the nearest earlier time.

    Names (std_msgs/String) are matched by when they were recorded, as they have no stamp, detections by their stamps.
    Frames of the same second share a scene, unless the bag says otherwise (SCENE_TOPIC). What was renamed, forgotten or
    taken back while a bag was recorded is so from the beginning.
    """

    def __init__(self, path: Path, image_topic: str = "", label_topic: str | None = "") -> None:
        """Open the bag and read its labels. Raises SourceError, which lists the topics where one is missing.

        image_topic: empty for the only one. label_topic: empty for LABEL_TOPIC, if that has labels; None to read none.
        """
        self._path = path
        self.position = 0
        self.skipped = 0
        self._seen = False
        self._why_skipped = ""
        self._labels = BagLabels()
        self._unlabelled = ""
        self._video: MessageVideo | None = None
        self._reader = open_bag(path)
        try:
            self._images = self._connections(image_topic, "--image-topic", PICTURE_TYPES)
            self.length: int = sum(connection.msgcount for connection in self._images)
            if not self.length:
                raise SourceError(f"bag {path} has no picture on {self._images[0].topic}: its topics: {self._there()}")
            self._check_encoding()
            if label_topic is not None:
                self._read_labels(label_topic)
            is_ours = self._topics().get(SCENE_TOPIC) == self._topics().get(LESSON_TOPIC) == NUMBER
            scenes, lessons = (SCENE_TOPIC, LESSON_TOPIC) if is_ours else ("", "")
            self._scenes = [(time, int(message.data)) for time, message in self._recorded(scenes, NUMBER)]
            self._lessons = [(time, int(message.data)) for time, message in self._recorded(lessons, NUMBER)]
            self._edits = [(time, self._edit(message)) for time, message in self._recorded(EDIT_TOPIC, BYTES)]
        except BaseException:
            self._reader.close()
            raise
        self._scene_times = [time for time, _ in self._scenes]
        self._lesson_times = [time for time, _ in self._lessons]
        self._edit_times = [time for time, _ in self._edits]
        self._frames = self._raw(self._images)

    @property
    def unlabelled(self) -> str:
        """Why no picture has a label, as far as that is known without reading them all."""
        return self._unlabelled

    @property
    def classes(self) -> frozenset[str]:
        return self._labels.names | {edit.to for _, edit in self._edits if edit.to}

    @property
    def ended(self) -> bool:
        return self.position >= self.length

    def next(self, timeout: float | None = None) -> Frame | None:
        """Return the next picture that can be decoded; None at the end.

        Raises SourceError for an unknown encoding, and where not one picture could be decoded.
        """
        while not self.ended:
            raw = next(self._frames, None)
            if raw is None:  # a bag that was cut off has fewer than it says
                self.skipped += self.length - self.position
                self.position = self.length
                break
            self.position += 1
            connection, recorded, data = raw
            try:
                frame = self._frame(connection.msgtype, recorded, self._decode(connection, data))
            except UnknownEncoding as error:
                raise SourceError(f"bag {self._path}, topic {connection.topic}: {error}") from error
            except UNREADABLE as error:
                self._skip(error)
            else:
                self._seen = True
                return frame
        if self.skipped == self.length and not self._seen:
            where = f"bag {self._path}, topic {self._images[0].topic}"
            reason = self._why_skipped or "the bag was cut off"
            raise SourceError(f"{where}: none of its {self.length:,} pictures can be read: {reason}")
        return None

    def _check_encoding(self) -> None:
        """Raise SourceError where the first picture is of an unknown encoding: so are the others."""
        for connection, _, data in self._raw(self._images):
            try:
                self._picture(connection.msgtype, self._decode(connection, data))
            except UnknownEncoding as error:
                raise SourceError(f"bag {self._path}, topic {connection.topic}: {error}") from error
            except UNREADABLE:
                pass  # it is skipped when it is shown
            self._video = None  # which begins anew
            return

    def _skip(self, error: Exception) -> None:
        self.skipped += 1
        if self.skipped == 1:
            self._why_skipped = str(error)
            log.warning("bag %s: skipping a picture: %s", self._path, error)

    def seek(self, position: int) -> None:
        """Go on behind so many pictures, without decoding them; those of a video, which need each other, are."""
        while self.position < min(position, self.length) and (raw := next(self._frames, None)) is not None:
            self.position += 1
            if raw[0].msgtype == VIDEO:
                with contextlib.suppress(*UNREADABLE):
                    self._picture(VIDEO, self._decode(raw[0], raw[2]))

    def close(self) -> None:
        self._frames.close()
        self._reader.close()

    def _picture(self, kind: str, message: Any) -> Pixels:
        if kind == VIDEO:
            return self._of_video(message)
        return decode_image(message) if kind in RAW_TYPES else decode_compressed(message)

    def _of_video(self, message: Any) -> Pixels:
        name = str(message.format).strip().lower()
        if name not in CODECS:
            raise UnknownEncoding(f"format {name[:60]!r}: a video is one of {', '.join(CODECS)}")
        if self._video is None or self._video.kind != name:
            self._video = MessageVideo(name)
        return self._video.picture(bytes(message.data))

    def _frame(self, kind: str, recorded: int, message: Any) -> Frame:
        image = self._picture(kind, message)
        stamp = stamp_of(message) or recorded
        label = self._labels.at(recorded=recorded, stamp=stamp)
        name = label.name if label else None
        if label is not None and label.box is not None:
            image = crop(image, label.box)
        seconds = stamp // NANOSECONDS
        scene = _at(self._scenes, self._scene_times, recorded)
        lesson = _at(self._lessons, self._lesson_times, recorded) if name is not None else None
        session = lesson[1] if lesson else 0
        for _, edit in self._edits[bisect_right(self._edit_times, recorded) :]:
            name = relabelled(name, session, edit)
        return Frame(
            image=image,
            label=name,
            scene=scene[1] if scene else seconds,
            time=seconds + stamp % NANOSECONDS / NANOSECONDS,
            session=session if name is not None else 0,
        )

    def _read_labels(self, topic: str) -> None:
        """Read the labels, and find out whether any picture has one. Raises SourceError for a topic of no labels."""
        kind = self._topics().get(topic or LABEL_TOPIC)
        if not topic and kind not in LABELS:  # somebody else's /label is no reason not to show the pictures
            what = (
                f"topic {LABEL_TOPIC} is {kind}, and labels are" if kind else f"it has no topic {LABEL_TOPIC} of type"
            )
            self._unlabelled = self._nothing_says(f"{what} {' or '.join(LABELS)}: name another with --label-topic")
            return
        topic = topic or LABEL_TOPIC
        connections = self._connections(topic, "--label-topic", LABELS)
        if sum(connection.msgcount for connection in connections) > MAX_LABELS:
            raise SourceError(f"bag {self._path}: more than {MAX_LABELS:,} labels on {topic}")
        self._labels = BagLabels(self._attempts(connections), by_stamp=connections[0].msgtype == DETECTIONS)
        if self._labels.bad:
            log.warning(
                "bag %s: %d of %d messages on %s are no labels, so from them on nothing has a label; the first: %s",
                *(self._path, self._labels.bad, self._labels.count, topic, self._labels.why_bad),
            )
        self._unlabelled = self._why_unlabelled(topic)

    def _why_unlabelled(self, topic: str) -> str:
        span = self._labels.span
        if not self._labels.count:
            return self._nothing_says(f"nothing was published on {topic}")
        if span is None:
            reason = self._labels.why_bad or "all are empty"
            return self._nothing_says(f"none of the {self._labels.count:,} messages on {topic} is a label: {reason}")
        if not self._labels.by_stamp:
            is_behind = next(self._raw(self._images, start=span[0]), None) is None
            return self._nothing_says(f"all labels on {topic} come behind the last picture") if is_behind else ""
        first, last = self._stamps()
        if span[1] + DETECTION_NANOSECONDS < first - CLOCK_NANOSECONDS or span[0] > last + CLOCK_NANOSECONDS:
            times = f"{span[0] / NANOSECONDS:.1f} to {span[1] / NANOSECONDS:.1f} s"
            there = f"{first / NANOSECONDS:.1f} to {last / NANOSECONDS:.1f} s"
            return self._nothing_says(f"stamps on {topic} are from {times}, and those of pictures from some {there}")
        return ""

    def _nothing_says(self, why: str) -> str:
        return f"nothing says what bag {self._path} shows: {why}; its topics: {self._there()}"

    def _stamps(self) -> tuple[int, int]:
        """Return from when to when pictures are, by the stamp of the first one that can be read, in nanoseconds."""
        length = self._reader.end_time - self._reader.start_time
        for connection, recorded, data in self._raw(self._images):
            with contextlib.suppress(ValueError):
                first = stamp_of(self._decode(connection, data)) or recorded
                return first, first + length
        return 0, length

    def _attempts(self, connections: list[Any]) -> Iterator[tuple[int, Any]]:
        """Yield (when it was recorded; message, or why it cannot be read)."""
        for connection, recorded, data in self._raw(connections):
            yield recorded, self._attempt(connection, data)

    def _attempt(self, connection: Any, data: bytes) -> Any:
        try:
            return self._decode(connection, data)
        except ValueError as error:
            return error

    def _recorded(self, topic: str, kind: str) -> list[tuple[int, Any]]:
        """Return (when it was recorded, message) of all that `robot-edge record` wrote on a topic."""
        if self._topics().get(topic) != kind:
            return []
        connections = self._connections(topic, "", (kind,))
        if sum(connection.msgcount for connection in connections) > MAX_LABELS:
            raise SourceError(f"bag {self._path}: more than {MAX_LABELS:,} messages on {topic}")
        return list(self._messages(connections))

    def _edit(self, message: Any) -> ClassEdit:
        try:
            return unpack_as(ClassEdit, bytes(message.data))
        except MalformedMessage as error:
            raise SourceError(f"bag {self._path}, topic {EDIT_TOPIC}: {error}") from error

    def _topics(self) -> dict[str, str]:
        return {connection.topic: connection.msgtype for connection in self._reader.connections}

    def _there(self) -> str:
        return "; ".join(f"{name} ({kind})" for name, kind in sorted(self._topics().items())[:100]) or "none"

    def _connections(self, topic: str, flag: str, kinds: tuple[str, ...]) -> list[Any]:
        """Return the connections of a topic of such a type; of the only one where the name is empty."""
        topics = self._topics()
        fitting = sorted(name for name, kind in topics.items() if kind in kinds)
        if topic in fitting:
            fitting = [topic]
        elif topic or len(fitting) != 1:
            what = f"no topic {topic} of type" if topic else f"{len(fitting) or 'no'} topics of type"
            advice = f": set {flag}" if fitting else ""
            raise SourceError(f"bag {self._path} has {what} {' or '.join(kinds)}{advice}; its topics: {self._there()}")
        return [connection for connection in self._reader.connections if connection.topic == fitting[0]]

    def _messages(self, connections: list[Any]) -> Iterator[tuple[int, Any]]:
        """Yield (when it was recorded, in nanoseconds; message)."""
        try:
            for connection, recorded, data in self._raw(connections):
                yield recorded, self._decode(connection, data)
        except ValueError as error:
            raise SourceError(f"bag {self._path}: {error}") from error

    def _raw(self, connections: list[Any], start: int | None = None) -> Any:
        """Yield (connection, nanoseconds, bytes) from a time of recording on, as far as the bag can be read."""
        try:
            yield from self._reader.messages(connections, start=start)
        except Exception as error:
            log.warning("bag %s: the rest cannot be read: %s: %s", self._path, type(error).__name__, error)

    def _decode(self, connection: Any, data: bytes) -> Any:
        """Return the message. Raises ValueError."""
        try:
            return self._reader.deserialize(data, connection.msgtype)
        except Exception as error:  # as above
            raise ValueError(f"no {connection.msgtype}: {error}") from error


def picture_topics(path: Path) -> list[str]:
    """Return the topics of a bag that have pictures. Raises SourceError."""
    with contextlib.closing(open_bag(path)) as reader:
        return sorted({one.topic for one in reader.connections if one.msgtype in PICTURE_TYPES})


def _at(entries: list[Any], times: list[int], time: int) -> Any:
    """Return the last entry that is not later; None where all are."""
    place = bisect_right(times, time)
    return entries[place - 1] if place else None
