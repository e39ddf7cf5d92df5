"""Against a stand-in for rclpy, which comes with ROS 2 only (docs/sources.md). Real DDS is in test_ros2_dds.py."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from broker.errors import SourceError
from robot_edge.sources.opening import open_source
from tests.robot_edge.sources.streams import frame_of, wait_for

IMAGES = "/camera/image_raw"


class Ros:
    """The part of rclpy that is used, with topics that tests fill."""

    def __init__(self) -> None:
        self.topics: dict[str, str] = {}
        self.callbacks: dict[str, Callable[[Any], None]] = {}
        self.nodes = 0
        self.publish: Callable[[], None] = lambda: None

    def modules(self) -> Iterator[tuple[str, ModuleType]]:
        yield "rclpy", self._module(init=lambda context: None, create_node=lambda name, context: self._open())
        yield "rclpy.context", self._module(Context=lambda: SimpleNamespace(try_shutdown=lambda: None))
        yield "rclpy.executors", self._module(SingleThreadedExecutor=lambda context: self)
        yield "rclpy.qos", self._module(qos_profile_sensor_data="sensor data")
        for package, names in {"sensor_msgs": ["Image", "CompressedImage"], "std_msgs": ["String"]}.items():
            yield package, self._module()
            yield f"{package}.msg", self._module(**{name: f"{package}/msg/{name}" for name in names})

    def spin_once(self, timeout_sec: float) -> None:
        time.sleep(0.01)
        self.publish()

    def get_topic_names_and_types(self) -> list[tuple[str, list[str]]]:
        return [(name, [kind]) for name, kind in self.topics.items()]

    def create_subscription(self, kind: str, topic: str, receive: Callable[[Any], None], quality: object) -> None:
        self.callbacks[topic] = receive

    def add_node(self, node: object) -> None: ...

    def shutdown(self) -> None: ...

    def destroy_node(self) -> None:
        self.nodes -= 1

    def _open(self) -> Ros:
        self.nodes += 1
        return self

    def _module(self, **names: Any) -> ModuleType:
        module = ModuleType("fake")
        module.__dict__.update(names)
        return module


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> Ros:
    ros = Ros()
    for name, module in ros.modules():
        monkeypatch.setitem(sys.modules, name, module)
    return ros


def picture(red: int, encoding: str = "rgb8") -> Any:
    pixels = np.full((4, 6, 3), (red, 0, 0), np.uint8)
    header = SimpleNamespace(stamp=SimpleNamespace(sec=1_764_000_000 + red, nanosec=987_654_321), frame_id="head")
    return SimpleNamespace(
        data=pixels.tobytes(), encoding=encoding, width=6, height=4, step=18, is_bigendian=0, header=header
    )


def test_pictures_come_with_the_last_label(ros: Ros) -> None:
    ros.topics = {IMAGES: "sensor_msgs/msg/Image", "/label": "std_msgs/msg/String"}

    def publish() -> None:
        ros.callbacks["/label"](SimpleNamespace(data="cup"))
        ros.callbacks[IMAGES](picture(200))

    ros.publish = lambda: publish() if IMAGES in ros.callbacks and "/label" in ros.callbacks else None
    with closing(open_source(f"ros2:{IMAGES}", image_size=32)) as source:
        frame = frame_of(source)
        assert frame.image.shape == (4, 6, 3)
        assert frame.image[0, 0].tolist() == [200, 0, 0]
        assert frame.label == "cup"
        assert frame.header == (1_764_000_200_987_654_321, "head")
    assert ros.nodes == 0, "a node is left behind"


def test_a_topic_that_nobody_publishes_is_waited_for(ros: Ros, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robot_edge.sources.ros2.source.DISCOVERY_SECONDS", 0.1)
    ros.topics = {"/other": "std_msgs/msg/String"}
    with closing(open_source(f"ros2:{IMAGES}", image_size=32)) as source:
        wait_for(lambda: "nobody publishes pictures on it; topics: /other" in source.status)
        ros.topics[IMAGES] = "sensor_msgs/msg/Image"
        ros.publish = lambda: ros.callbacks[IMAGES](picture(1)) if IMAGES in ros.callbacks else None
        assert frame_of(source).label is None


def test_an_encoding_that_is_not_known_ends_it(ros: Ros) -> None:
    ros.topics = {IMAGES: "sensor_msgs/msg/Image"}
    ros.publish = lambda: ros.callbacks[IMAGES](picture(1, "bayer_xxxx8")) if IMAGES in ros.callbacks else None
    with closing(open_source(f"ros2:{IMAGES}", image_size=32)) as source, pytest.raises(SourceError, match="bayer"):
        frame_of(source)


def test_pictures_that_cannot_be_read_are_counted(ros: Ros) -> None:
    broken = picture(1)
    broken.step = 1
    shown = [picture(1), broken, picture(1, "bayer_xxxx8"), ValueError("no message"), picture(2)]
    ros.topics = {IMAGES: "sensor_msgs/msg/Image"}
    ros.publish = lambda: ros.callbacks[IMAGES](shown.pop(0)) if IMAGES in ros.callbacks and shown else None
    with closing(open_source(f"ros2:{IMAGES}", image_size=32)) as source:
        assert frame_of(source).image[0, 0, 0] == 1
        assert frame_of(source).image[0, 0, 0] == 2
        assert source.skipped == 3


def test_what_keeps_a_picture_from_being_read_is_said(ros: Ros) -> None:
    broken = picture(1)
    broken.step = 1
    ros.topics = {IMAGES: "sensor_msgs/msg/Image"}
    ros.publish = lambda: ros.callbacks[IMAGES](broken) if IMAGES in ros.callbacks else None
    with closing(open_source(f"ros2:{IMAGES}", image_size=32)) as source:
        wait_for(lambda: "a picture cannot be read: 6 x 4 pixels as rgb8" in source.status)


def test_without_anything_that_speaks_ros_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rclpy", None)
    monkeypatch.setitem(sys.modules, "robot_edge.sources.ros2.dds_node", None)  # as where its own imports fail
    with pytest.raises(SourceError, match=r"reflexarc\[ros2\].*source /opt/ros/DISTRO/setup\.bash"):
        open_source(f"ros2:{IMAGES}", image_size=32)
