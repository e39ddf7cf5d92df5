"""A live ROS 2 topic of pictures, with what another topic says that they show."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from broker.errors import MalformedMessage
from robot_edge.sources.encoded import UNREADABLE
from robot_edge.sources.frames import Header
from robot_edge.sources.live import CameraLost, LiveSource, Picture, UnreadablePicture
from robot_edge.sources.ros2.node import GraphUnreachable, Node, find_nodes
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
from robot_edge.sources.settings import SourceOptions

# For a topic to be discovered, and for the next picture on it.
DISCOVERY_SECONDS, READ_SECONDS = 5.0, 2.0
SPIN_SECONDS = 0.1
LABEL_TOPIC = "/label"
# As for bags: a name holds until another comes, a box for pictures of the next second.
DETECTION_SECONDS = 1.0


class Label(NamedTuple):
    """What pictures show from a time on, and in which part of them."""

    name: str | None = None
    box: Box | None = None
    since: float = 0.0


def open_topic(topic: str, options: SourceOptions) -> LiveSource:
    """Open a topic of pictures; it need not be there yet. Raises SourceError where nothing speaks ROS 2."""
    connect = partial(RosCamera, find_nodes(), topic, options.label_topic or LABEL_TOPIC)
    return LiveSource(f"ros2:{topic}", connect)


class RosCamera:
    """A node of its own with a subscription to pictures, and to labels where there are any."""

    def __init__(self, nodes: Callable[[str], Node], topic: str, label_topic: str) -> None:
        self._pictures: deque[tuple[Any, Label]] = deque()
        self._label = Label()
        try:
            self._node = nodes("reflexarc")
        except GraphUnreachable as error:
            raise CameraLost(str(error)) from error
        try:
            self._kind = self._discover(topic)
            self._node.subscribe(topic, self._kind, self._seen)
            labels = self._node.topics().get(label_topic, [])
            if STRING in labels:
                self._node.subscribe(label_topic, STRING, self._named)
            elif DETECTIONS in labels:
                self._node.subscribe(label_topic, DETECTIONS, self._detected)
        except BaseException:
            self.close()
            raise

    def read(self) -> Picture:
        """Return the next picture with its label. Raises CameraLost, and UnreadablePicture."""
        deadline = time.monotonic() + READ_SECONDS
        while not self._pictures:
            if time.monotonic() > deadline:
                raise CameraLost(f"no picture came within {READ_SECONDS:g} s")
            try:
                self._node.spin(SPIN_SECONDS)
            except GraphUnreachable as error:
                raise CameraLost(str(error)) from error
        try:
            return self._decode(*self._pictures.popleft())
        except UNREADABLE as error:
            raise UnreadablePicture(str(error), like_all=isinstance(error, UnknownEncoding)) from error

    def close(self) -> None:
        self._node.close()

    def _seen(self, message: Any) -> None:
        self._pictures.append((message, self._label))

    def _decode(self, message: Any, label: Label) -> Picture:
        if isinstance(message, ValueError):
            raise message
        header = Header(stamp_of(message), str(message.header.frame_id))
        image = decode_image(message) if self._kind == IMAGE else decode_compressed(message)
        if label.box is None:
            return Picture(image, label.name, header)
        if time.monotonic() - label.since > DETECTION_SECONDS:
            return Picture(image, None, header)
        return Picture(crop(image, label.box), label.name, header)

    def _named(self, message: Any) -> None:
        self._label = Label()
        with suppress(MalformedMessage, AttributeError):  # what could not be read has no fields
            self._label = Label(decode_string(message))

    def _detected(self, message: Any) -> None:
        self._label = Label(since=time.monotonic())
        with suppress(MalformedMessage, AttributeError):
            name, box = best_detection(message) or (None, None)
            self._label = Label(name, box, time.monotonic())

    def _discover(self, topic: str) -> str:
        """Return the type of the topic. Raises CameraLost."""
        deadline = time.monotonic() + DISCOVERY_SECONDS
        while time.monotonic() < deadline:
            kinds = self._node.topics().get(topic, [])
            if kind := next((kind for kind in kinds if kind in (IMAGE, COMPRESSED_IMAGE)), None):
                return kind
            self._node.spin(SPIN_SECONDS)
        there = ", ".join(f"{name} ({', '.join(kinds)})" for name, kinds in sorted(self._node.topics().items())[:50])
        raise CameraLost(f"nobody publishes pictures on it; topics: {there or 'none'}")
