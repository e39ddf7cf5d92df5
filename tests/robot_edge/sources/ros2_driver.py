"""A camera's driver, or a listener, as a process of its own: Cyclone DDS by hand, with nothing of what is tested.

python ros2_driver.py DOMAIN publish: reads messages from its input, one JSON object a line, and publishes each when
its topic has a reader. python ros2_driver.py DOMAIN listen TOPIC: prints the Classification messages on a topic.
"""

# mypy: ignore-errors
# Cyclone reads annotations as types, so they may not be postponed.
import base64
import json
import sys
import time
from dataclasses import dataclass
from typing import Any

from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import IdlStruct
from cyclonedds.idl.types import float64, int32, sequence, uint8, uint32
from cyclonedds.pub import DataWriter
from cyclonedds.qos import Policy, Qos
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration


@dataclass
class Time(IdlStruct, typename="builtin_interfaces::msg::dds_::Time_"):
    sec: int32
    nanosec: uint32


@dataclass
class Header(IdlStruct, typename="std_msgs::msg::dds_::Header_"):
    stamp: Time
    frame_id: str


@dataclass
class String(IdlStruct, typename="std_msgs::msg::dds_::String_"):
    data: str


@dataclass
class Image(IdlStruct, typename="sensor_msgs::msg::dds_::Image_"):
    header: Header
    height: uint32
    width: uint32
    encoding: str
    is_bigendian: uint8
    step: uint32
    data: sequence[uint8]


@dataclass
class CompressedImage(IdlStruct, typename="sensor_msgs::msg::dds_::CompressedImage_"):
    header: Header
    format: str
    data: sequence[uint8]


@dataclass
class ObjectHypothesis(IdlStruct, typename="vision_msgs::msg::dds_::ObjectHypothesis_"):
    class_id: str
    score: float64


@dataclass
class Classification(IdlStruct, typename="vision_msgs::msg::dds_::Classification_"):
    header: Header
    results: sequence[ObjectHypothesis]


# As drivers publish pictures; as `ros2 topic pub --qos-durability transient_local` publishes names.
CAMERA = Qos(Policy.Reliability.BestEffort, Policy.Durability.Volatile, Policy.History.KeepLast(5))
LABELS = Qos(Policy.Reliability.Reliable(duration(seconds=1)), Policy.Durability.TransientLocal)
KINDS = {"image": (Image, CAMERA), "compressed": (CompressedImage, CAMERA), "label": (String, LABELS)}


def publish() -> None:
    participant = DomainParticipant(int(sys.argv[1]))
    writers: dict[str, Any] = {}
    for line in sys.stdin:
        message = json.loads(line)
        topic, (kind, quality) = message.pop("topic"), KINDS[message.pop("kind")]
        if topic not in writers:
            writers[topic] = DataWriter(participant, Topic(participant, f"rt{topic}", kind, quality), quality)
        while kind is not String and not writers[topic].get_matched_subscriptions():
            time.sleep(0.01)
        if "sec" in message:
            message["header"] = Header(Time(message.pop("sec"), message.pop("nanosec")), message.pop("frame_id"))
            message["data"] = base64.b64decode(message["data"])
        writers[topic].write(kind(**message))


def listen(topic: str) -> None:
    participant = DomainParticipant(int(sys.argv[1]))
    kind = Topic(participant, f"rt{topic}", Classification)
    reader = DataReader(participant, kind, Qos(Policy.Reliability.Reliable(duration(seconds=1))))
    print("ready", flush=True)
    for message in reader.take_iter(timeout=duration(seconds=60)):
        stamp = message.header.stamp
        results = [[one.class_id, one.score] for one in message.results]
        print(json.dumps([stamp.sec, stamp.nanosec, message.header.frame_id, results]), flush=True)


if __name__ == "__main__":
    if sys.argv[2] == "publish":
        publish()
    else:
        listen(sys.argv[3])
