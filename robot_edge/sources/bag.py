"""Frames from a ROS bag: ROS 1, and ROS 2 as sqlite3 or mcap, read by rosbags; no ROS is needed."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker.codec import unpack_as
from broker.errors import MalformedMessage, SourceError
from broker.messages import ClassEdit
from robot_edge.frames import Frame, relabelled
from robot_edge.sources.kinds import check_is_bag
from robot_edge.sources.replay import Replay
from robot_edge.sources.ros_images import (
    COMPRESSED_IMAGE,
    DETECTIONS,
    IMAGE,
    STRING,
    Box,
    UnknownEncoding,
    best_detection,
    crop,
    decode_compressed,
    decode_image,
    decode_string,
    stamp_of,
)

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader

LABEL_TOPIC = "/label"
# Written by `robot-edge record`: which frames are near-duplicates, and in which lesson they were taught, std_msgs/Int64
# at every change; and what was changed about classes afterwards, in the bytes that a robot tells the cloud.
SCENE_TOPIC, LESSON_TOPIC, EDIT_TOPIC = "/scene", "/lesson", "/class_edit"
NUMBER, BYTES = "std_msgs/msg/Int64", "std_msgs/msg/UInt8MultiArray"
# A detection says where something was, so it holds for pictures of the next second at most; a name holds until another.
DETECTION_NANOSECONDS = 1_000_000_000
# Ten a second for a day.
MOST_LABELS = 1_000_000
NANOSECONDS = 1_000_000_000

log = logging.getLogger("robot-edge")


@dataclass(frozen=True, kw_only=True)
class Label:
    """What is shown from a time on, in nanoseconds: nothing that has a name, a name, or a name in a box."""

    time: int
    name: str | None
    box: Box | None = None


class BagSource(Replay):
    """Replays the pictures of one topic, with the label of the nearest earlier time.

    Names (std_msgs/String) are matched by when they were recorded, as they have no stamp, detections by their stamps.
    Frames of the same second share a scene, unless the bag says otherwise (SCENE_TOPIC). What was renamed, forgotten or
    taken back while a bag was recorded is so from the beginning.
    """

    def __init__(self, path: Path, *, image_topic: str = "", label_topic: str = "") -> None:
        """Open the bag and read its labels. Raises SourceError, which lists the topics where one is missing."""
        self._path = path
        self.position = 0
        self.skipped = 0
        self._reader = _open(path)
        try:
            self._images = self._connections(image_topic, "--image-topic", (IMAGE, COMPRESSED_IMAGE))
            self._labels: list[Label] = []
            self._by_stamp = False
            if label_topic or LABEL_TOPIC in self._topics():
                self._read_labels(label_topic or LABEL_TOPIC)
            self._scenes = [(time, int(message.data)) for time, message in self._recorded(SCENE_TOPIC, NUMBER)]
            self._lessons = [(time, int(message.data)) for time, message in self._recorded(LESSON_TOPIC, NUMBER)]
            self._edits = [(time, self._edit(message)) for time, message in self._recorded(EDIT_TOPIC, BYTES)]
        except BaseException:
            self._reader.close()
            raise
        self._label_times = [label.time for label in self._labels]
        self._scene_times = [time for time, _ in self._scenes]
        self._lesson_times = [time for time, _ in self._lessons]
        self._edit_times = [time for time, _ in self._edits]
        self.length: int = sum(connection.msgcount for connection in self._images)
        self._frames = self._raw(self._images)

    @property
    def ended(self) -> bool:
        """Whether the last picture was shown."""
        return self.position >= self.length

    def next(self, timeout: float | None = None) -> Frame | None:
        """Return the next picture that can be decoded; None at the end. Raises SourceError for an unknown encoding."""
        while not self.ended:
            raw = next(self._frames, None)
            if raw is None:  # a bag that was cut off has fewer than it says
                self.skipped += self.length - self.position
                self.position = self.length
                break
            self.position += 1
            connection, recorded, data = raw
            try:
                return self._frame(connection.msgtype, recorded, self._decode(connection, data))
            except UnknownEncoding as error:
                raise SourceError(f"bag {self._path}, topic {connection.topic}: {error}") from error
            except (OSError, SyntaxError, ValueError) as error:
                self.skipped += 1
                if self.skipped == 1:
                    log.warning("bag %s: skipping a picture: %s", self._path, error)
        return None

    def seek(self, position: int) -> None:
        """Go on behind so many pictures, without decoding them."""
        while self.position < min(position, self.length) and next(self._frames, None) is not None:
            self.position += 1

    def close(self) -> None:
        """Close the bag."""
        self._frames.close()
        self._reader.close()

    def _frame(self, kind: str, recorded: int, message: Any) -> Frame:
        image = decode_image(message) if kind == IMAGE else decode_compressed(message)
        stamp = stamp_of(message) or recorded
        label = _at(self._labels, self._label_times, stamp if self._by_stamp else recorded)
        name = label.name if label else None
        if label is not None and label.box is not None:
            if stamp - label.time > DETECTION_NANOSECONDS:
                name = None
            else:
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
        connections = self._connections(topic, "--label-topic", (STRING, DETECTIONS))
        if sum(connection.msgcount for connection in connections) > MOST_LABELS:
            raise SourceError(f"bag {self._path}: more than {MOST_LABELS:,} labels on {topic}")
        self._by_stamp = connections[0].msgtype == DETECTIONS
        self._labels = [self._label(recorded, message, topic) for recorded, message in self._messages(connections)]
        self._labels.sort(key=lambda label: label.time)

    def _label(self, recorded: int, message: Any, topic: str) -> Label:
        try:
            if not self._by_stamp:
                return Label(time=recorded, name=decode_string(message))
            name, box = best_detection(message) or (None, None)
            return Label(time=stamp_of(message) or recorded, name=name, box=box)
        except MalformedMessage as error:
            raise SourceError(f"bag {self._path}, topic {topic}: {error}") from error

    def _recorded(self, topic: str, kind: str) -> list[tuple[int, Any]]:
        """Return (when it was recorded, message) of all that `robot-edge record` wrote on a topic."""
        if self._topics().get(topic) != kind:
            return []
        connections = self._connections(topic, "", (kind,))
        if sum(connection.msgcount for connection in connections) > MOST_LABELS:
            raise SourceError(f"bag {self._path}: more than {MOST_LABELS:,} messages on {topic}")
        return list(self._messages(connections))

    def _edit(self, message: Any) -> ClassEdit:
        try:
            return unpack_as(ClassEdit, bytes(message.data))
        except MalformedMessage as error:
            raise SourceError(f"bag {self._path}, topic {EDIT_TOPIC}: {error}") from error

    def _topics(self) -> dict[str, str]:
        return {connection.topic: connection.msgtype for connection in self._reader.connections}

    def _connections(self, topic: str, flag: str, kinds: tuple[str, ...]) -> list[Any]:
        """Return the connections of a topic of such a type; of the only one where the name is empty."""
        topics = self._topics()
        fitting = sorted(name for name, kind in topics.items() if kind in kinds)
        if topic in fitting:
            fitting = [topic]
        elif topic or len(fitting) != 1:
            there = "; ".join(f"{name} ({kind})" for name, kind in sorted(topics.items())[:100]) or "none"
            what = f"no topic {topic} of type" if topic else f"{len(fitting) or 'no'} topics of type"
            raise SourceError(f"bag {self._path} has {what} {' or '.join(kinds)}: set {flag}; its topics: {there}")
        return [connection for connection in self._reader.connections if connection.topic == fitting[0]]

    def _messages(self, connections: list[Any]) -> Iterator[tuple[int, Any]]:
        """Yield (when it was recorded, in nanoseconds; message)."""
        try:
            for connection, recorded, data in self._raw(connections):
                yield recorded, self._decode(connection, data)
        except ValueError as error:
            raise SourceError(f"bag {self._path}: {error}") from error

    def _raw(self, connections: list[Any]) -> Any:
        """Yield (connection, nanoseconds, bytes), as far as the bag can be read."""
        try:
            yield from self._reader.messages(connections)
        except Exception as error:
            log.warning("bag %s: the rest cannot be read: %s: %s", self._path, type(error).__name__, error)

    def _decode(self, connection: Any, data: bytes) -> Any:
        """Return the message. Raises ValueError."""
        try:
            return self._reader.deserialize(data, connection.msgtype)
        except Exception as error:  # as above
            raise ValueError(f"no {connection.msgtype}: {error}") from error


def _at(entries: list[Any], times: list[int], time: int) -> Any:
    """Return the last entry that is not later; None where all are."""
    place = bisect_right(times, time)
    return entries[place - 1] if place else None


def _open(path: Path) -> AnyReader:
    """Open a bag. Raises SourceError."""
    try:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore
    except ImportError:
        raise SourceError("bag: needs rosbags: pip install 'reflexarc[bag]'") from None
    check_is_bag(path)
    try:
        # Old ROS 2 bags do not say what their types look like; those of Humble have not changed since Foxy.
        reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
        reader.open()
    except Exception as error:
        raise SourceError(
            f"bag {path} cannot be read: {type(error).__name__}: {error}; expected a .bag, .mcap or .db3 file or the "
            "folder of a ROS 2 bag, whose recording was ended"
        ) from error
    return reader
