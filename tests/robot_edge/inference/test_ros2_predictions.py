"""Against stand-ins for rclpy and its messages (docs/sources.md). Real DDS is in sources/test_ros2_dds.py."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from robot_edge.inference.cascade import Decision
from robot_edge.inference.ros2_predictions import publishing
from robot_edge.run.config import RobotConfig
from robot_edge.sources.frames import Frame, Header


# As in common_interfaces and vision_msgs of Humble and later; as there, other fields and other types are refused.
@dataclass(slots=True)
class Time:
    sec: int = 0
    nanosec: int = 0


@dataclass(slots=True)
class MessageHeader:
    stamp: Time = field(default_factory=Time)
    frame_id: str = ""


@dataclass(slots=True, kw_only=True)
class ObjectHypothesis:
    class_id: str = ""
    score: float = 0.0


@dataclass(slots=True, kw_only=True)
class Classification:
    header: MessageHeader = field(default_factory=MessageHeader)
    results: list[ObjectHypothesis] = field(default_factory=list)

    def check(self) -> None:
        stamp = self.header.stamp
        assert type(stamp.sec) is int
        assert type(stamp.nanosec) is int
        assert -(2**31) <= stamp.sec < 2**31
        assert 0 <= stamp.nanosec < 10**9
        assert type(self.header.frame_id) is str
        for one in self.results:
            assert type(one.class_id) is str
            assert type(one.score) is float


class Ros:
    """The part of rclpy that is used. published: (topic, message) of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.published: list[tuple[str, Classification]] = []
        self.nodes = self.contexts = 0
        modules: dict[str, dict[str, Any]] = {
            "rclpy": {"init": self._init, "create_node": self._create_node},
            "rclpy.context": {"Context": lambda: SimpleNamespace(try_shutdown=self._shutdown)},
            "rclpy.executors": {"SingleThreadedExecutor": lambda context: self},
            "builtin_interfaces.msg": {"Time": Time},
            "std_msgs.msg": {"Header": MessageHeader},
            "vision_msgs": {},
            "vision_msgs.msg": {"Classification": Classification, "ObjectHypothesis": ObjectHypothesis},
        }
        for name, names in modules.items():
            module = ModuleType(name)
            module.__dict__.update(names)
            monkeypatch.setitem(sys.modules, name, module)

    def create_publisher(self, kind: type, topic: str, quality: int) -> Any:
        assert kind is Classification

        def publish(message: Classification) -> None:
            message.check()
            self.published.append((topic, message))

        return SimpleNamespace(publish=publish)

    def add_node(self, node: object) -> None: ...

    def shutdown(self) -> None: ...

    def destroy_node(self) -> None:
        self.nodes -= 1

    def _init(self, *, context: object) -> None:
        self.contexts += 1

    def _shutdown(self) -> None:
        self.contexts -= 1

    def _create_node(self, name: str, *, context: object) -> Ros:
        assert name.replace("_", "").isalnum()
        self.nodes += 1
        return self


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> Ros:
    return Ros(monkeypatch)


def decision(name: str, taken_at: float = 1.0, confidence: float = 0.75) -> Decision:
    return Decision(name=name, confidence=confidence, by="exit", taken_at=taken_at, latency=0.01)


def frame(stamp: int = 1_764_000_000_123_456_789) -> Frame:
    header = Header(stamp, "camera_optical_frame")
    return Frame(image=np.zeros((2, 2, 3), np.uint8), label=None, scene=0, time=5.0, header=header)


def test_a_decision_is_a_classification_with_the_picture_s_header(ros: Ros) -> None:
    with publishing("/reflexarc/r1/prediction") as publish:
        publish(decision("mug"), frame())
        publish(decision("", taken_at=2.0), frame())
    (topic, mug), (_, unknown) = ros.published
    assert topic == "/reflexarc/r1/prediction"
    assert mug.header == MessageHeader(Time(1_764_000_000, 123_456_789), "camera_optical_frame")
    assert mug.results == [ObjectHypothesis(class_id="mug", score=0.75)]
    assert unknown.results == []
    assert (ros.nodes, ros.contexts) == (0, 0), "something is left behind"


def test_a_confidence_of_numpy_is_a_number_to_ros(ros: Ros) -> None:
    with publishing("/p") as publish:
        publish(decision("mug", confidence=np.float64(0.5)), frame())
    assert ros.published[0][1].results[0].score == 0.5


def test_what_is_decided_late_of_an_older_picture_is_no_news(ros: Ros) -> None:
    with publishing("/p") as publish:
        for name, taken_at in (("mug", 1.0), ("star", 3.0), ("late", 2.0), ("mug", 4.0)):
            publish(decision(name, taken_at), frame())
    assert [message.results[0].class_id for _, message in ros.published] == ["mug", "star", "mug"]


def test_without_a_topic_nothing_is_published(ros: Ros, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), publishing("") as publish:
        assert ros.nodes == 0
        publish(decision("mug"), frame())
    assert ros.published == []
    assert caplog.text == ""


def test_a_picture_of_no_ros_topic_has_its_own_time(ros: Ros) -> None:
    with publishing("/p") as publish:
        publish(decision("mug"), Frame(image=np.zeros((2, 2, 3), np.uint8), label=None, scene=0, time=5.25))
    assert ros.published[0][1].header == MessageHeader(Time(5, 250_000_000), "")


@pytest.mark.parametrize("missing", ["package", "message"])
def test_without_vision_msgs_it_says_so_once_and_goes_on(
    ros: Ros, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, missing: str
) -> None:
    if missing == "package":
        monkeypatch.setitem(sys.modules, "vision_msgs", None)
        monkeypatch.delitem(sys.modules, "vision_msgs.msg")
    else:  # as before Humble
        monkeypatch.delattr(sys.modules["vision_msgs.msg"], "Classification")
    with publishing("/p") as publish:
        for _ in range(3):
            publish(decision("mug"), frame())
    (record,) = caplog.records
    assert "apt-get install ros-DISTRO-vision-msgs" in record.getMessage()
    assert ros.nodes == 0


@pytest.mark.parametrize(
    ("robot", "topic"),
    [
        ("r1", "/reflexarc/r1/prediction"),
        ("my-robot", "/reflexarc/my_robot/prediction"),
        ("7", "/reflexarc/robot_7/prediction"),
    ],
)
def test_robots_have_topics_of_their_own(robot: str, topic: str) -> None:
    assert RobotConfig.from_flags(source="ros2:/camera", robot=robot).ros2_topic == topic
    assert RobotConfig.from_flags(source="ros2:/camera", robot=robot, prediction_topic="~/seen").ros2_topic == "~/seen"


def test_other_sources_are_published_where_somebody_names_a_topic() -> None:
    assert RobotConfig.from_flags(source="camera:0", robot="r1").ros2_topic == ""
    assert RobotConfig.from_flags(source="camera:0", robot="r1", prediction_topic="/seen").ros2_topic == "/seen"
