"""Over DDS on the loopback, with drivers and listeners that are processes of their own, in Cyclone's own types."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from select import select
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.errors import SourceError
from robot_edge.inference.cascade import Decision
from robot_edge.inference.ros2_predictions import publishing
from robot_edge.sources.encoded import encode_jpeg
from robot_edge.sources.frames import Frame, Header
from robot_edge.sources.opening import open_source
from robot_edge.sources.settings import SourceOptions
from tests.robot_edge.sources.streams import SECONDS, frame_of, wait_for

pytest.importorskip("cyclonedds", reason="cyclonedds has no wheel for this machine")
from robot_edge.sources.ros2.dds_node import DdsNode, domain_number

PROGRAM = Path(__file__).with_name("ros2_driver.py")
# Ports of higher ones are handed out to anybody's sockets (`ip_local_port_range`).
DOMAINS = 100
LOOPBACK = (
    "<CycloneDDS><Domain><General><Interfaces><NetworkInterface address='127.0.0.1'/></Interfaces><AllowMulticast>false"
    "</AllowMulticast></General><Discovery><ParticipantIndex>auto</ParticipantIndex><Peers><Peer address='127.0.0.1'/>"
    "</Peers></Discovery></Domain></CycloneDDS>"
)


@pytest.fixture(scope="module", autouse=True)
def _graph() -> Iterator[None]:
    """Give this process a domain, whose configuration is read once; on the loopback, in the words of ROS 2."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "rclpy", None)
        patch.setenv("ROS_DOMAIN_ID", str(1 + os.getpid() % DOMAINS))
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield


@contextmanager
def program(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "CYCLONEDDS_URI": LOOPBACK}
    command = [sys.executable, str(PROGRAM), os.environ["ROS_DOMAIN_ID"], *arguments]
    with subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def drivers(_graph: None) -> Iterator[subprocess.Popen[str]]:
    with program("publish") as process:
        yield process


class Driver:
    """A camera's driver, and who says what its pictures show."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        name = secrets.token_hex(4)
        self.images, self.labels = f"/camera_{name}/image_raw", f"/camera_{name}/label"
        self._process = process

    def publish(self, kind: str, topic: str, **fields: Any) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"kind": kind, "topic": topic, **fields}) + "\n")
        self._process.stdin.flush()

    def show(self, pixels: NDArray[np.uint8], encoding: str = "rgb8", *, sec: int = 0, **other: Any) -> None:
        height, width = pixels.shape[:2]
        image = {"height": height, "width": width, "encoding": encoding, "is_bigendian": 0, "step": 0} | other
        data = base64.b64encode(pixels.tobytes()).decode()
        self.publish("image", self.images, sec=sec, nanosec=5, frame_id="head", data=data, **image)


@pytest.fixture
def driver(drivers: subprocess.Popen[str]) -> Driver:
    return Driver(drivers)


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_a_driver_s_pictures_are_seen_as_they_were_published(driver: Driver) -> None:
    shown = [noise(48, 64, seed) for seed in range(5)]
    with closing(open_source(f"ros2:{driver.images}")) as source:
        for number, pixels in enumerate(shown):
            driver.show(pixels, sec=1_764_000_000 + number)
            frame = frame_of(source)
            np.testing.assert_array_equal(frame.image, pixels)
            assert frame.header == Header((1_764_000_000 + number) * 1_000_000_000 + 5, "head")
            assert frame.label is None


def test_a_large_picture_is_put_together_from_its_packets(driver: Driver) -> None:
    pixels = noise(480, 640)
    with closing(open_source(f"ros2:{driver.images}")) as source:
        for _ in range(3):  # best-effort: a full buffer of the kernel may cost one
            driver.show(pixels)
        np.testing.assert_array_equal(frame_of(source).image, pixels)


def test_compressed_pictures(driver: Driver) -> None:
    jpeg = base64.b64encode(encode_jpeg(np.full((16, 24, 3), 200, np.uint8), 95, dense=True)).decode()
    topic = f"{driver.images}/compressed"
    with closing(open_source(f"ros2:{topic}")) as source:
        driver.publish("compressed", topic, sec=1, nanosec=0, frame_id="", format="rgb8; jpeg compressed", data=jpeg)
        image = frame_of(source).image
        assert image.shape == (16, 24, 3)
        assert abs(int(image.mean()) - 200) <= 2


def test_a_topic_that_changes_loses_only_what_cannot_be_read(driver: Driver) -> None:
    wide, grey = noise(20, 40), noise(8, 8)[:, :, 0]
    with closing(open_source(f"ros2:{driver.images}")) as source:
        driver.show(noise(48, 64))
        assert frame_of(source).image.shape == (48, 64, 3)
        driver.show(wide[:, :, ::-1], "bgr8")  # another size, and another order
        np.testing.assert_array_equal(frame_of(source).image, wide)
        driver.show(noise(4, 4), "bayer_xxxx8")  # an encoding that nobody knows
        wait_for(lambda: source.skipped == 1)
        assert "bayer_xxxx8" in source.status
        driver.show(noise(4, 4), width=1_000)  # more than it has
        wait_for(lambda: source.skipped == 2)
        driver.show(noise(4, 4), width=2**31, height=2**31)
        wait_for(lambda: source.skipped == 3)
        driver.show(grey, "mono8")
        np.testing.assert_array_equal(frame_of(source).image[:, :, 1], grey)
        assert source.status == ""
        assert source.reconnects == 0


def test_an_encoding_that_is_not_known_from_the_beginning_is_an_error(driver: Driver) -> None:
    with closing(open_source(f"ros2:{driver.images}")) as source:
        driver.show(noise(4, 4), "bayer_xxxx8")
        with pytest.raises(SourceError, match="bayer_xxxx8"):
            frame_of(source)


def test_a_name_from_before_is_the_label(driver: Driver) -> None:
    driver.publish("label", driver.labels, data="cup")
    wait_until_published(driver.labels)
    with closing(open_source(f"ros2:{driver.images}", SourceOptions(label_topic=driver.labels))) as source:
        frame = None
        for _ in range(100):  # the label is sent again when it is asked for, and pictures are not
            driver.show(noise(4, 4))
            frame = frame_of(source)
            if frame.label:
                break
        assert frame
        assert frame.label == "cup"


def test_nodes_of_several_threads_share_a_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(1 + (os.getpid() + DOMAINS // 2) % DOMAINS))  # none has entered it so far
    together = Barrier(4)

    def enter(name: str) -> DdsNode:
        together.wait(SECONDS)
        return DdsNode(name)

    with ThreadPoolExecutor(4) as threads:
        nodes = list(threads.map(enter, "abcd"))
    try:
        topics = {f"/{name}/seen" for name in "abcd"}
        kept = [node.publisher("~/seen", "std_msgs/msg/String") for node in nodes]
        assert len(kept) == 4
        for node in nodes:
            wait_for(lambda node=node: topics <= node.topics().keys())  # type: ignore[misc]
    finally:
        for node in nodes:
            node.close()


def wait_until_published(topic: str) -> None:
    node = DdsNode("test")
    try:
        wait_for(lambda: topic in node.topics())
    finally:
        node.close()


def test_what_is_seen_is_read_by_another_process() -> None:
    topic = f"/reflexarc/r_{secrets.token_hex(4)}/prediction"
    header = Header(1_764_000_000_123_456_789, "head")
    frame = Frame(image=noise(2, 2), label=None, scene=0, time=5.0, header=header)
    told = 0
    with program("listen", topic) as listener, publishing(topic) as tell:
        assert listener.stdout
        assert listener.stdout.readline() == "ready\n"
        while not select([listener.stdout], [], [], 0.05)[0]:  # it hears of what is published once both have met
            assert told < SECONDS / 0.05, "nothing came"
            tell(Decision(name="mug", confidence=np.float64(0.75), by="exit", taken_at=1.0, latency=0.01), frame)
            told += 1
        assert json.loads(listener.stdout.readline()) == [1_764_000_000, 123_456_789, "head", [["mug", 0.75]]]
        unknown = Frame(image=noise(2, 2), label=None, scene=0, time=5.5)  # of a source that is none of ROS
        tell(Decision(name="", confidence=0.0, by="exit", taken_at=2.0, latency=0.01), unknown)
        lines = iter(listener.stdout.readline, "")
        assert [5, 500_000_000, "", []] in (json.loads(line) for line in lines)


@pytest.mark.parametrize("text", ["233", "-1", "one", "9" * 50])
def test_a_domain_that_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", text)
    with pytest.raises(SourceError, match="ROS_DOMAIN_ID"):
        domain_number()
