"""A live ROS 2 topic, read through rclpy, which comes with a ROS 2 installation and not from PyPI."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from broker.errors import MalformedMessage, SourceError
from robot_edge.sources.frames import Header
from robot_edge.sources.live import CameraLost, LiveSource, Picture
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
MESSAGES = (
    "ros2: needs a sourced ROS 2: source /opt/ros/DISTRO/setup.bash, and a Python of the version it was built for"
)


def open_topic(topic: str, options: SourceOptions) -> LiveSource:
    """Open a topic of pictures; it need not be there yet. Raises SourceError where there is no ROS 2."""
    try:
        import rclpy  # noqa: F401
    except ImportError as error:
        raise SourceError(f"{MESSAGES} ({error})") from None
    return LiveSource(f"ros2:{topic}", partial(RosCamera, topic, options.label_topic or LABEL_TOPIC))


class RosCamera:
    """A node of its own with a subscription to pictures, and to labels where there are any."""

    def __init__(self, topic: str, label_topic: str) -> None:
        import rclpy
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor

        self._context = Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("reflexarc", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._pictures: list[Any] = []
        self._label: tuple[str | None, Box | None, float] = (None, None, 0.0)
        self._topic = topic
        try:
            self._kind = self._discover(topic)
            self._subscribe(topic, self._kind, self._pictures.append)
            labels = self._types().get(label_topic, [])
            if STRING in labels:
                self._subscribe(label_topic, STRING, self._named)
            elif DETECTIONS in labels:
                self._subscribe(label_topic, DETECTIONS, self._detected)
        except BaseException:
            self.close()
            raise

    def read(self) -> Picture:
        """Return the next picture with its label. Raises CameraLost, and SourceError for an unknown encoding."""
        deadline, broken = time.monotonic() + READ_SECONDS, ""
        while True:
            while not self._pictures:
                if time.monotonic() > deadline:
                    raise CameraLost(broken or f"no picture came within {READ_SECONDS:g} s")
                self._executor.spin_once(timeout_sec=SPIN_SECONDS)
            message = self._pictures.pop(0)
            try:
                return self._decode(message)
            except UnknownEncoding as error:
                raise SourceError(f"ros2:{self._topic}: {error}") from error
            except (OSError, SyntaxError, ValueError) as error:
                broken = f"its pictures cannot be read: {error}"  # the next one may be whole
                if time.monotonic() > deadline:
                    raise CameraLost(broken) from error

    def close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def _decode(self, message: Any) -> Picture:
        header = Header(stamp_of(message), str(message.header.frame_id))
        image = decode_image(message) if self._kind == IMAGE else decode_compressed(message)
        name, box, since = self._label
        if box is None:
            return Picture(image, name, header)
        if time.monotonic() - since > DETECTION_SECONDS:
            return Picture(image, None, header)
        return Picture(crop(image, box), name, header)

    def _named(self, message: Any) -> None:
        try:
            self._label = (decode_string(message), None, time.monotonic())
        except MalformedMessage:
            self._label = (None, None, 0.0)

    def _detected(self, message: Any) -> None:
        try:
            name, box = best_detection(message) or (None, None)
        except MalformedMessage:
            name, box = None, None
        self._label = (name, box, time.monotonic())

    def _types(self) -> dict[str, list[str]]:
        return dict(self._node.get_topic_names_and_types())

    def _discover(self, topic: str) -> str:
        """Return the type of the topic. Raises CameraLost."""
        deadline = time.monotonic() + DISCOVERY_SECONDS
        while time.monotonic() < deadline:
            kinds = self._types().get(topic, [])
            if kind := next((kind for kind in kinds if kind in (IMAGE, COMPRESSED_IMAGE)), None):
                return kind
            self._executor.spin_once(timeout_sec=SPIN_SECONDS)
        there = ", ".join(sorted(self._types())[:50])
        raise CameraLost(f"nobody publishes pictures on it; topics: {there}")

    def _subscribe(self, topic: str, kind: str, receive: Any) -> None:
        from rclpy.qos import qos_profile_sensor_data
        from rosidl_runtime_py.utilities import get_message

        # Cameras publish best-effort, which only this profile receives; labels may be either.
        quality = qos_profile_sensor_data if kind in (IMAGE, COMPRESSED_IMAGE) else 10
        self._node.create_subscription(get_message(kind), topic, receive, quality)
