"""What is needed of a node in a graph of ROS 2, and which library gives it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from broker.errors import SourceError

log = logging.getLogger("robot-edge")


class GraphUnreachable(Exception):
    """There is no way into the graph now, for the reason in the message; trying again may help."""


class Node(Protocol):
    """A node, for one thread. A topic's type is named as in `sensor_msgs/msg/Image`."""

    def topics(self) -> dict[str, list[str]]:
        """Return the types of each topic that is known by now."""

    def subscribe(self, topic: str, kind: str, receive: Callable[[Any], None]) -> None:
        """Have ``spin`` give each message, or the ValueError with which it could not be read, to ``receive``."""

    def publisher(self, topic: str, kind: str) -> Callable[[Any], None]:
        """Return what publishes a message, or raises GraphUnreachable. Raises ImportError where the type is missing."""

    def make(self, kind: str, **fields: Any) -> Any:
        """Return a message of a type. Raises ImportError where the type is missing."""

    def spin(self, seconds: float) -> None:
        """Wait for messages, at most so long, and hand out those that came."""

    def close(self) -> None:
        """Leave the graph."""


def find_nodes() -> Callable[[str], Node]:
    """Return what makes a node of a name, or raises GraphUnreachable. Raises SourceError where no library does."""
    try:
        import rclpy  # noqa: F401
    except ImportError as error:
        without = error
    else:
        from robot_edge.sources.ros2.rclpy_node import RclpyNode

        return RclpyNode
    try:
        from robot_edge.sources.ros2.dds_node import DdsNode
    except ImportError as error:
        raise SourceError(
            "ros2: needs pip install 'reflexarc[ros2]', which speaks DDS, or a sourced ROS 2: source "
            f"/opt/ros/DISTRO/setup.bash, with a Python of the version it was built for ({error}; {without})"
        ) from None
    log.debug("ros2: over DDS, as there is no rclpy: %s", without)
    return DdsNode
