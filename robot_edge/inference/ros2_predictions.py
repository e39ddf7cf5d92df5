"""What a robot sees, told to its own ROS 2 stack: vision_msgs/Classification, for robots that see a ROS 2 topic."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from robot_edge.inference.cascade import Decision
from robot_edge.sources.bag import NANOSECONDS
from robot_edge.sources.frames import Frame

# A reader that is so many predictions behind misses the oldest ones.
QUEUE = 10

log = logging.getLogger("robot-edge")

Tell = Callable[[Decision, Frame], None]


@contextmanager
def publishing(source: str, topic: str) -> Iterator[Tell]:
    """Within this context publish what is told, where the source is a ROS 2 topic and vision_msgs are installed.

    Call what it gives from one thread.
    """
    if source.partition(":")[0] != "ros2":
        yield lambda decision, frame: None
        return
    try:
        from vision_msgs.msg import Classification, ObjectHypothesis
    except ImportError as error:
        log.warning(
            "predictions are not published to ROS 2, as vision_msgs/Classification is missing (%s): sudo apt-get "
            "install ros-DISTRO-vision-msgs, of ROS 2 Humble or later",
            error,
        )
        yield lambda decision, frame: None
        return
    import rclpy
    from rclpy.context import Context

    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node("reflexarc_predictions", context=context)
    try:
        publisher = node.create_publisher(Classification, topic, QUEUE)
        log.info("publishing predictions on the ROS 2 topic %s", topic)
        yield _Publishing(publisher, Classification, ObjectHypothesis)
    finally:
        node.destroy_node()
        context.try_shutdown()


class _Publishing:
    """Publishes each decision, with the header of the picture it is about, as vision_msgs ask for."""

    def __init__(self, publisher: Any, classification: Any, hypothesis: Any) -> None:
        self._publisher = publisher
        self._classification, self._hypothesis = classification, hypothesis
        self._last = float("-inf")
        self._frame: Frame | None = None  # that was told of last, and when it was taken
        self._frame_at = 0.0

    def __call__(self, decision: Decision, frame: Frame) -> None:
        # The cloud may be asked about a picture while the exit is sure of the next one: then it is no news.
        if decision.taken_at < self._last or frame.header is None:
            return
        self._last = decision.taken_at
        message = self._classification()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(self._stamp(decision, frame), NANOSECONDS)
        message.header.frame_id = frame.header.frame_id
        if decision.name:
            message.results = [self._hypothesis(class_id=decision.name, score=float(decision.confidence))]
        self._publisher.publish(message)

    def _stamp(self, decision: Decision, frame: Frame) -> int:
        """Return the time of what is decided about, in nanoseconds: the picture's, or later where none came since."""
        assert frame.header is not None
        if frame is not self._frame:
            self._frame, self._frame_at = frame, decision.taken_at
        return frame.header.stamp + round((decision.taken_at - self._frame_at) * NANOSECONDS)
