"""A node through rclpy, which comes with a ROS 2 installation and not from PyPI."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from robot_edge.sources.ros_images import COMPRESSED_IMAGE, IMAGE

# Messages that wait for a reader, or for one of ours: rclpy's usual number.
QUEUE = 10


class RclpyNode:
    """A Node with a context of its own, so that it shares nothing with the caller's nodes."""

    def __init__(self, name: str) -> None:
        import rclpy
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor

        self._context = Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node(name, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)

    def topics(self) -> dict[str, list[str]]:
        return dict(self._node.get_topic_names_and_types())

    def subscribe(self, topic: str, kind: str, receive: Callable[[Any], None]) -> None:
        from rclpy.qos import qos_profile_sensor_data

        # Cameras publish best-effort, which only this profile receives; labels are few, and each counts.
        quality = qos_profile_sensor_data if kind in (IMAGE, COMPRESSED_IMAGE) else QUEUE
        self._node.create_subscription(_type(kind), topic, receive, quality)

    def publisher(self, topic: str, kind: str) -> Callable[[Any], None]:
        publish: Callable[[Any], None] = self._node.create_publisher(_type(kind), topic, QUEUE).publish
        return publish

    def make(self, kind: str, **fields: Any) -> Any:
        return _type(kind)(**fields)

    def spin(self, seconds: float) -> None:
        self._executor.spin_once(timeout_sec=seconds)

    def close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()


def _type(kind: str) -> Any:
    """Return the class of a type's messages. Raises ImportError, also where the package is too old to have it."""
    package, _, name = kind.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except AttributeError as error:
        raise ImportError(str(error)) from error
