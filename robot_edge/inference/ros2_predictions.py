"""What a robot sees, told to a ROS 2 stack: vision_msgs/Classification."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from broker.errors import SourceError
from robot_edge.inference.cascade import Decision
from robot_edge.sources.bag import NANOSECONDS
from robot_edge.sources.frames import Frame, Header
from robot_edge.sources.ros2.node import GraphUnreachable, Node, find_nodes

CLASSIFICATION, HYPOTHESIS = "vision_msgs/msg/Classification", "vision_msgs/msg/ObjectHypothesis"
HEADER, TIME = "std_msgs/msg/Header", "builtin_interfaces/msg/Time"

log = logging.getLogger("robot-edge")

Tell = Callable[[Decision, Frame], None]


@contextmanager
def publishing(topic: str) -> Iterator[Tell]:
    """Within this context publish what is told on a ROS 2 topic; nothing where its name is empty.

    What cannot be published is said once, and is no reason to end. Call what it gives from one thread.
    """
    with ExitStack() as leaving:
        yield _publisher(topic, leaving) if topic else _not_told


def _publisher(topic: str, leaving: ExitStack) -> Tell:
    try:
        node = find_nodes()("reflexarc_predictions")
        leaving.callback(node.close)
        tell = _Publishing(node, topic)
    except ImportError as error:
        why = (
            f"vision_msgs/Classification is missing ({error}): sudo apt-get install ros-DISTRO-vision-msgs, of ROS 2 "
            "Humble or later"
        )
    except (GraphUnreachable, SourceError) as error:
        why = str(error)
    else:
        log.info("publishing predictions on the ROS 2 topic %s", topic)
        return tell
    log.warning("predictions are not published to ROS 2: %s", why)
    return _not_told


def _not_told(decision: Decision, frame: Frame) -> None:
    pass


class _Publishing:
    """Publishes each decision, with the header of the picture it is about, as vision_msgs ask for."""

    def __init__(self, node: Node, topic: str) -> None:
        """Announce a topic. Raises GraphUnreachable, and ImportError without vision_msgs."""
        node.make(HYPOTHESIS, class_id="", score=0.0)  # a message may be missing, too
        self._node, self._publish = node, node.publisher(topic, CLASSIFICATION)
        self._last = float("-inf")
        self._frame: Frame | None = None  # that was told of last, and when it was taken
        self._frame_at = 0.0
        self._is_lost = False

    def __call__(self, decision: Decision, frame: Frame) -> None:
        # The cloud may be asked about a picture while the exit is sure of the next one: then it is no news.
        if decision.taken_at < self._last:
            return
        self._last = decision.taken_at
        stamp, frame_id = self._header(decision, frame)
        seconds, nanoseconds = divmod(stamp, NANOSECONDS)
        named = [(decision.name, decision.confidence)] if decision.name else []
        make = self._node.make
        message = make(
            CLASSIFICATION,
            header=make(HEADER, stamp=make(TIME, sec=seconds, nanosec=nanoseconds), frame_id=frame_id),
            results=[make(HYPOTHESIS, class_id=name, score=float(score)) for name, score in named],
        )
        try:
            self._publish(message)
        except GraphUnreachable as error:
            if not self._is_lost:
                log.warning("a prediction is not published to ROS 2, nor are others without a further word: %s", error)
            self._is_lost = True

    def _header(self, decision: Decision, frame: Frame) -> Header:
        """Return the header of what is decided about: the picture's, or a later one where none came since."""
        if frame is not self._frame:
            self._frame, self._frame_at = frame, decision.taken_at
        stamp, frame_id = frame.header or Header(round(frame.time * NANOSECONDS), "")
        return Header(stamp + round((decision.taken_at - self._frame_at) * NANOSECONDS), frame_id)
